"""The window: what a step that changes the database has around it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import (
    fence,
    migrate,
    restore_point,
)
from ansible_collections.habitat.runbook.plugins.module_utils.bundle_writer import write_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted
from ansible_collections.habitat.runbook.plugins.module_utils.schema_folder import read_schema
from ansible_collections.habitat.runbook.plugins.modules.preflight import changes_access

from tests.integration.fenced import (  # noqa: F401 - fixtures among them
    APP,
    GUEST,
    LATE,
    NEXT_RUN,
    RUN,
    Client,
    Place,
    place,
    server,
)
from tests.waiting import wait_for

# ruff: noqa: F811


def test_in_50_windows_a_client_that_always_comes_back_writes_nothing(place):
    place.lock()
    with Client(place, APP) as client:
        for _ in range(50):
            with place.window() as alone:
                assert alone.refusal is None
                before = place.count()
                time.sleep(0.03)
                assert place.count() == before
            assert client.writes(), "it is let in again"


def test_who_was_let_in_a_moment_before_is_waited_for(place):
    place.lock()
    wrote = []

    def late() -> None:
        with contextlib.suppress(psycopg.Error), place.connect(APP, options=LATE) as session:
            session.execute("UPDATE counter SET n = n + 1")
            wrote.append(1)
            time.sleep(1)

    with place.connect() as owner:
        client = threading.Thread(target=late)
        client.start()
        wait_for(lambda: fence.logins(owner))
        with place.window(drain=20.0) as alone:
            assert alone.refusal is None
            before = place.count()
            client.join(60)
            assert place.count() == before == len(wrote)


def test_who_does_not_come_in_is_a_refusal(place):
    place.lock()

    def late() -> None:
        with contextlib.suppress(psycopg.Error):
            # Longer than others need: a window is opened and refused meanwhile.
            place.connect(APP, options="-c post_auth_delay=8").close()

    with place.connect() as owner:
        client = threading.Thread(target=late)
        client.start()
        wait_for(lambda: fence.logins(owner))
        (pid,) = fence.logins(owner)
        with place.window(drain=0.2) as alone:
            assert alone.refusal.what == "1 session still logging in after 0 s"
            assert alone.refusal.found == f"pid {pid}"
    assert not place.closed()
    assert place.may_connect(APP)
    client.join(60)


def test_a_fence_that_cannot_be_closed_is_a_refusal(place):
    place.lock()
    before = place.acl()
    with place.admin() as other, other.transaction(force_rollback=True):
        other.execute(f"GRANT TEMPORARY ON DATABASE {place.name} TO {APP}")
        with place.window() as alone:
            assert alone.refusal.what == "the application cannot be kept out of the database"
            assert "lock timeout" in alone.refusal.found
    # What could not be given back yet, the end of the run gives.
    os.kill(place.guard(), signal.SIGTERM)
    wait_for(lambda: not place.run_dir.exists())
    assert place.acl() == before


@pytest.mark.parametrize("whose", [None, NEXT_RUN])
def test_without_the_lock_nothing_begins_and_everybody_may_connect(place, whose):
    place.run_dir.mkdir(parents=True)
    (place.run_dir / "step").write_text("x")
    if whose:
        place.lock(whose)
    with place.window() as alone:
        assert not place.may_connect(APP)
        assert alone.refusal.what == "this run does not hold the run lock"
        assert alone.refusal.found == (f"held by run {whose}" if whose else "nobody holds it")
    assert place.may_connect(APP)
    assert not place.closed()


def test_a_writer_at_work_is_a_refusal_and_one_that_is_idle_is_ended(place):
    place.lock()
    with place.connect(APP) as idle, place.connect(APP) as busy:
        busy.execute("BEGIN; SELECT 1")
        with place.window(drain=3.0) as alone:
            assert alone.refusal.what == "1 session of the stopped services still connected after 3 s"
            with pytest.raises(psycopg.OperationalError):
                idle.execute("SELECT 1")
        assert place.may_connect(APP)
        assert busy.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("stays_closed", [False, True])
def test_it_is_opened_whatever_happens_unless_it_is_to_stay(place, stays_closed):
    place.lock()
    with pytest.raises(ZeroDivisionError), place.window() as alone:
        alone.stays_closed = stays_closed
        raise ZeroDivisionError
    assert place.closed() is stays_closed
    assert place.may_connect(APP) is not stays_closed


def test_a_module_without_a_run_has_no_fence(place):
    with place.window(run_dir=None) as alone:
        assert (alone.refusal, alone.fence) == (None, None)
        assert place.may_connect(APP)


def test_a_restore_point_has_the_rights_that_the_database_has_not_now(place):
    place.lock()
    before = place.acl()
    with place.window() as alone:
        point = restore_point.take(place.ours, place.database, RUN, alone.fence)
        assert point["name"], point
        assert place.acl(point["name"]) == before
        assert place.acl() != before
        assert place.may_connect(APP, point["name"])
        assert not place.may_connect(APP)


def migrated(place: Place, sql: str, point: str = "none") -> dict[str, Any]:
    """What module schema_migrations returns about one migration."""
    schema, plan = place.folder / "schema", place.folder / "plan"
    schema.mkdir()
    (schema / "01_x.sql").write_text(sql)
    found = read_schema(schema)
    write_bundle(plan, found.migrations)
    given = {
        "plan": str(plan),
        "env": "staging",
        "target": None,
        "restore_point": point,
        "lock_timeout": "500ms",
        "statement_timeout": "1min",
        "fence_by_right": not changes_access(str(plan), {"01"}),
    }
    with place.ours() as connection:
        # What is not of a migration's making would be refused.
        connection.execute("DROP TABLE counter")
        return migrate.migrate(connection, place.ours, place.parameters(**given), False, False)


@pytest.mark.parametrize(
    ("sql", "point", "closed"),
    [
        ("CREATE TABLE t (i int);", "wanted", False),
        ("SELECT 1/0;", "none", False),
        ("SELECT 1/0;", "required", True),
    ],
)
def test_after_a_failure_nobody_may_write_before_the_restore_point_is_back(place, sql, point, closed):
    place.lock()
    before = place.acl()
    done = migrated(place, sql, point)
    assert bool(done.get("failure")) is ("1/0" in sql), done
    assert place.closed() is closed
    assert place.may_connect(APP) is not closed
    if closed:
        assert place.module("database_access", check=True)["opened"] is True
        assert place.closed()
        assert place.module("database_access")["opened"] is True
        assert place.module("database_access")["opened"] is False
    assert place.acl() == before


def test_what_a_migration_changes_about_connecting_stays_as_it_says(place):
    place.lock()
    sql = f"REVOKE CONNECT ON DATABASE {place.name} FROM {APP}; GRANT CONNECT ON DATABASE {place.name} TO {quoted(GUEST)};"
    done = migrated(place, sql)
    assert "msg" not in done, done.get("msg")
    assert (place.may_connect(APP), place.may_connect(GUEST)) == (False, True)
    assert not place.closed()


def test_a_migration_that_changes_nothing_about_connecting_is_fenced_by_right(place):
    place.lock()
    assert "msg" not in migrated(
        place,
        "CREATE TABLE t AS SELECT has_database_privilege('fen_app', oid, 'CONNECT') "
        "AS may FROM pg_database WHERE datname = current_database();",
    )
    with place.connect() as owner:
        assert owner.execute("SELECT may FROM t").fetchone() == (False,)
