SELECT '{"a": "b;\"c", "d": [1, {"e": "''"}]}'::jsonb;
SELECT jsonb_path_query('{"a":[1,2]}', '$.a[*] ? (@ > 1)');
SELECT $${"x": "$1;"}$$::json -> 'x';
