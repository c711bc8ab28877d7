SELECT 'a'"b" FROM (SELECT 1) x("b");SELECT $$a$$'b;'$c$;$c$;SELECT E'\''';';SELECT 'a''b'';';
SELECT 'E'';',E';',e';\'';
SELECT 2;
