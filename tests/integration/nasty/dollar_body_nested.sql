CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $body$
BEGIN
  EXECUTE $q$ SELECT 1; $q$;
  RETURN $$it's; $$ || 'x;';
END;
$body$;
SELECT f();
