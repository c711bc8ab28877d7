"""Rows and further objects for ``schema_of_everything``, and for each kind a query that tells it and a change it tells."""

from __future__ import annotations

from tests.integration.schema_of_everything import FIXTURE

FILLED: tuple[str, ...] = (
    FIXTURE,
    # Apart, since new labels cannot be used in the transaction that adds them.
    "ALTER TYPE mood ADD VALUE 'so-so' BEFORE 'ok'; ALTER TYPE mood ADD VALUE 'between' BEFORE 'so-so'",
    r"""
CREATE SCHEMA hall AUTHORIZATION catalog_owner;
CREATE EXTENSION citext SCHEMA hall;

CREATE SEQUENCE hall.odd AS smallint INCREMENT 2 MAXVALUE 99 CYCLE; SELECT setval('hall.odd', 41);
CREATE SEQUENCE hall.unused START 7; SELECT setval('hall.unused', 70, false);
CREATE SEQUENCE hall.down INCREMENT -5 MINVALUE -100; SELECT nextval('hall.down'), nextval('hall.down');
CREATE UNLOGGED SEQUENCE hall.fleeting; SELECT nextval('hall.fleeting'), nextval('hall.fleeting');

CREATE DOMAIN hall.short AS email NOT NULL DEFAULT 'a@b' CONSTRAINT is_short CHECK (length(VALUE) < 9);
CREATE TABLE hall.visits (who hall.citext, mail hall.short, mood mood, spans span[], home address, extra hstore);
INSERT INTO hall.visits VALUES ('Zoë', 'z@x', 'between', '{"[1,2.5)"}', ('Main', '1'), 'a=>1, b=>NULL'),
  ('', 'a@bcdef', 'sad', NULL, NULL, NULL);
ALTER DOMAIN hall.short ADD CONSTRAINT no_z CHECK (VALUE !~ 'z') NOT VALID;

CREATE TABLE hall.accounts (id bigint GENERATED ALWAYS AS IDENTITY (START 1000 INCREMENT 10) PRIMARY KEY,
  amount numeric(12, 2) NOT NULL, twice numeric GENERATED ALWAYS AS (amount * 2) STORED, owner name, at timestamptz);
INSERT INTO hall.accounts (amount, owner, at)
  SELECT g - 3, 'catalog_reader', '2026-01-02 03:04:05.678901+00'::timestamptz + g * interval '1 day' FROM generate_series(1, 50) g;
CREATE TABLE hall.bookings (account bigint, mood mood); INSERT INTO hall.bookings VALUES (1000, 'ok'), (4, 'happy');
ALTER TABLE hall.accounts ADD CONSTRAINT positive CHECK (amount > 0) NOT VALID;
ALTER TABLE hall.bookings ADD CONSTRAINT known FOREIGN KEY (account) REFERENCES hall.accounts NOT VALID;
ALTER TABLE hall.accounts ENABLE ROW LEVEL SECURITY; ALTER TABLE hall.accounts FORCE ROW LEVEL SECURITY;
ALTER TABLE hall.bookings FORCE ROW LEVEL SECURITY;
CREATE POLICY mine ON hall.accounts USING (owner = current_user) WITH CHECK (amount < 1000);
CREATE POLICY never ON hall.accounts AS RESTRICTIVE FOR DELETE TO catalog_reader, catalog_owner USING (false);
CREATE STATISTICS hall.several (ndistinct, mcv) ON amount, owner FROM hall.accounts;
CREATE STATISTICS hall.of_expression ON (amount % 10), (lower(owner::text)) FROM hall.accounts;
ALTER STATISTICS hall.several SET STATISTICS 321;

CREATE TABLE hall.readings (id int, kind text, value float8) PARTITION BY LIST (kind);
CREATE TABLE hall.readings_hot PARTITION OF hall.readings FOR VALUES IN ('hot', NULL) PARTITION BY HASH (id);
CREATE TABLE hall.readings_hot_0 PARTITION OF hall.readings_hot FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hall.readings_hot_1 (value float8, id int, kind text);
ALTER TABLE hall.readings_hot ATTACH PARTITION hall.readings_hot_1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE UNLOGGED TABLE hall.readings_rest PARTITION OF hall.readings DEFAULT;
INSERT INTO hall.readings SELECT g, (ARRAY['hot', 'cold', NULL])[1 + g % 3], sqrt(g) FROM generate_series(1, 300) g;
INSERT INTO orders VALUES (1, 1, '2025-05-05'), (2, 2, '2025-12-31'); INSERT INTO notes VALUES (1, '2025-05-05'), (NULL, NULL);
INSERT INTO shop."Odd Table" VALUES (1, 'x"y', 99); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 3);

CREATE UNLOGGED TABLE hall.quick (id int PRIMARY KEY, v text); INSERT INTO hall.quick VALUES (1, 'kept'), (2, NULL);
CREATE TABLE hall.bulky (id int PRIMARY KEY, plain text, packed text COMPRESSION pglz, raw bytea, doc jsonb);
ALTER TABLE hall.bulky ALTER plain SET STORAGE EXTERNAL, ALTER raw SET STORAGE EXTENDED, ALTER doc SET STORAGE MAIN;
INSERT INTO hall.bulky SELECT g, t, repeat(t, 20), decode(t, 'hex'), jsonb_build_object('n', g, 't', t) FROM generate_series(1, 12) g,
  LATERAL (SELECT string_agg(md5(g || ' ' || n), '' ORDER BY n) AS t FROM generate_series(1, 4000) n) made;

CREATE TRIGGER quiet BEFORE INSERT ON hall.accounts FOR EACH ROW EXECUTE FUNCTION noticed(); ALTER TABLE hall.accounts DISABLE TRIGGER quiet;
CREATE TRIGGER replaying AFTER UPDATE ON hall.accounts FOR EACH ROW EXECUTE FUNCTION noticed(); ALTER TABLE hall.accounts ENABLE REPLICA TRIGGER replaying;
CREATE TRIGGER always AFTER DELETE ON hall.accounts FOR EACH ROW EXECUTE FUNCTION noticed(); ALTER TABLE hall.accounts ENABLE ALWAYS TRIGGER always;
ALTER TABLE orders_2025 DISABLE TRIGGER noticing;
CREATE RULE unused AS ON UPDATE TO parent DO ALSO NOTHING; ALTER TABLE parent DISABLE RULE unused;
CREATE EVENT TRIGGER guarding ON sql_drop EXECUTE FUNCTION on_ddl(); ALTER EVENT TRIGGER guarding ENABLE ALWAYS;
CREATE EVENT TRIGGER elsewhere ON ddl_command_start EXECUTE FUNCTION on_ddl(); ALTER EVENT TRIGGER elsewhere ENABLE REPLICA;

SELECT lo_from_bytea(70001, '\x00ff10'), lo_create(70002), lo_from_bytea(70003, decode(repeat('deadbeef', 60000), 'hex'));
SELECT lo_put(70002, 300000, 'after a hole'); ALTER LARGE OBJECT 70003 OWNER TO catalog_owner;
GRANT SELECT, UPDATE ON LARGE OBJECT 70001 TO catalog_reader;

CREATE SERVER near FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '/nowhere', dbname 'x y');
CREATE USER MAPPING FOR PUBLIC SERVER near OPTIONS (user 'O''Brien', password 'hidden3');
CREATE FOREIGN TABLE hall.remote (id int OPTIONS (column_name 'ID') NOT NULL, v text COLLATE swedish, CHECK (id > 0))
  SERVER near OPTIONS (schema_name 'odd "schema"', table_name 'o''table', fetch_size '77');
GRANT USAGE ON FOREIGN SERVER near TO catalog_reader;
CREATE PUBLICATION whole FOR ALL TABLES WITH (publish = 'insert', publish_via_partition_root = true);

CREATE SUBSCRIPTION from_elsewhere CONNECTION 'host=/nowhere dbname=x' PUBLICATION a, "B" WITH (connect = false, slot_name = 'kept');

CREATE FUNCTION hall.hidden(int DEFAULT 7) RETURNS int LANGUAGE plpgsql SECURITY DEFINER STRICT PARALLEL SAFE COST 7
  SET work_mem = '9MB' AS $$BEGIN RETURN $1; -- nothing
END$$;
REVOKE ALL ON FUNCTION hall.hidden(int) FROM PUBLIC; GRANT EXECUTE ON FUNCTION hall.hidden(int) TO catalog_reader;
CREATE VIEW hall.invoked WITH (security_invoker) AS SELECT id, amount FROM hall.accounts; GRANT SELECT ON hall.invoked TO PUBLIC;
CREATE MATERIALIZED VIEW hall.sums AS SELECT kind, count(*), sum(value)::numeric(9, 3) FROM hall.readings GROUP BY kind;
CREATE UNIQUE INDEX ON hall.sums (kind); CREATE MATERIALIZED VIEW hall.never AS SELECT 1 AS one WITH NO DATA;
CREATE INDEX ON hall.readings (value) WHERE kind IS NOT NULL; CREATE INDEX by_doc ON hall.bulky USING gin (doc);
ALTER TABLE hall.accounts CLUSTER ON accounts_pkey; ALTER TABLE hall.quick REPLICA IDENTITY FULL;
ALTER TABLE hall.accounts ALTER amount SET STATISTICS 77, ALTER amount SET (n_distinct = 5), SET (fillfactor = 55);
REFRESH MATERIALIZED VIEW counted;

ALTER DEFAULT PRIVILEGES FOR ROLE catalog_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA hall GRANT ALL ON SEQUENCES TO catalog_reader WITH GRANT OPTION;
GRANT SELECT, INSERT ON hall.accounts TO catalog_reader WITH GRANT OPTION; GRANT USAGE ON SEQUENCE hall.odd TO PUBLIC;
GRANT UPDATE (amount), REFERENCES (id) ON hall.accounts TO catalog_owner; REVOKE USAGE ON TYPE mood FROM PUBLIC;
REVOKE CREATE, USAGE ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA hall TO catalog_reader;
ALTER TABLE hall.quick OWNER TO catalog_owner; ALTER SEQUENCE hall.unused OWNER TO catalog_owner;
GRANT SELECT ON hall.readings TO catalog_reader; ALTER MATERIALIZED VIEW hall.sums OWNER TO catalog_reader; ALTER FUNCTION hall.hidden(int) OWNER TO catalog_reader;
ALTER TYPE mood OWNER TO catalog_owner; ALTER STATISTICS hall.several OWNER TO catalog_owner; ALTER SERVER far OWNER TO catalog_owner;
ALTER PUBLICATION outside OWNER TO catalog_owner; ALTER COLLATION swedish OWNER TO catalog_reader;

COMMENT ON SCHEMA hall IS E'two\nlines'; COMMENT ON SEQUENCE hall.odd IS 'odd'; COMMENT ON INDEX by_name IS 'names';
COMMENT ON TRIGGER quiet ON hall.accounts IS 'sleeps'; COMMENT ON POLICY mine ON hall.accounts IS 'mine';
COMMENT ON CONSTRAINT positive ON hall.accounts IS 'later'; COMMENT ON CONSTRAINT is_short ON DOMAIN hall.short IS 'so short';
COMMENT ON DOMAIN hall.short IS 'short'; COMMENT ON TYPE mood IS 'moods'; COMMENT ON LARGE OBJECT 70001 IS 'three bytes';
COMMENT ON EVENT TRIGGER guarding IS 'guards'; COMMENT ON EXTENSION hstore IS 'ours'; COMMENT ON STATISTICS hall.several IS 'both';
COMMENT ON PUBLICATION whole IS 'all'; COMMENT ON FUNCTION hall.hidden(int) IS 'hides'; COMMENT ON MATERIALIZED VIEW hall.sums IS 'Σ';
COMMENT ON FOREIGN TABLE hall.remote IS 'far away'; COMMENT ON SERVER near IS 'near'; COMMENT ON COLLATION swedish IS 'å';
""",
)
"""Scripts, each for a transaction of its own."""

