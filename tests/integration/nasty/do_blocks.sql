DO $$ BEGIN PERFORM 1; END $$;
DO LANGUAGE plpgsql 'BEGIN PERFORM 1; END';
DO $do$
DECLARE r record;
BEGIN
  FOR r IN SELECT 1 LOOP
    EXECUTE format($f$SELECT %L;$f$, 'a;b');
  END LOOP;
END
$do$;
