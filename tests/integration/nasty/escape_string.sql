SELECT E'a\';b', e'\\', E'\'\'';
SELECT E'it''s \n;' , E'\047;\x27;\u0027;';
SELECT E'';
SELECT E'\\';