# By the first version that knows it.
NEWER = {
    16: "ALTER TABLE hall.bulky ALTER id SET STORAGE DEFAULT; GRANT CREATE ON SCHEMA hall TO pg_use_reserved_connections",
    17: "CREATE FUNCTION hall.maintained() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
    "CREATE EVENT TRIGGER entry ON login EXECUTE FUNCTION hall.maintained(); ALTER EVENT TRIGGER entry DISABLE;"
    "GRANT MAINTAIN ON hall.accounts TO catalog_owner",
    18: "CREATE EXTENSION btree_gist;"
    "CREATE TABLE hall.rooms (id int, during daterange, n int, virtual int GENERATED ALWAYS AS (n + 1) VIRTUAL,"
    " PRIMARY KEY (id, during WITHOUT OVERLAPS), CONSTRAINT unenforced CHECK (n > 0) NOT ENFORCED);"
    "INSERT INTO hall.rooms (id, during, n) VALUES (1, '[2026-01-01,2026-02-01)', -5), (1, '[2026-02-01,2026-03-01)', NULL);"
    "ALTER TABLE hall.rooms ADD CONSTRAINT n_is_there NOT NULL n NOT VALID",
}

OF_THE_DATABASE = """
ALTER DATABASE {0} SET work_mem = '7MB'; ALTER ROLE catalog_reader IN DATABASE {0} SET search_path = hall, "$user";
ALTER DATABASE {0} CONNECTION LIMIT 33; COMMENT ON DATABASE {0} IS 'everything';
REVOKE TEMPORARY ON DATABASE {0} FROM PUBLIC; GRANT CREATE ON DATABASE {0} TO catalog_owner"""

