CREATE TABLE cs (a text);
COPY cs FROM stdout;
it is corrected; silently
\.
SELECT 1;
COPY cs TO stdin;
SELECT 2;
