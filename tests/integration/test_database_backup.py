"""Backups of real databases: exact, proved, refused rather than incomplete."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import (
    backup_proof,
    client_programs,
    dump,
    dump_files,
    manifest,
    restore_schema,
    snapshot,
)
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.properties import read_properties

from demo.embedded import postgres

BIN = str(postgres.BIN)
# Of its own in every test process: processes are looked for by it, and test processes run side by side.
RUN = f"20261122t100211z-{os.environ.get('PYTEST_XDIST_WORKER', 'k3f')[:3]}"
ID = f"local-{RUN}"
HOW = dump.How(bin_dir=BIN, proof=manifest.READ)
OLD_CLIENT = Path("/usr/lib/postgresql/15/bin")


def take(connection, folder, run=RUN, **more) -> dump.Taken:
    how = dump.How(**{"bin_dir": BIN, "proof": manifest.READ, **more})
    return dump.take_backup(connection, folder, "local", run, "alice", how)


def refusal(connection, folder, **more) -> str:
    """The sentence with which a backup is refused; nothing of it may be left."""
    with pytest.raises(BackupError) as refused:
        take(connection, folder, **more)
    assert names(folder) == []
    text = str(refused.value)
    assert "\n" not in text
    return text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "backups"


@pytest.fixture
def restored(cluster, database):
    """A function that restores a dump into a new database and returns a connection to it."""
    opened = []

    def restore(path: Path) -> psycopg.Connection:
        name = f"{database}_restored"
        with cluster.connect() as admin:
            admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        command = [postgres.tool("pg_restore"), "-h", str(cluster.folder), "-U", "postgres", "--exit-on-error"]
        subprocess.run([*command, "-d", name, str(path)], check=True)
        opened.append(cluster.connect(name))
        return opened[-1]

    yield restore
    for connection in opened:
        connection.close()
    with cluster.connect() as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{database}_restored" WITH (FORCE)')


def counts(connection) -> dict:
    with snapshot.exported_snapshot(connection, 1000) as taken:
        return dict(snapshot.count_tables(connection, taken.tables))


def sequences(connection) -> dict:
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE relkind = 'S'"
    ).fetchall()
    values = {}
    for schema, name in rows:
        text = f"SELECT last_value, is_called FROM {manifest.quoted(schema)}.{manifest.quoted(name)}"
        value, called = connection.execute(text).fetchone()
        values[manifest.qualified(schema, name)] = {"last_value": value, "is_called": called}
    return values


def schema_hash(cluster, database: str) -> str:
    command = [postgres.tool("pg_dump"), "-h", str(cluster.folder), "-U", "postgres", "--schema-only", database]
    text = subprocess.run(command, check=True, capture_output=True).stdout
    return restore_schema.schema_digest(text.splitlines(keepends=True))


RICH = r"""
CREATE SCHEMA "Größe {0} %s"; CREATE SCHEMA "select";
CREATE TYPE public.mood AS ENUM ('sad', 'happy');
CREATE TYPE public.pair AS (a int, b text);
CREATE TABLE public.members (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text UNIQUE, mood public.mood,
  at timestamptz DEFAULT now(), price numeric(12, 3), ratio double precision, raw bytea, tags text[], j jsonb,
  span interval, rel regclass, twice numeric GENERATED ALWAYS AS (price * 2) STORED);
INSERT INTO public.members (email, mood, price, ratio, raw, tags, j, span, rel)
  SELECT 'M' || g || '@x', 'happy', g / 7.0, sqrt(g), sha256(g::text::bytea), ARRAY['a', NULL, '"'], '{"a": [1]}',
    g * interval '1 hour 1 second', 'public.members' FROM generate_series(1, 500) g;
CREATE TABLE public.gone (a int, b int, c int); INSERT INTO public.gone VALUES (1, 2, 3); ALTER TABLE gone DROP b;
CREATE TABLE public.x (x public.pair, y text); INSERT INTO public.x VALUES ((1, 'one'), NULL), (NULL, '');
CREATE TABLE public.nothing (); INSERT INTO public.nothing DEFAULT VALUES; INSERT INTO public.nothing DEFAULT VALUES;
CREATE TABLE "Größe {0} %s"."a""b.c %s {}" ("I" serial, "t" text); INSERT INTO "Größe {0} %s"."a""b.c %s {}" ("t")
  VALUES ('x'), (repeat('long ', 100000));
