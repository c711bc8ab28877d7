SELECT :nobody, ':nobody', ":nobody";
SELECT x:nobody;
SELECT :'nobody;
';
SELECT :"nobody;
";
SELECT :a$b$;$b$;
CREATE FUNCTION v() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT (array[1])[1:end]; END;
SELECT 2;
