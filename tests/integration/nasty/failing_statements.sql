SELEC 1;
SELECT * FROM nowhere;
not sql at all, see wiki;
SELECT 1/0;
SELECT 1;