# Contents of a relation, and where a sequence is.
HELPERS = """
SET search_path = ''; SET timezone = 'UTC';
CREATE FUNCTION pg_temp.digest(relation regclass, OUT told text) LANGUAGE plpgsql AS $$BEGIN
  EXECUTE format('SELECT count(*) || '' '' || coalesce(md5(string_agg(md5(t::text), '''' ORDER BY md5(t::text))), '''') FROM ONLY %s t', relation)
  INTO told; END$$;
CREATE FUNCTION pg_temp.place(relation regclass, OUT told text) LANGUAGE plpgsql AS $$BEGIN
  EXECUTE format('SELECT last_value || '' '' || is_called FROM %s', relation) INTO told; END$$;
-- A restore prints casts and parentheses of the same expression in another way.
CREATE FUNCTION pg_temp.bare(definition text) RETURNS text LANGUAGE sql AS $$
  SELECT pg_catalog.regexp_replace(definition, '[() ]|::(text|character varying)(\\[\\])?', '', 'g')$$
""".replace("\\\\", "\\")

_OURS = "oid >= 16384 AND relnamespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_')"
_ACLS = " UNION ALL ".join(
    f"SELECT '{catalog.replace('_metadata', '')}'::regclass, oid, 0, coalesce({acl}, acldefault({kind}, {owner})) FROM {catalog} WHERE {where}"
    for catalog, acl, kind, owner, where in (
        (
            "pg_class",
            "relacl",
            "CASE relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r' END",
            "relowner",
            f"{_OURS} AND relkind <> 'i'",
        ),
        ("pg_proc", "proacl", "'f'", "proowner", "oid >= 16384 AND pronamespace <> pg_my_temp_schema()"),
        ("pg_type", "typacl", "'T'", "typowner", "oid >= 16384 AND typtype IN ('d', 'e', 'r')"),
        ("pg_namespace", "nspacl", "'n'", "nspowner", "nspname !~ '^pg_'"),
        ("pg_largeobject_metadata", "lomacl", "'L'", "lomowner", "true"),
        ("pg_foreign_server", "srvacl", "'S'", "srvowner", "true"),
        ("pg_foreign_data_wrapper", "fdwacl", "'F'", "fdwowner", "true"),
    )
)


