SELECT $$$$;SELECT $a$$a$;
SELECT $a$ $b$a$; $a$ $a$;
SELECT $$;$$;$$;$$;
SELECT 1;
