"""Copies inside the server: a restore point, the swap, and what is left when something goes wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import copies
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError

from tests.waiting import wait_for

RUN = "20261122t100211z-k3f"
LATER = "20261122t110211z-b7q"


@pytest.fixture
def admin(cluster, database):
    """A connection to another database; every copy is dropped after the test."""
    with cluster.connect() as connection:
        yield connection
        for copy in copies.list_copies(connection, database):
            connection.execute(f'DROP DATABASE "{copy.name}" WITH (FORCE)')


def marked(cluster, name: str, mark: str) -> None:
    with cluster.connect(name) as connection:
        connection.execute(f"CREATE TABLE mark AS SELECT '{mark}'::text AS mark")


def mark_of(cluster, name: str) -> str:
    with cluster.connect(name) as connection:
        return connection.execute("SELECT mark FROM mark").fetchone()[0]


def incoming(cluster, admin, database) -> str:
    name = copies.copy_name(database, copies.RESTORE, RUN)
    admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    marked(cluster, name, "restored")
    marked(cluster, database, "live")
    return name


@pytest.mark.parametrize("name", ["habitat", "h" * 63, "ä" * 31, "Großes Haus_before_x"])
def test_names_fit_and_are_found_again(name):
    for kind in (copies.BEFORE, copies.POINT, copies.RESTORE):
        made = copies.copy_name(name, kind, RUN)
        assert len(made.encode()) <= 63
        assert copies.copy_kind(name, made) == (kind, RUN)
    assert copies.copy_kind("habitat", "habitat_before_" + RUN + "x") is None
    assert copies.copy_kind("habitat", "habitat2_before_" + RUN) is None
    assert copies.copy_name("h" * 63, "point", RUN) != copies.copy_name("h" * 62, "point", RUN)


def test_a_swap_gives_both_their_new_names(cluster, admin, database):
    name = incoming(cluster, admin, database)
    done = copies.swap(cluster.connect, database, name, RUN)
    assert done.kept_as == f"{database}_before_{RUN}"
    assert (mark_of(cluster, database), mark_of(cluster, done.kept_as)) == ("restored", "live")
    assert [copy.kind for copy in copies.list_copies(admin, database)] == ["before"]


def test_clients_that_reconnect_fifty_times_a_second_do_not_stop_it(cluster, admin, database):
    name = incoming(cluster, admin, database)
    stop, connected = threading.Event(), []

    def reconnect(seconds: float) -> None:
        while not stop.is_set():
            try:
                with cluster.connect(database) as client:
                    connected.append(client.execute("SELECT mark FROM mark").fetchone()[0])
                    client.execute("SELECT pg_sleep(%s)", [seconds])
            except psycopg.Error:
                time.sleep(0.01)

    clients = [threading.Thread(target=reconnect, args=(seconds,)) for seconds in (0.02, 0.02, 0.02, 0.1)]
    for client in clients:
        client.start()
    try:
        while len(connected) < 40:
            time.sleep(0.01)
        done = copies.swap(cluster.connect, database, name, RUN)
        after = len(connected)
        deadline = time.monotonic() + 20
        while len(connected) < after + 40 and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert done.sessions_ended > 0
    assert connected[-20:] == ["restored"] * 20
    assert mark_of(cluster, done.kept_as) == "live"


def test_a_session_nobody_may_end_is_named_and_nothing_changes(cluster, admin, database):
    name = incoming(cluster, admin, database)
    role = f"owner_{database}"
    admin.execute(f"CREATE ROLE {role} LOGIN CREATEDB")
    try:
        for one in (database, name):
            admin.execute(f'ALTER DATABASE "{one}" OWNER TO {role}')
        with cluster.connect(database, application_name="nightly report") as stays:
            with pytest.raises(BackupError, match=r"still in use by pid .* postgres .nightly report"):
                copies.swap(lambda: cluster.connect(user=role), database, name, RUN)
            assert stays.execute("SELECT mark FROM mark").fetchone() == ("live",)
        assert mark_of(cluster, database) == "live"
    finally:
        for one in (database, name):
            admin.execute(f'ALTER DATABASE "{one}" OWNER TO postgres')
        admin.execute(f"DROP ROLE {role}")


def test_a_role_that_may_not_rename_is_told_what_to_do(cluster, admin, database):
    name = incoming(cluster, admin, database)
    role = f"owner_{database}"
    admin.execute(f"CREATE ROLE {role} LOGIN")
    try:
        admin.execute(f'ALTER DATABASE "{database}" OWNER TO {role}')
        with pytest.raises(BackupError, match=f"ALTER ROLE {role} CREATEDB|ALTER ROLE .{role}. CREATEDB"):
            copies.swap(lambda: cluster.connect(user=role), database, name, RUN)
    finally:
        admin.execute(f'ALTER DATABASE "{database}" OWNER TO postgres')
        admin.execute(f"DROP ROLE {role}")
    assert mark_of(cluster, database) == "live"


SWAP = """
import psycopg, sys
from ansible_collections.habitat.runbook.plugins.module_utils import copies
folder, database, incoming, run = sys.argv[1:]
connect = lambda: psycopg.connect(host=folder, user="postgres", dbname="postgres", autocommit=True,
                                  options="-c client_connection_check_interval=100ms")