def _sorted(options: str) -> str:
    """Options have no order that means anything, and pg_dump sorts them."""
    return f"ARRAY(SELECT unnest({options}) ORDER BY 1)"


# Kind: rows that must be there and equal, and a change in the copy that they must show.
KINDS: dict[str, tuple[str, str]] = {
    "partitions": (
        "SELECT c.oid::regclass, inhparent::regclass, pg_get_expr(relpartbound, c.oid), pg_get_partkeydef(c.oid) FROM pg_class c"
        " LEFT JOIN pg_inherits ON inhrelid = c.oid WHERE relkind IN ('r', 'p') AND (relispartition OR relkind = 'p')",
        "ALTER TABLE hall.readings DETACH PARTITION hall.readings_rest",
    ),
    "identity": (
        "SELECT attrelid::regclass, attname, attidentity FROM pg_attribute WHERE attidentity <> ''",
        "ALTER TABLE hall.accounts ALTER id SET GENERATED BY DEFAULT",
    ),
    "sequences": (
        "SELECT seqrelid::regclass, seqtypid::regtype, seqstart, seqincrement, seqmin, seqmax, seqcache, seqcycle,"
        " pg_temp.place(seqrelid), (SELECT refobjid::regclass || ' ' || refobjsubid FROM pg_depend WHERE objid = seqrelid AND"
        " classid = 'pg_class'::regclass AND deptype IN ('a', 'i')) FROM pg_sequence",
        "ALTER SEQUENCE hall.odd RESTART 41",
    ),
    "materialized views": (
        "SELECT oid::regclass, relispopulated, pg_get_viewdef(oid), CASE WHEN relispopulated THEN pg_temp.digest(oid) END"
        " FROM pg_class WHERE relkind = 'm'",
        "DELETE FROM hall.readings WHERE id = 1; REFRESH MATERIALIZED VIEW hall.sums",
    ),
    "row-level security, forced and not": (
        f"SELECT oid::regclass, relrowsecurity, relforcerowsecurity FROM pg_class WHERE {_OURS} AND relkind IN ('r', 'p')",
        "ALTER TABLE hall.accounts NO FORCE ROW LEVEL SECURITY",
    ),
    "policies": ("SELECT * FROM pg_policies", "ALTER POLICY never ON hall.accounts TO catalog_owner"),
    "default privileges": (
        "SELECT defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype, grantee::regrole, privilege_type, is_grantable"
        " FROM pg_default_acl, aclexplode(defaclacl)",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA hall REVOKE GRANT OPTION FOR USAGE ON SEQUENCES FROM catalog_reader",
    ),
    "grants": (
        "SELECT pg_describe_object(class, oid, column_number), grantor::regrole, grantee::regrole, privilege_type, is_grantable"
        f" FROM ({_ACLS}) AS o (class, oid, column_number, acl), aclexplode(acl)",
        "REVOKE GRANT OPTION FOR INSERT ON hall.accounts FROM catalog_reader",
    ),
    "grants on columns": (
        "SELECT attrelid::regclass, attname, grantor::regrole, grantee::regrole, privilege_type, is_grantable"
        " FROM pg_attribute, aclexplode(attacl) WHERE attrelid >= 16384",
        "REVOKE UPDATE (amount) ON hall.accounts FROM catalog_owner",
    ),
    "owners": (
        "SELECT pg_describe_object(classid, objid, objsubid), refobjid::regrole FROM pg_shdepend WHERE deptype = 'o'"
        " AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
        "ALTER TABLE hall.quick OWNER TO catalog_reader",
    ),
    "comments": (
        "SELECT pg_describe_object(classoid, objoid, objsubid), description FROM pg_description WHERE objoid >= 16384",
        "COMMENT ON TRIGGER quiet ON hall.accounts IS 'awake'",
    ),
    "large objects": (
        "SELECT oid, lomowner::regrole, length(lo_get(oid)), md5(lo_get(oid)) FROM pg_largeobject_metadata",
        "SELECT lo_put(70003, 200000, '\\x00')",
    ),
    "extensions": (
        "SELECT extname, extversion, extnamespace::regnamespace FROM pg_extension",
        "ALTER EXTENSION hstore SET SCHEMA hall",
    ),
    "event triggers": (
        "SELECT evtname, evtevent, evtenabled, evttags, evtfoid::regprocedure FROM pg_event_trigger",
        "ALTER EVENT TRIGGER watching ENABLE",
    ),
    "statistics objects": (
        "SELECT pg_get_statisticsobjdef(oid), stxstattarget FROM pg_statistic_ext",
        "ALTER STATISTICS hall.several SET STATISTICS 322",
    ),
    "constraints, valid and not": (
        "SELECT conname, conrelid::regclass, contypid::regtype, contype, convalidated, condeferrable, coninhcount, conislocal,"
        " pg_temp.bare(pg_get_constraintdef(oid)) FROM pg_constraint WHERE oid >= 16384",
        "DELETE FROM hall.bookings WHERE account = 4; ALTER TABLE hall.bookings VALIDATE CONSTRAINT known",
    ),
    "generated columns": (
        "SELECT adrelid::regclass, attname, attgenerated, pg_get_expr(adbin, adrelid) FROM pg_attrdef"
        " JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum WHERE attgenerated <> ''",
        "ALTER TABLE hall.accounts ALTER twice DROP EXPRESSION",
    ),
    "domains": (
        "SELECT oid::regtype, typbasetype::regtype, typnotnull, typdefault, typcollation::regcollation, (SELECT array_agg(conname || ' '"
        " || convalidated || pg_get_constraintdef(c.oid) ORDER BY conname) FROM pg_constraint c WHERE contypid = t.oid)"
        " FROM pg_type t WHERE typtype = 'd' AND oid >= 16384",
        "ALTER DOMAIN hall.short DROP NOT NULL",
    ),
    "enums": (
        "SELECT enumtypid::regtype, array_agg(enumlabel ORDER BY enumsortorder) FROM pg_enum GROUP BY 1",
        "ALTER TYPE public.mood ADD VALUE 'glad' BEFORE 'happy'",
    ),
    "composite types and ranges": (
        "SELECT oid::regtype, (SELECT array_agg(attname || ' ' || format_type(atttypid, atttypmod) ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = typrelid AND attnum > 0), (SELECT rngsubtype::regtype || ' ' || rngsubdiff || rngmultitypid::regtype FROM pg_range WHERE rngtypid = t.oid)"
        " FROM pg_type t WHERE oid >= 16384 AND (typtype = 'r' OR typrelid IN (SELECT oid FROM pg_class WHERE relkind = 'c'))",
        "ALTER TYPE public.address ADD ATTRIBUTE country text",
    ),
    "foreign servers and user mappings": (
        f"SELECT srvname, srvtype, fdwname, {_sorted('srvoptions')}, (SELECT array_agg(usename || {_sorted('umoptions')}::text ORDER BY usename) FROM pg_user_mappings m"
        " WHERE m.srvid = s.oid) FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw",
        "ALTER SERVER near OPTIONS (SET dbname 'x')",
    ),
    "foreign tables": (
        f"SELECT ftrelid::regclass, srvname, {_sorted('ftoptions')}, (SELECT array_agg(attname || attfdwoptions::text ORDER BY attnum)"
        " FROM pg_attribute WHERE attrelid = ftrelid AND attnum > 0) FROM pg_foreign_table JOIN pg_foreign_server s ON s.oid = ftserver",
        "ALTER FOREIGN TABLE hall.remote ALTER id OPTIONS (SET column_name 'Id')",
    ),
    "publications": (
        "SELECT pubname, puballtables, pubinsert, pubupdate, pubviaroot, (SELECT array_agg(schemaname || tablename || attnames::text ||"
        " coalesce(rowfilter, '') ORDER BY schemaname, tablename) FROM pg_publication_tables t WHERE t.pubname = p.pubname) FROM pg_publication p",
        "ALTER PUBLICATION outside SET TABLE public.members (id, name) WHERE (id > 1)",
    ),
    "subscriptions": (
        "SELECT subname, subowner::regrole, subenabled, subconninfo, subslotname, subpublications FROM pg_subscription"
        " WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())",
        "ALTER SUBSCRIPTION from_elsewhere SET (slot_name = NONE)",
    ),
    "collations": (
        "SELECT oid::regcollation, collprovider, collcollate, collisdeterministic, (SELECT array_agg(attrelid::regclass || ' ' || attname"
        " ORDER BY attrelid::regclass::text, attname) FROM pg_attribute WHERE attcollation = c.oid) FROM pg_collation c WHERE oid >= 16384",
        "ALTER TABLE hall.visits ALTER mood TYPE text COLLATE public.swedish",
    ),
    "triggers, enabled and not": (
        "SELECT pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal",
        "ALTER TABLE public.orders_2025 ENABLE TRIGGER noticing",
    ),
    "logged and unlogged": (
        f"SELECT oid::regclass, relkind, relpersistence FROM pg_class WHERE {_OURS}",
        "ALTER TABLE hall.quick SET LOGGED",
    ),
    "toast-heavy rows": (
        "SELECT id, length(plain), md5(plain), md5(packed), md5(raw), md5(doc::text) FROM hall.bulky",
        "UPDATE hall.bulky SET packed = overlay(packed PLACING '!' FROM 2000000) WHERE id = 7",
    ),
    "rows": (
        f"SELECT oid::regclass, pg_temp.digest(oid) FROM pg_class WHERE {_OURS} AND relkind = 'r'",
        "UPDATE hall.quick SET v = '' WHERE v IS NULL",
    ),
    "columns": (
        "SELECT attrelid::regclass, attname, row_number() OVER (PARTITION BY attrelid ORDER BY attnum), format_type(atttypid, atttypmod),"
        " attnotnull, attcollation::regcollation, attstorage, attcompression, attstattarget, attoptions, attislocal, attinhcount,"
        " pg_get_expr(adbin, adrelid) FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid"
        f" AND adnum = attnum WHERE attnum > 0 AND NOT attisdropped AND pg_class.{_OURS}",
        "ALTER TABLE hall.bulky ALTER packed SET COMPRESSION default",
    ),
    "storage parameters and replica identity": (
        f"SELECT c.oid::regclass, c.reloptions, t.reloptions, c.relreplident FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid"
        f" WHERE c.{_OURS.replace('relnamespace', 'c.relnamespace')}",
        "ALTER TABLE public.members RESET (toast.autovacuum_enabled)",
    ),
    "inheritance": (
        "SELECT inhrelid::regclass, inhparent::regclass, inhseqno FROM pg_inherits",
        "ALTER TABLE public.child NO INHERIT public.parent",
    ),
    "indexes": (
        "SELECT indexrelid::regclass, pg_temp.bare(pg_get_indexdef(indexrelid)), indisvalid, indisclustered, indisreplident FROM pg_index"
        " WHERE indexrelid >= 16384 AND indrelid NOT IN (SELECT oid FROM pg_class WHERE relkind = 't')",
        "ALTER TABLE hall.accounts SET WITHOUT CLUSTER",
    ),
    "views": (
        f"SELECT oid::regclass, reloptions, pg_get_viewdef(oid) FROM pg_class WHERE {_OURS} AND relkind = 'v'",
        "ALTER VIEW hall.invoked RESET (security_invoker)",
    ),
    "functions and aggregates": (
        "SELECT p.oid::regprocedure, CASE WHEN prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) END, aggtransfn, aggtranstype::regtype,"
        " agginitval FROM pg_proc p LEFT JOIN pg_aggregate ON aggfnoid = p.oid WHERE p.oid >= 16384 AND pronamespace <> pg_my_temp_schema()",
        "ALTER FUNCTION hall.hidden(int) SET work_mem = '8MB'",
    ),
    "rules, enabled and not": (
        "SELECT pg_get_ruledef(oid), ev_enabled FROM pg_rewrite WHERE rulename <> '_RETURN' AND oid >= 16384",
        "ALTER TABLE public.parent ENABLE RULE unused",
    ),
    "casts and operators": (
        "SELECT pg_describe_object('pg_cast'::regclass, oid, 0), castmethod::text || castcontext::text FROM pg_cast WHERE oid >= 16384"
        " UNION ALL SELECT oid::regoperator::text, oprcode::text FROM pg_operator WHERE oid >= 16384"
        " UNION ALL SELECT pg_describe_object('pg_amop'::regclass, oid, 0), '' FROM pg_amop WHERE oid >= 16384"
        " UNION ALL SELECT pg_describe_object('pg_amproc'::regclass, oid, 0), '' FROM pg_amproc WHERE oid >= 16384",
        "DROP CAST (public.address AS text)",
    ),
    "text search and conversions": (
        "SELECT oid::regdictionary::text, dictinitoption FROM pg_ts_dict WHERE oid >= 16384"
        " UNION ALL SELECT mapcfg::regconfig::text, maptokentype || ' ' || mapdict::regdictionary FROM pg_ts_config_map WHERE mapcfg >= 16384"
        " UNION ALL SELECT conname, conforencoding || ' ' || conproc FROM pg_conversion WHERE oid >= 16384",
        "ALTER TEXT SEARCH CONFIGURATION public.words ALTER MAPPING FOR asciiword WITH public.plain",
    ),
    "the database's own properties": (
        "SELECT datdba::regrole, datconnlimit, ARRAY(SELECT a::text FROM unnest(datacl) a ORDER BY 1), shobj_description(oid, 'pg_database'),"
        " ARRAY(SELECT setrole::regrole || setconfig::text FROM pg_db_role_setting WHERE setdatabase = d.oid ORDER BY 1)"
        " FROM pg_database d WHERE datname = current_database()",
        "DO $$BEGIN EXECUTE format('COMMENT ON DATABASE %I IS NULL', current_database()); END$$",
    ),
}
