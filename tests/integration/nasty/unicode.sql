SELECT 'größe; 🎉', "naïve;" FROM (SELECT 1 AS "naïve;") x;
SELECT 1 AS größe, 2 AS 列, 3 AS 🎉;
SELECT $größe$a;b$größe$;
SELECT 1 AS x y;
SELECT 1 AS éE'a\';
SELECT 2;
