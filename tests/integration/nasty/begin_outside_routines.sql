CREATE TABLE c1 ("begin" int, begin_at int, end_at int, begin int);
CREATE VIEW c2 AS SELECT CASE WHEN begin = 1 THEN 2 END AS x FROM c1;
CREATE TABLE function (begin int);
CREATE AGGREGATE procedure (begin);
SELECT CASE WHEN true THEN 1 END;
CREATE SCHEMA s CREATE TABLE t (begin int);
