CREATE DOMAIN email AS text CHECK (VALUE ~ '^[^@\s;]+@[^@\s]+\.[a-z]{2,}$');
SELECT 'a@b.c' ~ E'^\\w+@;', regexp_replace('a', '(\\;)', '\1');
SELECT 'a\b' LIKE '%\\%' ESCAPE '\';
SELECT 1;
