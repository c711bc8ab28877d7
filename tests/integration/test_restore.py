"""Backups restored into new databases and compared: equal, and every difference is found."""

from __future__ import annotations

import os

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import dump, restore
from ansible_collections.habitat.runbook.plugins.module_utils import properties as properties_module
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted

from tests.integration import habitat
from tests.integration.restoring import HOW, ID, RUN, Bench, bench, owner  # noqa: F401 - fixtures among them
from tests.integration.test_database_backup import RICH
from tests.waiting import wait_for

# ruff: noqa: F811

# What a restore prints differently, see restore_schema.
REPRINTED = """
CREATE TABLE public.reprinted (s varchar(10) CHECK (s IN ('a', 'b')), n int,
  CHECK (n BETWEEN 1 AND 5 AND s <> 'x'), CHECK (n NOT BETWEEN 1 AND 5 OR s = 'x'));
CREATE INDEX ON public.reprinted (lower(s)) WHERE s IN ('a', 'b') AND n > 1;
CREATE VIEW public.reprinted_view AS SELECT n FROM public.reprinted WHERE n BETWEEN 1 AND 5 AND
  CASE WHEN n > 1 THEN s IN ('a', 'b') ELSE n BETWEEN 2 AND 3 AND s > '' END;
CREATE MATERIALIZED VIEW public.of_a_view AS SELECT count(*) FROM public.happy;
"""


def test_the_round_trip(cluster, bench, connection):
    connection.execute(RICH + REPRINTED)
    connection.execute("CREATE TABLE money_too AS SELECT 12.5::money AS m")
    manifest = bench.take()
    done = bench.restore(manifest)
    assert (done.differences, done.warnings, done.tables) == ([], [], len(manifest["tables"]))
    assert done.rows == sum(table["rows"] for table in manifest["tables"].values())
    assert bench.compare(manifest) == []
    assert bench.compare(manifest, bench.database) == []
    with cluster.connect(bench.copy) as session:
        assert session.execute("SELECT count(*) FROM pg_stats WHERE tablename = 'members'").fetchone()[0] > 5
        assert properties_module.read_properties(session, bench.copy) == manifest["database"]["properties"]
    wait_for(lambda: not bench.sessions())


def test_the_round_trip_as_the_owner(bench, connection, owner):
    bench.execute(
        "CREATE TABLE t (id serial PRIMARY KEY, v text); INSERT INTO t (v) VALUES ('x'), ('y'); "
        "SELECT lo_from_bytea(0, 'large'); CREATE MATERIALIZED VIEW m AS SELECT * FROM t",
        bench.database,
        user=owner,
    )
    connection.execute(f"REVOKE ALL ON DATABASE {quoted(bench.database)} FROM PUBLIC")
    manifest = bench.take()
    done = bench.restore(manifest)
    assert (done.differences, done.warnings, done.tables, done.rows) == ([], [], 1, 2)
    with bench.connect(bench.copy) as session:
        told = properties_module.read_properties(session, bench.copy)
    assert told == manifest["database"]["properties"]
    assert told["acl"] is not None


def test_habitats_own_schema(cluster, bench, owner):
    habitat.make_roles(cluster, bench.database)
    bench.execute(f"ALTER DATABASE {quoted(bench.database)} OWNER TO {quoted(owner)}", "postgres")
    with cluster.connect(bench.database, user=owner) as session:
        habitat.apply(session)
    manifest = bench.take()
    done = bench.restore(manifest)
    assert (done.differences, done.warnings, done.tables) == ([], [], len(manifest["tables"]))
    assert done.tables > 5


def test_an_empty_database(bench, connection):
    connection.execute("DROP EXTENSION plpgsql")
    done = bench.restore(bench.take())
    assert (done.differences, done.tables, done.rows) == ([], 0, 0)


def test_properties_arrive_and_nobody_strays_in_before(cluster, bench, connection, owner):
    name, guest = quoted(bench.database), f"guest_{os.getpid()}"
    connection.execute(
        f"CREATE ROLE {guest} LOGIN; CREATE TABLE t (id int); ALTER TABLE t OWNER TO {quoted(owner)}; "
        f"ALTER DATABASE {name} SET search_path = '$user', public; ALTER DATABASE {name} CONNECTION LIMIT 9; "
        f"COMMENT ON DATABASE {name} IS 'ours'; ALTER ROLE {guest} IN DATABASE {name} SET work_mem = '8MB'; "
        f"GRANT CREATE ON DATABASE {name} TO {guest} WITH GRANT OPTION"
    )
    try:
        manifest = bench.take()
        bench.user = "postgres"
        with cluster.connect() as admin:
            restore.create_database(admin, bench.copy, manifest["database"])
            with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
                cluster.connect(bench.copy, user=guest)
            cluster.connect(bench.copy, user=owner).close()
            admin.execute(f"DROP DATABASE {quoted(bench.copy)}")
        assert bench.restore(manifest).differences == []
        cluster.connect(bench.copy, user=guest).close()
        with cluster.connect() as admin:
            assert properties_module.read_properties(admin, bench.copy) == manifest["database"]["properties"]
            admin.execute(f"DROP DATABASE {quoted(bench.copy)}")
        with cluster.connect(bench.database) as session:
            session.execute(f"DROP OWNED BY {guest}; DROP ROLE {guest}")
        assert bench.refusal(manifest) == (
            f"backup {ID} names roles that this server does not have: {guest}; create them first "
            f'(CREATE ROLE "{guest}"; {ID}.globals.sql has their settings)'
        )
    finally:
        with cluster.connect(bench.database) as session:
            session.execute(f"DROP ROLE IF EXISTS {guest}")


