SELECT '1'::int, '2'::text::int, (array[1,2,3])[1:2], (array[1,2])[:1];
SELECT 1::integer;
DO $$ DECLARE a int := 1; BEGIN a := 2; END $$;
SELECT a.b.c, a . b FROM x;
SELECT f(a => 1, b := 2);
CREATE FUNCTION z(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT (array[1,2])[1:a]; END;
SELECT 1;
