SELECT 'it''s; ok', '''', '''''', '', 'a''''b;';
SELECT '''; SELECT ''';
