"""Backups while others work: they write, they hold locks, and somebody ends what belongs to a backup."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import client_programs, manifest, table_counts
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError

from tests.integration.backing_up import ID, RUN, counts, holding, names, refusal, sequences, take
from tests.waiting import wait_for


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
        assert done.wait(120)
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
    with writing(cluster, database, changes, 0), writing(cluster, database, replaces, 1.0):
        told = take(connection, folder, form=form, jobs=jobs, proof=proof).manifest
    assert (told["dump"]["form"], told["proof"]["kind"]) == (form, proof)
    copy = restored(folder / f"{ID}.dump")
    assert counts(copy) == told["tables"]
    assert sequences(copy) == told["sequences"]
    assert told["tables"]["public.c"]["rows"] == 100
    assert counts(connection) != told["tables"]


def test_a_worker_of_pg_dump_that_is_turned_away_is_done_without(cluster, database, connection, folder, restored):
    """It locks its table when its turn comes, and gives up when somebody waits to have it for himself alone."""
    big = "AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 300000) g"
    connection.execute(f"CREATE TABLE a {big}; CREATE TABLE b {big}; CREATE TABLE t AS SELECT 1 AS id")

    over = threading.Event()

    def truncate():
        """Again and again: the first may come before the other session of pg_dump has its lock."""
        with cluster.connect(database, application_name="app") as other:
            while not over.wait(0.002):
                if list(folder.glob("*.part/*.dat*")):
                    other.execute("TRUNCATE t; INSERT INTO t VALUES (2), (3)")

    truncating = threading.Thread(target=truncate)
    truncating.start()
    try:
        done = take(connection, folder, form="directory", jobs=2)
    finally:
        over.set()
        truncating.join()
    (warning,) = done.warnings
    assert warning.startswith("one session has dumped what ")
    assert warning.endswith('pg_dump failed: could not obtain lock on relation "public.t"')
    assert done.manifest["tables"]["public.t"]["rows"] == 2
    assert counts(restored(folder / f"{ID}.dump")) == done.manifest["tables"]


def test_who_wants_a_table_between_our_lock_and_pg_dumps_is_let_through(cluster, database, connection, folder):
    """He would wait for us, pg_dump for him and we for pg_dump; seen at once, he waits a moment only."""
    connection.execute("CREATE TABLE t (id int)")
    with writing(cluster, database, "SET statement_timeout = '5s'; TRUNCATE t", 0):
        started = time.monotonic()
        text = refusal(connection, folder, lock_wait_ms=6000)
        assert 6 <= time.monotonic() - started < 120
    assert "the backup waited 6 s for public.t, which is locked by pid" in text
    assert 'postgres (app, active) "SET statement_timeout' in text


def test_who_wants_a_table_between_pg_dumps_lock_and_that_of_who_counts_is_let_through(
    cluster, database, connection, folder, monkeypatch
):
    """pg_dump may be done with a small database before that session is there."""
    connection.execute("CREATE TABLE t AS SELECT 1 AS id")

    def truncate():
        with cluster.connect(database, application_name="app") as other:
            other.execute("TRUNCATE t; INSERT INTO t VALUES (2), (3)")

    truncating = threading.Thread(target=truncate)
    waits = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'app' AND wait_event_type = 'Lock'"

    def late(connection):
        if truncating.ident is None:
            wait_for(lambda: not programs(f"runbook/{RUN}"))
            truncating.start()
            with cluster.connect() as admin:
                wait_for(lambda: admin.execute(waits).fetchone())
        return client_programs.reopened(connection)

    monkeypatch.setattr(table_counts, "reopened", late)
    told = take(connection, folder).manifest
    truncating.join()
    assert told["tables"]["public.t"]["rows"] == 2


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
        # Ours, and none of pg_dump's.
        wait_for(lambda: sessions(cluster) == [f"runbook/{RUN}"])


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
    thread.join(120)


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
