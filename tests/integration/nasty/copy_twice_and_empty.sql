CREATE TABLE ce (a text);
COPY ce FROM stdin;
\.
COPY ce FROM stdin; -- a comment is fine
;

--
\.
COPY
  ce /* c */ (a)
  FROM -- from
  stdin
;
x
\.
SELECT 1;
