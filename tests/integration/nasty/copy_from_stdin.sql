CREATE TABLE cp (a int, b text);
COPY cp FROM stdin;
1	it's; -- not a comment
2	$$ /* \\ "
3	SELECT 1;
\.
SELECT count(*) FROM cp;
COPY cp (a, b) FROM STDIN WITH (FORMAT csv, DELIMITER ';', QUOTE '"');
4;"x;
y"
\.
COPY public.cp(a) FROM stdin WHERE a > 1;
5
\.
SELECT * FROM cp;
