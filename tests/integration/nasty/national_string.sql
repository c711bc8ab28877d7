SELECT N'a;b', n'it''s;';
SELECT N'a\';
