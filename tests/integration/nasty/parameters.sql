PREPARE p AS SELECT $1::int, $2::text;
EXECUTE p(1, 'x;');
SELECT $1$$;$$;
SELECT $1a$b$;
SELECT $1E'x\';
SELECT 2;
SELECT $x ;
SELECT $ 1;