LOCALES = {
    "icu": "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'de-AT' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'",
    "icu with rules": "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en' ICU_RULES '&V << w <<< W' LOCALE 'C'",
    "builtin": "ENCODING 'UTF8' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'",
    "C": "ENCODING 'UTF8' LOCALE 'C'",
    "C and C.UTF-8": "ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C.UTF-8'",
    "LATIN1": "ENCODING 'LATIN1' LOCALE 'C'",
    "SQL_ASCII": "ENCODING 'SQL_ASCII' LOCALE 'C'",
}


@pytest.mark.parametrize("locale", sorted(LOCALES))
def test_locales_and_encodings(cluster, bench, locale):
    with cluster.connect() as admin:
        admin.execute(f"DROP DATABASE {quoted(bench.database)}")
        try:
            admin.execute(f"CREATE DATABASE {quoted(bench.database)} TEMPLATE template0 {LOCALES[locale]}")
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.SyntaxError, psycopg.errors.InvalidParameterValue):
            pytest.skip("this server does not know that locale")
    bench.execute("CREATE TABLE größe (name text); INSERT INTO größe VALUES ('Zoë'), ('Ä')", bench.database)
    manifest = bench.take()
    assert bench.restore(manifest).differences == []
    query = "SELECT to_jsonb(d) - '{oid,datname,datacl,datfrozenxid,datminmxid,datcollversion}'::text[] FROM pg_database d WHERE datname = %s"
    with cluster.connect() as admin:
        rows = [admin.execute(query, [name]).fetchone()[0] for name in (bench.database, bench.copy)]
    assert rows[0] == rows[1]


def test_event_triggers_do_not_fire_in_the_copy(bench, connection):
    connection.execute(
        'CREATE TABLE t (id int PRIMARY KEY); CREATE VIEW v AS SELECT 1 AS one; CREATE SCHEMA "-"; '
        'CREATE TABLE "-"."EVENT TRIGGER - x" (id int); '
        "CREATE MATERIALIZED VIEW m AS SELECT * FROM v; COMMENT ON TABLE t IS 'EVENT TRIGGER - t'; "
        "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no %', tg_tag; END$$"
    )
    for event in ("ddl_command_start", "ddl_command_end", "sql_drop", "table_rewrite"):
        connection.execute(
            f"CREATE EVENT TRIGGER {event} ON {event} EXECUTE FUNCTION no(); ALTER EVENT TRIGGER {event} ENABLE ALWAYS; "
            f"COMMENT ON EVENT TRIGGER {event} IS 'none'"
        )
    if connection.info.server_version >= 170000:
        connection.execute(
            "CREATE EVENT TRIGGER entry ON login EXECUTE FUNCTION no(); ALTER EVENT TRIGGER entry ENABLE ALWAYS"
        )
    options = "-c event_triggers=off" if connection.info.server_version >= 170000 else ""
    with bench.cluster.connect(bench.database, application_name=session_name(RUN), options=options) as session:
        manifest = dump.take_backup(session, bench.folder, "local", RUN, "alice", HOW).manifest
    assert bench.restore(manifest).differences == []
    query = (
        "SELECT evtname, evtenabled::text, obj_description(oid, 'pg_event_trigger') FROM pg_event_trigger ORDER BY 1"
    )
    expected = connection.execute(query).fetchall()
    assert len(expected) >= 4
    with bench.cluster.connect(bench.copy, options=options) as session:
        assert session.execute(query).fetchall() == expected


def test_settings_of_the_database_do_not_get_in_the_way(bench, connection):
    connection.execute("CREATE TABLE t AS SELECT 12.5::money AS m, 1.0::float8 / 3 AS f, now() AS at")
    for setting in (
        "default_transaction_read_only = on",
        "search_path = ''",
        "quote_all_identifiers = on",
        "statement_timeout = '1ms'",
        "datestyle = 'German'",
    ):
        connection.execute(f"ALTER DATABASE {quoted(bench.database)} SET {setting}")
    manifest = bench.take()
    assert bench.restore(manifest).differences == []
    assert bench.compare(manifest) == []


