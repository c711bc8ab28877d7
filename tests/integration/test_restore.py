"""Backups restored into new databases: equal, refused without harm, dropped again when they fail."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import client_programs, dump, restore
from ansible_collections.habitat.runbook.plugins.module_utils import properties as properties_module
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import READ, BackupError, quoted

from demo.embedded import postgres
from tests.conftest import Cluster
from tests.integration import habitat
from tests.integration.test_database_backup import RICH
from tests.waiting import wait_for

BIN = str(postgres.BIN)
OLD_SERVER = Path("/usr/lib/postgresql/15/bin")
# Of its own in every test process: sessions and processes are looked for by it.
RUN = f"20261122t100231z-{os.environ.get('PYTEST_XDIST_WORKER', 'k3f')[:3]}"
ID = f"local-{RUN}"
HOW = dump.How(bin_dir=BIN, proof=READ)


class Bench:
    """Takes a backup of one database and restores it into another, as one role."""

    def __init__(self, cluster, folder: Path, database: str) -> None:
        self.cluster, self.folder, self.database = cluster, folder, database
        self.copy = f'{database} "Copy"'
        self.user = "postgres"
        with cluster.connect() as session:
            self.tools = client_programs.find_tools(BIN, session.info.server_version)

    def connect(self, name: str) -> psycopg.Connection:
        options = session_options("30s", "1min")
        return self.cluster.connect(name, user=self.user, application_name=session_name(RUN), options=options)

    def take(self) -> dict:
        with self.connect(self.database) as session:
            return dump.take_backup(session, self.folder, "local", RUN, "alice", HOW).manifest

    def restore(self, manifest: dict, jobs: int = 2) -> restore.Restored:
        with self.connect("postgres") as admin:
            return restore.restore_backup(admin, self.connect, self.tools, self.dump, manifest, self.copy, jobs)

    def refusal(self, manifest: dict, left: bool = False) -> str:
        """The sentence with which a restore fails; neither database nor session may be left."""
        with pytest.raises(BackupError) as refused:
            self.restore(manifest)
        text = str(refused.value)
        assert "\n" not in text
        assert (self.copy in self.databases()) == left
        wait_for(lambda: not self.sessions())
        return text

    def compare(self, manifest: dict, name: str | None = None) -> list[str]:
        with self.connect(name or self.copy) as session:
            differences, warnings = restore.compare(session, self.tools, manifest, name or self.copy)
        assert warnings == []
        return differences

    @property
    def dump(self) -> Path:
        return self.folder / f"{ID}.dump"

    def databases(self) -> list[str]:
        with self.cluster.connect() as admin:
            return [name for (name,) in admin.execute("SELECT datname FROM pg_database")]

    def sessions(self) -> list:
        text = "SELECT datname, state, query FROM pg_stat_activity WHERE application_name = %s"
        with self.cluster.connect() as admin:
            return admin.execute(text, [session_name(RUN)]).fetchall()

    def execute(self, statement: str, name: str | None = None, **more) -> None:
        with self.cluster.connect(name or self.copy, client_encoding="UTF8", **more) as session:
            session.execute(statement)


@pytest.fixture
def bench(cluster, database, tmp_path):
    made = Bench(cluster, tmp_path / "backups", database)
    yield made
    with cluster.connect() as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {quoted(made.copy)} WITH (FORCE)")


@pytest.fixture
def owner(cluster, bench):
    """A role that owns the database, may create databases and is no superuser; the bench works as it."""
    bench.user = name = f"Owner {os.getpid()}"
    with cluster.connect() as admin:
        admin.execute(f"CREATE ROLE {quoted(name)} LOGIN CREATEDB")
        admin.execute(f"ALTER DATABASE {quoted(bench.database)} OWNER TO {quoted(name)}")
    yield name
    with cluster.connect() as admin:
        for database in (bench.database, bench.copy):
            admin.execute(f"DROP DATABASE IF EXISTS {quoted(database)} WITH (FORCE)")
        admin.execute(f"DROP OWNED BY {quoted(name)}")
        admin.execute(f"DROP ROLE {quoted(name)}")


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
    assert bench.sessions() == []


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


# Refused before anything is created


@pytest.mark.parametrize("damage", ["flipped", "replaced", "cut", "gone"])
def test_another_dump_than_the_manifests_is_refused(bench, connection, damage):
    """Before a database is created: one of a name that is taken would be another error."""
    manifest = bench.take()
    data = bytearray(bench.dump.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    elif damage == "replaced":
        data = bytearray(b"another dump")
    bench.dump.write_bytes(data[:-1] if damage == "cut" else data)
    if damage == "gone":
        bench.dump.unlink()
    bench.copy = bench.database
    text = bench.refusal(manifest, left=True)
    if damage == "gone":
        assert "No such file or directory" in text
    else:
        assert text == (
            f"{bench.dump} is not the dump that the manifest of backup {ID} describes: it was changed, damaged or "
            "replaced after the backup; use another backup"
        )


def test_a_role_that_may_not_create_databases(cluster, bench, owner):
    manifest = bench.take()
    with cluster.connect() as admin:
        admin.execute(f"ALTER ROLE {quoted(owner)} NOCREATEDB")
    assert bench.refusal(manifest) == (
        f"role {owner} may not create databases; run ALTER ROLE {quoted(owner)} CREATEDB"
    )


def test_a_client_older_than_the_dumps_is_refused(bench):
    manifest = {**bench.take(), "pg_dump_version": "99.1"}
    assert bench.refusal(manifest) == (
        f"{BIN}/pg_restore is {bench.tools.version} and cannot read backup {ID} by pg_dump 99.1; "
        "install the PostgreSQL 99 client or set bin_dir"
    )


def test_a_database_that_is_there_is_not_touched(bench, connection):
    manifest = bench.take()
    bench.execute(f"CREATE DATABASE {quoted(bench.copy)}", "postgres")
    bench.execute("CREATE TABLE precious ()")
    assert "already exists" in bench.refusal(manifest, left=True)
    bench.execute("SELECT * FROM precious")


@pytest.mark.parametrize("name", ["O'Brien Müller", "a=b host=/nowhere", "UPPER", r"back\slash %s {}", "-x"])
def test_names_of_databases(bench, connection, name):
    connection.execute("CREATE TABLE t AS SELECT 1 AS id")
    bench.copy = f"{name} {os.getpid()}"
    try:
        assert bench.restore(bench.take()).differences == []
    finally:
        bench.execute(f"DROP DATABASE {quoted(bench.copy)}", "postgres")


@pytest.fixture
def older(tmp_path):
    """A bench on a server of PostgreSQL 15, with the programs of the version that the tests run on."""
    if not OLD_SERVER.exists() or restore.major(client_programs.find_tools(BIN, 150000).version) < 17:
        pytest.skip(f"needs a server in {OLD_SERVER} and programs of version 17 or later")
    folder = Path(tempfile.mkdtemp(prefix="habitat-pg-"))
    postgres.init_cluster(folder / "data", "postgres", programs=OLD_SERVER)
    options = ["-D", str(folder / "data"), "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        command = postgres.server_command("postgres", *options, programs=OLD_SERVER)
        server = subprocess.Popen(command, stdout=log, stderr=log)
    cluster = Cluster(folder, 5432, server.pid)

    try:
        wait_for(cluster.answers)
        bench = Bench(cluster, tmp_path / "backups", "original")
        bench.execute("CREATE DATABASE original", "postgres")
        yield bench
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)
        shutil.rmtree(folder)


def test_programs_newer_than_the_server(older):
    """pg_restore 17 sets transaction_timeout, which a server of 15 does not know; every other error counts."""
    older.execute("CREATE ROLE worker; CREATE ROLE o LOGIN CREATEDB", "postgres")
    older.execute("CREATE TABLE t AS SELECT 1 AS id; CREATE INDEX ON t (id); ALTER TABLE t OWNER TO worker", "original")
    manifest = older.take()
    done = older.restore(manifest)
    assert (done.differences, done.warnings, done.rows) == ([], [], 1)
    assert older.compare(manifest) == []
    older.execute(f"DROP DATABASE {quoted(older.copy)}", "postgres")
    older.execute("DROP OWNED BY worker; DROP ROLE worker", "original")
    assert "names roles that this server does not have: worker; create them first" in older.refusal(manifest)
    text = older.refusal({**manifest, "roles": []})
    assert text.endswith('pg_restore failed: could not execute query: ERROR: role "worker" does not exist')


# Failures in the middle


def test_what_cannot_be_restored_is_told_in_pg_restores_words(bench, connection, owner):
    """A superuser's function in a language that the owner may not use."""
    connection.execute("CREATE FUNCTION f(internal) RETURNS internal LANGUAGE internal AS 'int4in'")
    text = bench.refusal(bench.take())
    assert text == (
        f"backup {ID} could not be restored into database {bench.copy}: pg_restore failed: could not execute query: "
        "ERROR: permission denied for language internal"
    )