connect().close()
print("ready", flush=True)
copies.swap(connect, database, incoming, run)
print("done", flush=True)
"""


def test_killed_at_any_moment_it_is_whole_or_nothing(cluster, admin, database):
    name = incoming(cluster, admin, database)
    kept = copies.copy_name(database, copies.BEFORE, RUN)
    seen = set()
    for number in range(20):
        process = subprocess.Popen(
            [sys.executable, "-c", SWAP, str(cluster.folder), database, name, RUN], stdout=subprocess.PIPE
        )
        assert process.stdout
        process.stdout.readline()
        time.sleep(number * 0.012)
        process.kill()
        process.wait()
        deadline = time.monotonic() + 20
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'postgres' AND pid <> pg_backend_pid()"
        while admin.execute(query).fetchone()[0] and time.monotonic() < deadline:
            time.sleep(0.02)
        here = {copy.kind for copy in copies.list_copies(admin, database)}
        mark = mark_of(cluster, database)
        assert (here, mark) in (({"restore"}, "live"), ({"before"}, "restored"))
        row = admin.execute("SELECT bool_and(datallowconn) FROM pg_database WHERE datname <> 'template0'").fetchone()
        assert row == (True,)
        seen.add(mark)
        if mark == "restored":
            admin.execute(f'ALTER DATABASE "{database}" RENAME TO "{name}"')
            admin.execute(f'ALTER DATABASE "{kept}" RENAME TO "{database}"')
    assert "live" in seen


@pytest.fixture
def nobody_confirms(cluster):
    """COMMIT waits for a standby that never comes, except in sessions that do not want one."""
    with cluster.connect() as session:
        session.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        session.execute("SELECT pg_reload_conf()")
        wait_for(lambda: _setting(cluster, "synchronous_standby_names") == "nobody")
        # The checkpointer decides whether COMMIT waits.
        session.execute("CHECKPOINT")
        yield
        session.execute("ALTER SYSTEM RESET synchronous_standby_names")
        session.execute("SELECT pg_reload_conf()")


def _setting(cluster, name: str) -> str:
    with cluster.connect() as session:
        return session.execute("SELECT current_setting(%s)", [name]).fetchone()[0]


def test_a_commit_whose_answer_is_lost_is_not_taken_for_none(cluster, admin, database, nobody_confirms):
    """The server goes on with it, and does not know that nobody listens any more."""
    admin.execute("SET synchronous_commit = local")
    name, opened = copies.copy_name(database, copies.RESTORE, RUN), []
    admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')

    def connect():
        opened.append(cluster.connect())
        return opened[-1]

    with ThreadPoolExecutor(1) as aside:
        swapped = aside.submit(copies.swap, connect, database, name, RUN)
        wait_for(lambda: opened)
        renamer = opened[0].info.backend_pid
        waits = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
        try:
            wait_for(lambda: admin.execute(waits, [renamer]).fetchone())
            with socket.socket(fileno=os.dup(opened[0].fileno())) as link:
                link.shutdown(socket.SHUT_RDWR)
        except BaseException:
            admin.execute("SELECT pg_terminate_backend(%s)", [renamer])
            raise
        assert swapped.result().kept_as == f"{database}_before_{RUN}"


def test_a_restore_point_is_the_database_and_only_half_made_copies_are_dropped(cluster, admin, database):
    marked(cluster, database, "live")
    name = copies.take_point(admin, database, RUN)
    assert mark_of(cluster, name) == "live"
    later = copies.take_point(admin, database, LATER)
    kept = copies.copy_name(database, copies.BEFORE, RUN)
    admin.execute(f'CREATE DATABASE "{kept}" TEMPLATE template0')
    with cluster.connect(name):
        assert copies.drop_copies(admin, database, [copies.POINT, copies.RESTORE], keep=later) == [name]
    assert [copy.name for copy in copies.list_copies(admin, database)] == [later, kept]
    with pytest.raises(ValueError, match="rows that are nowhere else"):
        copies.drop_copies(admin, database, [copies.BEFORE])


def test_no_restore_point_while_somebody_is_at_work(cluster, admin, database):
    with cluster.connect(database, application_name="report") as busy:
        busy.execute("BEGIN")
        with pytest.raises(BackupError, match=r"still in use by pid .* .report, idle in transaction"):
            copies.take_point(admin, database, RUN)
    assert copies.list_copies(admin, database) == []
