SELECT B'0101', b'1', X'1F;', x'ff';
SELECT B'01'
'10', X'1'
  'F';
SELECT B'1;''a;';
SELECT x'1;'';', 2;