TAMPERED = {
    "INSERT INTO t VALUES (4, 'd')": "table public.t has 3 rows in the backup and 4 now",
    "DELETE FROM t WHERE id = 1": "table public.t has 3 rows in the backup and 2 now",
    "UPDATE t SET v = 'z' WHERE id = 1": "table public.t has 3 rows as in the backup, but with other contents",
    "DROP TABLE t CASCADE": "table public.t of the backup is missing",
    "CREATE TABLE u ()": "table public.u is not in the backup",
    "SELECT setval('s', 5)": "sequence public.s is at 5 (not yet used) in the backup and at 5 now",
    "SELECT setval('s', 8, false)": (
        "sequence public.s is at 5 (not yet used) in the backup and at 8 (not yet used) now"
    ),
    "DROP SEQUENCE s": "sequence public.s of the backup is missing",
    "REFRESH MATERIALIZED VIEW m WITH NO DATA": "materialized view public.m is filled in the backup and not now",
    "DROP MATERIALIZED VIEW m": "materialized view public.m of the backup is missing",
    "SELECT lo_unlink(oid) FROM pg_largeobject_metadata": "there are 1 large objects in the backup and 0 now",
    "SELECT lo_put(oid, 3, 'x') FROM pg_largeobject_metadata": (
        "there are 1 large objects as in the backup, but with other numbers or contents"
    ),
    "DROP INDEX i": "the schema is another than in the backup (pg_dump --schema-only writes something else)",
    "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 2'": "the schema is another than",
    "ALTER TABLE t ADD CHECK ((id > 0 AND id < 10) OR v = '')": "the schema is another than in the backup",
    "INSERT INTO schema_migrations VALUES ('02')": "version 02 is not in the backup",
    "DROP TABLE schema_migrations": "the ledger of the backup is missing",
    "DROP EXTENSION plpgsql": "extension plpgsql of the backup is missing",
    "UPDATE pg_extension SET extversion = '0.9'": "extension plpgsql is 1.0 in the backup and 0.9 now",
}


@pytest.fixture(scope="module")
def tampered(cluster, tmp_path_factory):
    """A bench with a small backup of a database that serves as a template; its copy is made anew for every change."""
    database = f"tampered_{os.getpid()}"
    with cluster.connect() as admin:
        admin.execute(f"CREATE DATABASE {database} TEMPLATE template0")
    bench = Bench(cluster, tmp_path_factory.mktemp("tampered"), database)
    bench.execute(
        "CREATE TABLE t (id int, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c'); CREATE INDEX i ON t (v); "
        "CREATE SEQUENCE s; SELECT setval('s', 5, false); CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t; "
        "INSERT INTO t VALUES (9, 'stale'); DELETE FROM t WHERE id = 9; REFRESH MATERIALIZED VIEW m; "
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; SELECT lo_from_bytea(0, 'large'); "
        "CREATE TABLE schema_migrations (version text); INSERT INTO schema_migrations VALUES ('01')",
        database,
    )
    yield bench, bench.take()
    with cluster.connect() as admin:
        for name in (database, bench.copy):
            admin.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")


@pytest.mark.parametrize("change", TAMPERED)
def test_every_change_is_found(cluster, tampered, change):
    bench, manifest = tampered
    with cluster.connect() as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {quoted(bench.copy)} WITH (FORCE)")
        admin.execute(f"CREATE DATABASE {quoted(bench.copy)} TEMPLATE {quoted(bench.database)}")
    assert bench.compare(manifest) == []
    bench.execute(change)
    found = bench.compare(manifest)
    assert any(text.startswith(TAMPERED[change]) for text in found), found


def test_a_stale_materialized_view_is_no_difference(bench, connection):
    connection.execute(
        "CREATE TABLE t (id int); CREATE MATERIALIZED VIEW m AS SELECT * FROM t; INSERT INTO t VALUES (1)"
    )
    manifest = bench.take()
    assert manifest["materialized_views"] == {"public.m": {"rows": 0}}
    assert bench.restore(manifest).differences == []


def test_only_some_differences_are_told(bench, connection):
    for number in range(9):
        connection.execute(f"CREATE TABLE t{number} ()")
    manifest = bench.take()
    for number in range(9):
        connection.execute(f"DROP TABLE t{number}")
    found = bench.compare(manifest, bench.database)
    assert found[:2] == ["table public.t0 of the backup is missing", "table public.t1 of the backup is missing"]
    assert found[5:] == ["and 5 more"]


def test_a_restore_that_is_not_equal_says_so_and_is_closed(cluster, bench, connection):
    connection.execute("CREATE TABLE t AS SELECT 1 AS id")
    manifest = bench.take()
    manifest["tables"]["public.t"]["rows"] = 2
    assert bench.restore(manifest).differences == ["table public.t has 2 rows in the backup and 1 now"]
    with cluster.connect() as admin:
        told = properties_module.read_properties(admin, bench.copy)["acl"]
    assert not [entry for entry in told if entry["grantee"] == "" and entry["privilege"] == "CONNECT"]


def test_other_versions_are_compared_less(bench, connection):
    connection.execute("CREATE TABLE t AS SELECT 1 AS id")
    manifest = {**bench.take(), "server_version": "14.9", "schema_sha256": "0" * 64}
    manifest["tables"]["public.t"]["digest"] = "1"
    done = bench.restore(manifest)
    assert done.differences == []
    assert [warning[:35] for warning in done.warnings] == [
        "the contents of rows were not compa",
        "the schema was not compared: the ba",
    ]
