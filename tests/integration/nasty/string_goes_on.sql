SELECT 'a;'
'b;'
  -- comment; 'x
  'c;';
SELECT 'a' -- it's
  'b';
SELECT 1;
