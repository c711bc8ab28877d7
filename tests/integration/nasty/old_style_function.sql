CREATE FUNCTION o1() RETURNS int LANGUAGE plpgsql AS '
BEGIN
  RETURN length(''it;''''s'');
END;
';
SELECT o1();
CREATE FUNCTION o2() RETURNS text LANGUAGE sql AS E'SELECT \'a;\\\\\'::text;';
SELECT o2();
