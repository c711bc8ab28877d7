SELECT 'a\';
SELECT 'C:\dir\', '\\';
SELECT '\'';';