@contextlib.contextmanager
def slow_restore(bench, connection):
    """A restore in another thread that hangs in an index whose function waits; yields a list of one outcome."""
    connection.execute(
        "CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 3) g; CREATE TABLE u AS SELECT 1 AS id; "
        "CREATE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS "
        "$$BEGIN IF current_database() ~ 'Copy' THEN PERFORM pg_sleep(60); END IF; RETURN i; END$$; "
        "CREATE INDEX slow ON t (slow(id))"
    )
    manifest, outcome = bench.take(), []

    def run():
        try:
            outcome.append(bench.restore(manifest))
        except BackupError as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_for(lambda: indexing(bench))
    yield outcome
    thread.join(30)
    assert bench.copy not in bench.databases()
    wait_for(lambda: not bench.sessions() and not programs())


def indexing(bench) -> bool:
    return any("CREATE INDEX" in (query or "") and state == "active" for _, state, query in bench.sessions())


def programs() -> list[int]:
    """pg_restore's processes of this run, its workers included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
            alive = b"\nState:\tZ" not in (path.parent / "status").read_bytes()
        except OSError:
            continue
        if b"pg_restore" in command and session_name(RUN).encode() in command and alive:
            found.append(int(path.parent.name))
    return sorted(found)


def parent_of(pid: int) -> int:
    return int(re.search(r"^PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1])


@pytest.mark.parametrize("which", ["leader", "worker"])
def test_a_killed_pg_restore_leaves_nothing(bench, connection, which):
    with slow_restore(bench, connection) as outcome:
        found = programs()
        leader = next(pid for pid in found if parent_of(pid) == os.getpid())
        os.kill(leader if which == "leader" else max(pid for pid in found if pid != leader), signal.SIGKILL)
        wait_for(lambda: outcome)
    words = "pg_restore was ended by SIGKILL" if which == "leader" else "pg_restore failed: a worker process died"
    assert f"could not be restored into database {bench.copy}: {words}" in str(outcome[0])
    assert connection.execute("SELECT count(*) FROM t").fetchone()[0] == 3


@pytest.mark.parametrize("which", ["CREATE INDEX", "admin"])
def test_an_ended_session_leaves_nothing(bench, connection, which):
    with slow_restore(bench, connection) as outcome:
        condition = "query ~ 'CREATE INDEX'" if which != "admin" else "datname = 'postgres'"
        with bench.cluster.connect() as admin:
            admin.execute(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s AND {condition}",
                [session_name(RUN)],
            )
        if which == "admin":
            os.kill(next(pid for pid in programs() if parent_of(pid) == os.getpid()), signal.SIGTERM)
        wait_for(lambda: outcome)
    assert f"could not be restored into database {bench.copy}: " in str(outcome[0])


def test_killed_ourselves_no_session_stays(bench, connection):
    """The database does stay then: nobody is there to drop it."""
    connection.execute(
        "CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 3) g; CREATE TABLE u AS SELECT 1 AS id; "
        "CREATE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS "
        "$$BEGIN IF current_database() ~ 'Copy' THEN PERFORM pg_sleep(60); END IF; RETURN i; END$$; "
        "CREATE INDEX slow ON t (slow(id))"
    )
    bench.take()
    program = (
        "import sys; from pathlib import Path; from tests.integration.test_restore import *\n"
        f"bench = Bench(Cluster(Path({str(bench.cluster.folder)!r}), 5432, 0), Path({str(bench.folder)!r}), {bench.database!r})\n"
        "from ansible_collections.habitat.runbook.plugins.module_utils import manifest\n"
        f"bench.restore(manifest.read(bench.folder / {ID + '.json'!r}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        wait_for(lambda: indexing(bench))
        assert len(programs()) >= 2
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not bench.sessions() and not programs())
    assert bench.copy in bench.databases()


def test_a_full_disk_of_the_server(cluster, bench, connection):
    """The copy goes into a tablespace on a small file system."""
    folder = cluster.folder / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", folder], capture_output=True)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip("this user may not mount a small file system")
    try:
        postgres.give_to_server(folder)
        connection.execute("CREATE TABLE t AS SELECT repeat(g::text, 100) FROM generate_series(1, 60000) g")
        connection.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        manifest = bench.take()
        manifest["database"]["properties"]["tablespace"] = "small"
        text = bench.refusal(manifest)
        assert text.startswith(f"backup {ID} could not be restored into database {bench.copy}: a disk is full, ")
        assert connection.execute("SELECT count(*) FROM t").fetchone()[0] == 60000
    finally:
        with cluster.connect() as admin:
            admin.execute(f"DROP DATABASE IF EXISTS {quoted(bench.copy)}")
            admin.execute("DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()
