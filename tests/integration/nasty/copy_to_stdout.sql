COPY (SELECT 1; ) TO stdout;
COPY (SELECT 'from stdin;') TO STDOUT;
CREATE TABLE "from" (stdin int);
COPY "from" TO stdout;
COPY (SELECT stdin FROM "from") TO stdout WITH (FORMAT csv);
SELECT 1;