CREATE TABLE "select"."user" (id int); CREATE SEQUENCE "select"."O'Brien\x"; SELECT nextval('"select"."O''Brien\x"');
CREATE SEQUENCE public.down INCREMENT -5 MAXVALUE -1 MINVALUE -100; SELECT nextval('down'), nextval('down');
CREATE SEQUENCE public."user"; SELECT setval('public."user"', 77, false);
CREATE TABLE public.events (id bigserial, at date NOT NULL, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE public.events_old PARTITION OF public.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE public.events_new PARTITION OF public.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
INSERT INTO public.events (at) SELECT '2025-12-02'::date + g FROM generate_series(0, 59) g;
CREATE TABLE public.base (id int); CREATE TABLE public.child (more text) INHERITS (public.base);
INSERT INTO public.base VALUES (1), (2); INSERT INTO public.child VALUES (3, 'c');
CREATE UNLOGGED TABLE public.fast (id int); INSERT INTO public.fast VALUES (1);
CREATE MATERIALIZED VIEW public.totals AS SELECT mood, count(*) FROM public.members GROUP BY mood;
CREATE MATERIALIZED VIEW public.never AS SELECT 1 AS one WITH NO DATA;
CREATE VIEW public.happy AS SELECT id FROM public.members WHERE mood = 'happy';
CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$
-- about nothing
BEGIN RETURN NEW; END $$;
CREATE TRIGGER t BEFORE INSERT ON public.members FOR EACH ROW EXECUTE FUNCTION public.f();
ALTER TABLE public.members ENABLE ROW LEVEL SECURITY; ALTER TABLE public.members FORCE ROW LEVEL SECURITY;
CREATE POLICY nobody ON public.members USING (false);
COMMENT ON TABLE public.members IS 'people'; GRANT SELECT ON public.members TO pg_monitor;
SELECT lo_from_bytea(0, 'large');
CREATE TABLE public.schema_migrations (version text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now());
INSERT INTO public.schema_migrations VALUES ('01'), ('9'), ('10'), ('by hand');
"""


def test_a_restored_dump_is_what_the_manifest_says(cluster, database, connection, folder, restored):
    connection.execute(RICH)
    told = take(connection, folder).manifest
    assert told == manifest.read(folder / f"{ID}.json")
    copy = restored(folder / f"{ID}.dump")
    assert counts(copy) == told["tables"]
    assert sequences(copy) == told["sequences"]
    assert schema_hash(cluster, f"{database}_restored") == told["schema_sha256"] == schema_hash(cluster, database)
    assert {key: value["rows"] for key, value in told["tables"].items()} == {
        '"Größe {0} %s"."a""b.c %s {}"': 2,
        "public.base": 2,
        "public.child": 1,
        "public.events_new": 30,
        "public.events_old": 30,
        "public.fast": 1,
        "public.gone": 1,
        "public.members": 500,
        "public.nothing": 2,
        "public.schema_migrations": 4,
        "public.x": 2,
        "select.user": 0,
    }
    assert told["sequences"]["public.user"] == {"last_value": 77, "is_called": False}
    assert told["sequences"]["public.down"] == {"last_value": -6, "is_called": True}
    assert told["sequences"]['"select"."O\'Brien\\x"'.replace('"select"', "select")]["last_value"] == 1
    assert told["materialized_views"] == {"public.totals": {"rows": 1}, "public.never": {"rows": None}}
    assert told["large_objects"]["count"] == 1
    assert told["extensions"] == {"plpgsql": "1.0"}
    assert told["ledger_versions"] == ["01", "9", "10", "by hand"]
    described = told["database"]
    assert (described["name"], described["owner"], described["encoding"]) == (database, "postgres", "UTF8")
    assert (described["collate"], described["ctype"], described["locale_provider"]) == ("C.UTF-8", "C.UTF-8", "c")


def test_extensions_and_what_depends_on_them(cluster, database, connection, folder, restored):
    if not connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'hstore'").fetchone():
        pytest.skip("this PostgreSQL comes without the extension hstore")
    connection.execute("CREATE SCHEMA more; CREATE EXTENSION hstore SCHEMA more")
    connection.execute("CREATE TABLE t (h more.hstore); INSERT INTO t VALUES ('a=>1, b=>NULL')")
    told = take(connection, folder).manifest
    query = "SELECT extversion FROM pg_extension WHERE extname = 'hstore'"
    assert told["extensions"] == {"plpgsql": "1.0", "hstore": connection.execute(query).fetchone()[0]}
    assert list(told["tables"]) == ["public.t"]
    assert counts(restored(folder / f"{ID}.dump")) == told["tables"]
    assert schema_hash(cluster, f"{database}_restored") == told["schema_sha256"]


def test_one_changed_row_changes_the_digest(connection, folder):
    connection.execute("CREATE TABLE t AS SELECT g AS id, 'x' AS v FROM generate_series(1, 100) g")
    before = take(connection, folder).manifest
    connection.execute("UPDATE t SET v = 'y' WHERE id = 50")
    after = take(connection, folder, "20261122t100212z-aaa").manifest
    assert before["tables"]["public.t"]["rows"] == after["tables"]["public.t"]["rows"] == 100
    assert before["tables"]["public.t"]["digest"] != after["tables"]["public.t"]["digest"]
    assert before["schema_sha256"] == after["schema_sha256"]
    connection.execute("ALTER TABLE t ALTER v SET NOT NULL")
    assert take(connection, folder, "20261122t100213z-aaa").manifest["schema_sha256"] != after["schema_sha256"]


def test_which_transactions_the_dump_saw_is_told(cluster, database, connection, folder):
    connection.execute("CREATE TABLE t AS SELECT 'before' AS v")
    with cluster.connect(database, autocommit=False) as other:
        running = other.execute("INSERT INTO t VALUES ('running') RETURNING pg_current_xact_id()::text").fetchone()[0]
        connection.execute("CREATE TABLE finished_later ()")
        told = take(connection, folder).manifest["snapshot"]
        other.commit()
    connection.execute("INSERT INTO t VALUES ('after')")
    assert running in told["xip"]
    seen = connection.execute(
        "SELECT v, pg_visible_in_snapshot(xmin::text::xid8, %s::pg_snapshot) FROM t ORDER BY 1",
        [f"{told['xmin']}:{told['xmax']}:{','.join(told['xip'])}"],
    ).fetchall()
    assert seen == [("after", False), ("before", True), ("running", False)]
    server = connection.execute(
        "SELECT system_identifier::text, (SELECT oid FROM pg_database WHERE datname = current_database()) "
        "FROM pg_control_system()"
    ).fetchone()
    assert (told["system_identifier"], told["database_oid"]) == server


def test_the_properties_of_the_database_are_told(database, connection, folder):
    connection.execute(
        f"ALTER DATABASE \"{database}\" SET work_mem = '64MB'; COMMENT ON DATABASE \"{database}\" IS 'ours'"
    )
    told = take(connection, folder).manifest["database"]["properties"]
    assert told == read_properties(connection, database)
    assert told["settings"] == [{"role": None, "name": "work_mem", "value": "64MB"}]
    assert told["comment"] == "ours"


def test_an_empty_database(connection, folder):
    connection.execute("DROP EXTENSION plpgsql")
    told = take(connection, folder).manifest
    assert (told["tables"], told["sequences"], told["extensions"], told["ledger_versions"]) == ({}, {}, {}, None)
    (found,) = manifest.list_backups(folder, check=True)
    assert (found.verified, found.ledger_version, found.taken_at) == (True, None, told["taken_at"])


def test_a_table_of_that_name_which_is_no_ledger(connection, folder):
    connection.execute("CREATE TABLE schema_migrations (id int)")
    assert take(connection, folder).manifest["ledger_versions"] is None


@pytest.mark.parametrize("name", ['We"ird', "O'Brien Müller", "a=b host=/nowhere", "UPPER", r"back\slash %s {}", "-x"])
def test_names_of_databases(cluster, folder, name):
    with cluster.connect() as admin:
        admin.execute(f"CREATE DATABASE {manifest.quoted(name)}")
    try:
        with cluster.connect(name) as connection:
            connection.execute("CREATE TABLE t (i serial); INSERT INTO t DEFAULT VALUES")
            told = take(connection, folder).manifest
        assert told["database"]["name"] == name
        assert told["tables"]["public.t"]["rows"] == 1
        assert told["sequences"] == {"public.t_i_seq": {"last_value": 1, "is_called": True}}
    finally:
        with cluster.connect() as admin:
            admin.execute(f"DROP DATABASE {manifest.quoted(name)} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "SQL_ASCII"])
def test_other_encodings(cluster, database, folder, monkeypatch, encoding):
    monkeypatch.setenv("PGCLIENTENCODING", "UTF8")
    name = {"LATIN1": "größe", "EUC_JP": "日本", "SQL_ASCII": "größe"}[encoding]
    with cluster.connect() as admin:
        admin.execute(f'DROP DATABASE "{database}"')
        admin.execute(f"CREATE DATABASE \"{database}\" TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'")
    with cluster.connect(database, client_encoding="UTF8") as connection:
        connection.execute(f"CREATE TABLE {name} (i serial); INSERT INTO {name} DEFAULT VALUES")
        told = take(connection, folder).manifest
    assert told["database"]["encoding"] == encoding
    assert told["tables"][f'public."{name}"']["rows"] == 1
    assert list(told["sequences"]) == [f'public."{name}_i_seq"']


def test_settings_of_the_database_do_not_get_in_the_way(cluster, database, connection, folder, restored, monkeypatch):
    connection.execute(
        "CREATE TABLE t AS SELECT g AS id, now() AS at, interval '1 day 1 hour' * g AS i, '\\x00ff'::bytea AS b "
        "FROM generate_series(1, 200000) g; CREATE SCHEMA evil; "
        "CREATE TABLE evil.u (me regclass); INSERT INTO evil.u VALUES ('evil.u'); "
        "CREATE FUNCTION evil.no(name, text) RETURNS boolean LANGUAGE sql AS 'SELECT false'; "
        "CREATE OPERATOR evil.!~ (LEFTARG = name, RIGHTARG = text, FUNCTION = evil.no)"
    )
    limits = ["transaction_timeout = '50ms'"] if connection.info.server_version >= 170000 else []
    for setting in (
        *limits,
        "statement_timeout = '50ms'",
        "idle_in_transaction_session_timeout = '50ms'",
        "datestyle = 'German'",
        "intervalstyle = 'iso_8601'",
        "bytea_output = 'escape'",
        "timezone = 'Asia/Tokyo'",
        "search_path = evil, pg_catalog, public",
        "default_transaction_isolation = 'serializable'",
        "extra_float_digits = -5",
    ):
        connection.execute(f'ALTER DATABASE "{database}" SET {setting}')
    monkeypatch.setenv("PGDATABASE", "postgres")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("PGOPTIONS", "-c search_path=nowhere")
    with cluster.connect(database, options="") as session:
        told = take(session, folder).manifest
    for name in ("PGDATABASE", "PGPORT", "PGOPTIONS"):
        monkeypatch.delenv(name)
    assert told["tables"]["public.t"]["rows"] == 200000
    assert told["taken_at"][:13] == time.strftime("%Y-%m-%dT%H", time.gmtime())
    assert counts(restored(folder / f"{ID}.dump")) == told["tables"]


# While others work


@contextmanager
def writing(cluster, database, statement, pause):
    """Another session that runs a statement again and again."""
    stop, done = threading.Event(), threading.Event()
    errors: list[psycopg.Error] = []

    def write():
        try:
            with cluster.connect(database, application_name="app") as session:
                while not stop.is_set():
                    session.execute(statement)
                    done.set()
                    time.sleep(pause)
        except psycopg.Error as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert done.wait(10)
        yield
    finally:
        stop.set()
        writer.join()
    assert errors == []


@pytest.mark.parametrize(
    ("form", "jobs", "proof"),
    [
        ("custom", 1, manifest.READ),
        pytest.param("custom", 4, manifest.RESTORE, marks=pytest.mark.long),
        pytest.param("directory", 4, manifest.RESTORE, marks=pytest.mark.long),
    ],
)
def test_writers_keep_writing(cluster, database, connection, folder, restored, form, jobs, proof):
    """All sessions that count and dump see one snapshot, and its proof is compared with that, not with what is there now."""
    connection.execute(
        "CREATE TABLE a (id bigserial PRIMARY KEY, v text); CREATE TABLE b (id int, n int); CREATE TABLE c (id int);"
        "INSERT INTO a (v) SELECT md5(g::text) FROM generate_series(1, 100000) g; INSERT INTO b SELECT g, 0 FROM "
        "generate_series(1, 200) g"
    )
    changes = (
        "INSERT INTO a (v) VALUES ('new'); UPDATE b SET n = n + 1 WHERE id % 10 = 1; DELETE FROM a WHERE id % 7 = 3"
    )
    replaces = "TRUNCATE c; INSERT INTO c SELECT g FROM generate_series(1, 100) g"
    with writing(cluster, database, changes, 0), writing(cluster, database, replaces, 0.2):
        told = take(connection, folder, form=form, jobs=jobs, proof=proof).manifest
    assert (told["dump"]["form"], told["proof"]["kind"]) == (form, proof)
    copy = restored(folder / f"{ID}.dump")
    assert counts(copy) == told["tables"]
    assert sequences(copy) == told["sequences"]
    assert told["tables"]["public.c"]["rows"] == 100
    assert counts(connection) != told["tables"]


def test_a_worker_of_pg_dump_that_is_turned_away_is_done_without(cluster, database, connection, folder, restored):
    """It locks its table when its turn comes, and gives up when somebody waits to have it for himself alone."""
    big = "AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 60000) g"
    connection.execute(f"CREATE TABLE a {big}; CREATE TABLE b {big}; CREATE TABLE t AS SELECT 1 AS id")

    def truncate():
        wait_for(lambda: list(folder.glob("*.part/*.dat*")), 20)
        with cluster.connect(database, application_name="app") as other:
            other.execute("TRUNCATE t; INSERT INTO t VALUES (2), (3)")

    truncating = threading.Thread(target=truncate)
    truncating.start()
    done = take(connection, folder, form="directory", jobs=2)
    truncating.join()
    (warning,) = done.warnings
    assert warning.startswith("one session has dumped what ")
    assert warning.endswith('pg_dump failed: could not obtain lock on relation "public.t"')
    assert done.manifest["tables"]["public.t"]["rows"] == 2
    assert counts(restored(folder / f"{ID}.dump")) == done.manifest["tables"]


def test_who_wants_a_table_between_our_lock_and_pg_dumps_is_let_through(cluster, database, connection, folder):
    """He would wait for us, pg_dump for him and we for pg_dump; seen at once, he waits a moment only."""
    connection.execute("CREATE TABLE t (id int)")
    with writing(cluster, database, "SET statement_timeout = '1500ms'; TRUNCATE t", 0):
        started = time.monotonic()
        text = refusal(connection, folder, lock_wait_ms=2000)
        assert 2 <= time.monotonic() - started < 5
    assert "the backup waited 2 s for public.t, which is locked by pid" in text
    assert 'postgres (app, active) "SET statement_timeout' in text


def test_a_truncate_in_flight_never_leaves_a_state_that_never_was(cluster, database, connection, folder, restored):
    """Its commit falls between the beginning of our transaction and our lock; no snapshot may be older than it."""
    connection.execute("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 100) g")
    with cluster.connect(database, autocommit=False) as other:
        other.execute("TRUNCATE t; INSERT INTO t VALUES (1), (2), (3)")
        committer = threading.Timer(0.7, other.commit)
        committer.start()
        told = take(connection, folder).manifest
        committer.join()
    assert told["tables"]["public.t"]["rows"] == 3
    assert counts(restored(folder / f"{ID}.dump")) == told["tables"]


@contextmanager
def holding(cluster, database, statement):
    """Another session that has run a statement and does not commit."""
    with cluster.connect(database, autocommit=False, application_name="reporting") as other:
        other.execute(statement)
        yield other.info.backend_pid
        other.rollback()


def test_a_locked_table_is_waited_for_and_its_holder_named(cluster, database, connection, folder):
    connection.execute("CREATE TABLE t (id int); CREATE TABLE u (id int)")
    with holding(cluster, database, "LOCK TABLE t") as pid:
        text = refusal(connection, folder, lock_wait_ms=200)
    assert text == (
        f"the backup waited 0.2 s for a table, which is locked by pid {pid} postgres (reporting, idle in transaction) "
        '"LOCK TABLE t"; end that session or wait for it, then run this again'
    )


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("CREATE OR REPLACE VIEW v AS SELECT 1 AS one", "v"),
        ("DROP SEQUENCE s", "s"),
    ],
)
def test_what_pg_dump_would_wait_for_without_end(cluster, database, connection, folder, statement, name):
    connection.execute("CREATE VIEW v AS SELECT 1 AS one; CREATE SEQUENCE s")
    with holding(cluster, database, statement) as pid:
        text = refusal(connection, folder, lock_wait_ms=300)
        assert f"waited 0.3 s for public.{name}, which is locked by pid {pid} postgres" in text
        assert sessions(cluster) == []


def sessions(cluster) -> list[str]:
    with cluster.connect() as admin:
        rows = admin.execute("SELECT application_name FROM pg_stat_activity WHERE application_name ~ '^runbook'")
        return [name for (name,) in rows]


@contextmanager
def stuck_backup(cluster, database, folder, run=RUN):
    """A backup in another thread whose pg_dump waits for a view; yields pg_dump's process ids and a list of one error."""
    outcome: list[BaseException | None] = []

    def run_it():
        with cluster.connect(database, application_name=f"runbook/{run}") as session:
            try:
                take(session, folder, run)
                outcome.append(None)
            except BackupError as error:
                outcome.append(error)

    with holding(cluster, database, "CREATE OR REPLACE VIEW v AS SELECT 1 AS one"):
        thread = threading.Thread(target=run_it, daemon=True)
        thread.start()
        wait_for(lambda: waiting(cluster) == 2)
        yield programs(f"runbook/{run}"), outcome
    thread.join(20)


def waiting(cluster) -> int:
    with cluster.connect() as admin:
        text = "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^runbook' AND wait_event_type = 'Lock'"
        return admin.execute(text).fetchone()[0]


def programs(text: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if text.encode() in command and b"pg_dump" in command:
            found.append(int(path.parent.name))
    return found


def test_every_session_has_the_name_of_the_run_and_watches_its_client(cluster, database, connection, folder):
    connection.execute("CREATE VIEW v AS SELECT 1 AS one")
    with stuck_backup(cluster, database, folder) as (pids, outcome):
        assert sessions(cluster) == [f"runbook/{RUN}"] * 3
        assert len(pids) == 2
        for pid in pids:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            (options,) = [line for line in environment if line.startswith(b"PGOPTIONS=")]
            assert b"-c client_connection_check_interval=500" in options
    assert outcome == [None]
    assert names(folder) == [f"{ID}.dump", f"{ID}.globals.sql", f"{ID}.json"]


def test_a_killed_pg_dump_is_told_and_leaves_nothing(cluster, database, connection, folder):
    connection.execute("CREATE VIEW v AS SELECT 1 AS one")
    with stuck_backup(cluster, database, folder) as (pids, outcome):
        assert names(folder) == [f"{ID}.dump.part"]
        os.kill(pids[0], signal.SIGKILL)
        wait_for(lambda: outcome)
        assert str(outcome[0]) == "pg_dump was ended by SIGKILL; put that right and run this again"
        assert names(folder) == []
        wait_for(lambda: sessions(cluster) == [])


@pytest.mark.parametrize("which", ["ours", "pg_dump's"])
def test_a_session_that_is_ended_is_told_and_leaves_nothing(cluster, database, connection, folder, which):
    connection.execute("CREATE VIEW v AS SELECT 1 AS one")
    condition = "= 'Lock'" if which == "pg_dump's" else "IS DISTINCT FROM 'Lock'"
    with stuck_backup(cluster, database, folder) as (_, outcome):
        with cluster.connect() as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE application_name ~ '^runbook' AND wait_event_type {condition}"
            )
        wait_for(lambda: outcome)
        assert "terminating connection due to administrator command" in str(outcome[0])
        assert names(folder) == []
        wait_for(lambda: sessions(cluster) == [] and programs(f"runbook/{RUN}") == [])


def wait_for(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Refusals


@pytest.fixture
def roles(cluster):
    """Two ordinary roles, an owner and an outsider."""
    owner, outsider = (f"{word}_{os.getpid()}" for word in ("owner", "outsider"))
    with cluster.connect() as admin:
        admin.execute(f"CREATE ROLE {owner} LOGIN; CREATE ROLE {outsider} LOGIN")
    yield owner, outsider
    with cluster.connect() as admin:
        for database in [name for (name,) in admin.execute("SELECT datname FROM pg_database WHERE datallowconn")]:
            with cluster.connect(database) as session:
                session.execute(f"DROP OWNED BY {owner}, {outsider}")
        admin.execute(f"DROP ROLE {owner}, {outsider}")


def test_row_level_security_is_refused_by_name(cluster, database, connection, folder, roles):
    owner, outsider = roles
    connection.execute(
        f"CREATE TABLE secrets (id int); INSERT INTO secrets VALUES (1), (2); ALTER TABLE secrets OWNER TO {owner}; "
        f"GRANT SELECT ON secrets TO {outsider}; ALTER TABLE secrets ENABLE ROW LEVEL SECURITY; "
        "CREATE POLICY one ON secrets USING (id = 1); CREATE TABLE plain (id int)"
    )
    connection.execute(f"GRANT SELECT ON plain TO {owner}, {outsider}")
    with cluster.connect(database, user=outsider) as session:
        assert refusal(session, folder) == (
            f"role {outsider} sees only a part of public.secrets because of row-level security, and a backup of a part "
            f'is none; take it as a superuser or as a role with BYPASSRLS (ALTER ROLE "{outsider}" BYPASSRLS)'
        )
    with cluster.connect(database, user=owner) as session:
        assert take(session, folder).manifest["tables"]["public.secrets"]["rows"] == 2
        connection.execute("ALTER TABLE secrets FORCE ROW LEVEL SECURITY")
        shutil.rmtree(folder)
        assert f"role {owner} sees only a part of public.secrets" in refusal(session, folder)
        with pytest.raises(BackupError, match="row-level security"):
            dump.plan_backup(session, folder, "local", RUN, HOW)
        connection.execute(f"ALTER ROLE {owner} BYPASSRLS")
        assert take(session, folder).manifest["tables"]["public.secrets"]["rows"] == 2


def test_a_table_that_may_not_be_read_is_refused_by_name(cluster, database, connection, folder, roles):
    for name in "abcde":
        connection.execute(f"CREATE TABLE {name} (id int)")
    _, outsider = roles
    with cluster.connect(database, user=outsider) as session:
        assert refusal(session, folder) == (
            f"role {outsider} may not read public.a, public.b, public.c and 2 more tables; take the backup as the "
            f'owner or grant the right to read everything (GRANT pg_read_all_data TO "{outsider}")'
        )
        connection.execute(f"GRANT pg_read_all_data TO {outsider}")
        assert len(take(session, folder).manifest["tables"]) == 5


def test_a_large_object_that_may_not_be_read_is_refused_by_number(cluster, database, connection, folder, roles):
    _, outsider = roles
    connection.execute("SELECT lo_from_bytea(4711, 'large'), lo_from_bytea(4712, 'larger')")
    with cluster.connect(database, user=outsider) as session:
        assert refusal(session, folder) == (
            f"role {outsider} may not read 2 large objects; take the backup as a superuser or as the owner or grant the "
            f'right (GRANT SELECT ON LARGE OBJECT 4711 TO "{outsider}")'
        )
        connection.execute(f"GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC; ALTER LARGE OBJECT 4712 OWNER TO {outsider}")
        assert take(session, folder).manifest["large_objects"]["count"] == 2
        connection.execute("SELECT lo_unlink(4711), lo_unlink(4712)")


def test_missing_programs(connection, folder, tmp_path, monkeypatch):
    major = connection.info.server_version // 10000
    text = refusal(connection, folder, bin_dir=str(tmp_path))
    assert text == f"there is no pg_dump in {tmp_path}; install the PostgreSQL {major} client or set bin_dir"
    (tmp_path / "pg_dump").symlink_to(postgres.tool("pg_dump"))
    assert "there is no pg_restore in" in refusal(connection, folder, bin_dir=str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "there is no pg_dump in the PATH" in refusal(connection, folder, bin_dir=None)
    monkeypatch.setenv("PATH", BIN)
    assert take(connection, folder, bin_dir=None).manifest["id"] == ID


@pytest.mark.parametrize("content", ["#!/bin/sh\nexit 3\n", "#!/nowhere\n", "\x7fELF"])
def test_a_program_that_does_not_work(connection, folder, tmp_path, content):
    for name in ("pg_dump", "pg_restore"):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    assert str(tmp_path / "pg_dump") in refusal(connection, folder, bin_dir=str(tmp_path))


@pytest.mark.skipif(not OLD_CLIENT.exists(), reason="needs an older client in /usr/lib/postgresql/15/bin")
def test_a_client_older_than_the_server_is_refused(connection, folder):
    major = connection.info.server_version // 10000
    if major <= 15:
        pytest.skip("the server is not newer than the client")
    text = refusal(connection, folder, bin_dir=str(OLD_CLIENT))
    assert text.startswith(f"{OLD_CLIENT}/pg_dump is 15.")
    assert f"and cannot dump a server of version {major}; install the PostgreSQL {major} client or set" in text


@pytest.mark.skipif(not OLD_CLIENT.exists(), reason="needs an older client in /usr/lib/postgresql/15/bin")
def test_a_client_without_zstd_takes_gzip():
    assert client_programs.find_tools(str(OLD_CLIENT), 150000).compression == "gzip"


def test_the_dump_is_compressed_as_well_as_the_client_can(cluster, database, connection, folder):
    command = [postgres.tool("pg_dump"), "-h", str(cluster.folder), "-U", "postgres", "-Fc", "--compress=zstd"]
    possible = subprocess.run([*command, database], capture_output=True).returncode == 0
    told = take(connection, folder).manifest["dump"]
    assert told["compression"] == ("zstd" if possible else "gzip")
    listing = subprocess.run(
        [postgres.tool("pg_restore"), "--list", folder / told["file"]], check=True, capture_output=True, text=True
    ).stdout
    assert ("Compression: zstd" in listing) == possible
    assert "Compression: none" not in listing


def test_a_second_backup_of_the_run_is_refused(connection, folder):
    first = take(connection, folder).manifest
    with pytest.raises(BackupError, match="is there already; a run takes one backup, start another run"):
        take(connection, folder)
    assert manifest.read(folder / f"{ID}.json") == first
    assert names(folder) == [f"{ID}.dump", f"{ID}.globals.sql", f"{ID}.json"]


def test_left_overs_of_dead_runs_are_removed(connection, folder):
    folder.mkdir()
    (folder / "local-20261122t100000z-aaa.dump.part").write_text("half")
    assert take(connection, folder).removed == ["local-20261122t100000z-aaa.dump.part"]
    assert names(folder) == [f"{ID}.dump", f"{ID}.globals.sql", f"{ID}.json"]


@contextmanager
def small_disk(place: Path, megabytes: int):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_disk_without_room_is_refused_beforehand(connection, tmp_path):
    with small_disk(tmp_path, 1):
        text = refusal(connection, tmp_path / "b")
        assert not (tmp_path / "b").exists()
    assert re.fullmatch(rf"space for the backup: 1 MB free, \d.* MB needed; make room in {tmp_path}/b", text)


def test_a_disk_that_fills_up_meanwhile(connection, tmp_path):
    def fill() -> None:
        wait_for(lambda: (folder / f"{ID}.dump.part").exists())
        with suppress(OSError), (tmp_path / "filler").open("wb") as file:
            while True:
                file.write(bytes(2**20))

    folder = tmp_path / "b"
    connection.execute("CREATE TABLE t AS SELECT gen_random_uuid() AS id FROM generate_series(1, 600000)")
    with small_disk(tmp_path, 150):
        filler = threading.Thread(target=fill)
        filler.start()
        text = refusal(connection, folder)
        filler.join()
        assert re.match(rf"the disk of {folder} is full: it had \d.* for the dump of a database of \d.* MB; make", text)
        assert text.endswith("make room or name another backup_dir, then run this again")
        (tmp_path / "filler").unlink()
        assert take(connection, folder).manifest["id"] == ID


# The proof


@pytest.fixture
def whole(connection, folder) -> Path:
    """A sound dump of some rows."""
    connection.execute("CREATE TABLE t AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 5000) g")
    take(connection, folder)
    return folder / f"{ID}.dump"


def damaged(data: bytes, seed: int) -> bytes:
    """A copy with one bit flipped (seeds 0 to 19) or cut short (20 to 29)."""
    chance = random.Random(seed)  # noqa: S311 - the same damage every time
    if seed >= 20:
        return data[: chance.choice([len(data) - 1, chance.randrange(len(data))])]
    changed = bytearray(data)
    changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def test_every_damage_is_found_when_reading_back(whole, tmp_path, connection):
    tools = client_programs.find_tools(BIN, connection.info.server_version)
    written, data = dump_files.digest_of(whole), whole.read_bytes()
    backup_proof.read_back(tools, whole, written)
    copy = tmp_path / "copy"
    for seed in range(30):
        copy.write_bytes(damaged(data, seed))
        with pytest.raises(BackupError, match=r"could not be read back whole \(.+\) and was not kept; check the disk"):
            backup_proof.read_back(tools, copy, written)


def test_reading_back_says_what_pg_restore_says(whole, tmp_path, connection):
    tools = client_programs.find_tools(BIN, connection.info.server_version)
    copy = tmp_path / "copy"
    copy.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(BackupError, match=r"\(pg_restore failed: could not read from input file: end of file\)"):
        backup_proof.read_back(tools, copy, dump_files.digest_of(copy))
    copy.write_bytes(b"")
    with pytest.raises(BackupError, match=r"\(pg_restore failed: input file is too short"):
        backup_proof.read_back(tools, copy, dump_files.digest_of(copy))


def test_every_later_damage_is_found_by_the_check(whole):
    data = whole.read_bytes()
    assert manifest.list_backups(whole.parent, check=True)[0].verified
    for seed in range(30):
        whole.write_bytes(damaged(data, seed))
        (found,) = manifest.list_backups(whole.parent, check=True)
        assert not found.verified, seed
    whole.write_bytes(data)
    assert manifest.list_backups(whole.parent, check=True)[0].verified


def test_permissions(connection, folder):
    before = os.umask(0)
    try:
        take(connection, folder)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600] * 3


def test_check_mode_writes_nothing_and_locks_nothing(cluster, database, connection, folder):
    connection.execute("CREATE TABLE t (id int)")
    with holding(cluster, database, "LOCK TABLE t"):
        plan = dump.plan_backup(connection, folder, "local", RUN, HOW)
    assert not folder.exists()
    assert plan["database_bytes"] > 1_000_000
    assert {key: plan[key] for key in ("id", "dump", "tables")} == {
        "id": ID,
        "dump": str(folder / f"{ID}.dump"),
        "tables": 1,
    }
    take(connection, folder)
    with pytest.raises(BackupError, match="is there already"):
        dump.plan_backup(connection, folder, "local", RUN, HOW)
