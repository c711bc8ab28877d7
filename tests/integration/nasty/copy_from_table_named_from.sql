CREATE SCHEMA "copy";
CREATE TABLE copy.from (stdin text);
COPY copy.from FROM stdin;
SELECT 1;
\.
COPY copy.from (stdin) FROM stdin (FORMAT text);
;
\.
SELECT 2;
