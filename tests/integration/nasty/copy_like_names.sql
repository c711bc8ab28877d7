CREATE TABLE copy_t (a text);
INSERT INTO copy_t SELECT 'copy copy_t from stdin;';
SELECT a AS copy FROM copy_t;
SELECT 'x' AS "from", 'y' AS stdin;
