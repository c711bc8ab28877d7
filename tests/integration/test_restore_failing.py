"""Restores that fail, or are killed, in the middle: neither database nor session stays."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, quoted

from demo.embedded import postgres
from tests.integration.restoring import ID, RUN, bench, owner  # noqa: F401 - fixtures among them
from tests.waiting import wait_for

# ruff: noqa: F811

# Slow in the copy only.
SLOW_INDEX = """
CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 3) g;
CREATE TABLE u AS SELECT 1 AS id;
CREATE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
$$BEGIN IF current_database() ~ 'Copy' THEN PERFORM pg_sleep(60); END IF; RETURN i; END$$;
CREATE INDEX slow ON t (slow(id));
"""


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
    connection.execute(SLOW_INDEX)
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
    connection.execute(SLOW_INDEX)
    bench.take()
    program = (
        "from pathlib import Path; from tests.conftest import Cluster; from tests.integration.restoring import Bench\n"
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
