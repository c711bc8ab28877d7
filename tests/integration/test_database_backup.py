"""Backups of real databases: exact, proved, private."""

from __future__ import annotations

import os
import random
import subprocess
import time
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
)
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.properties import read_properties

from demo.embedded import postgres
from tests.integration.backing_up import BIN, HOW, ID, RUN, counts, holding, names, sequences, take
from tests.waiting import wait_for


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
    before = time.strftime("%Y-%m-%dT%H", time.gmtime())
    told = wait_for(lambda: taken_in_spite_of_limits(cluster, database, folder))
    for name in ("PGDATABASE", "PGPORT", "PGOPTIONS"):
        monkeypatch.delenv(name)
    assert told["tables"]["public.t"]["rows"] == 200000
    assert before <= told["taken_at"][:13] <= time.strftime("%Y-%m-%dT%H", time.gmtime())
    assert counts(restored(folder / f"{ID}.dump")) == told["tables"]


def taken_in_spite_of_limits(cluster, database, folder) -> dict | None:
    """Until they are off, a busy machine may need longer than they allow."""
    with cluster.connect(database, options="") as session:
        try:
            return take(session, folder).manifest
        except (BackupError, psycopg.Error) as error:
            assert "timeout" in str(error) or "closed the connection" in str(error), error
    return None


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


def test_left_overs_of_dead_runs_are_removed(connection, folder):
    folder.mkdir()
    (folder / "local-20261122t100000z-aaa.dump.part").write_text("half")
    assert take(connection, folder).removed == ["local-20261122t100000z-aaa.dump.part"]
    assert names(folder) == [f"{ID}.dump", f"{ID}.globals.sql", f"{ID}.json"]


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
