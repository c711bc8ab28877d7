SELECT E'a\';'
  'b;';
SELECT E'c'

  'd;' AS x;
SELECT 2;
