CREATE TABLE cf (a text);
SELECT 1;
COPY cf FROM stdin;
SELECT 2;
last line;
