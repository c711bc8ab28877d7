\restrict abcDEF123
SELECT 1;
\unrestrict abcDEF123
SELECT 2;
