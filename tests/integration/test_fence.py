"""The fence: who may connect while a database is being changed, and that everybody gets back what they had."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import fence, holder, migrate, restore_point, run_lock
from ansible_collections.habitat.runbook.plugins.module_utils.bundle_writer import write_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options
from ansible_collections.habitat.runbook.plugins.module_utils.copies import list_copies
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted
from ansible_collections.habitat.runbook.plugins.module_utils.schema_folder import read_schema
from ansible_collections.habitat.runbook.plugins.module_utils.window import window
from ansible_collections.habitat.runbook.plugins.modules.preflight import changes_access

from demo.embedded import postgres
from tests.conftest import Cluster, _start
from tests.unit.conftest import golden  # noqa: F401 - a fixture

RUN, NEXT_RUN = "20261122t100211z-k3f", "20261122t110211z-b7q"
OWNER, APP, GUEST, SUPER, MEMBER = 'fen "owner"', "fen_app", "fen guest's", "fen_super", "fen_member"
ROLES = f"""
CREATE ROLE {quoted(OWNER)} LOGIN CREATEDB; CREATE ROLE {APP} LOGIN; CREATE ROLE {quoted(GUEST)} LOGIN;
CREATE ROLE {SUPER} LOGIN SUPERUSER; CREATE ROLE {MEMBER} LOGIN IN ROLE {quoted(OWNER)};
GRANT pg_read_all_stats, pg_signal_backend TO {quoted(OWNER)}"""
ACL = """
SELECT a.grantee::regrole::text, a.grantor::regrole::text, a.privilege_type, a.is_grantable
FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE d.datname = %s"""
MODULES = "ansible_collections.habitat.runbook.plugins.modules"
# A client that was let in sleeps so long before anybody can see it in pg_stat_activity.
LATE = "-c post_auth_delay=2"
_serial = itertools.count(1)


def wait_until(condition: Callable[[], Any], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


class Server:
    """A PostgreSQL that a test may stop and start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        postgres.init_cluster(folder / "data", "postgres")
        self.start()

    def start(self) -> None:
        self.process = _start(self.folder, listen_addresses="", fsync="off", max_connections="50")
        self.cluster = Cluster(self.folder, 5432, self.process.pid)
        assert wait_until(self.answers)

    def answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            self.cluster.connect().close()
            return True
        return False

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="habitat-fence-"))
    running = Server(folder)
    with running.cluster.connect() as admin:
        admin.execute(ROLES)
    yield running
    running.stop()
    shutil.rmtree(folder)


class Place:
    """A database of OWNER's that APP may connect to, and the folder of a run."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.database = f'fen "{next(_serial)}'
        self.name = quoted(self.database)
        self.runs = folder / "runs"
        self.run_dir = self.runs / RUN
        self.locked: list[Path] = []
        with self.admin() as admin:
            admin.execute(f"CREATE DATABASE {self.name} OWNER {quoted(OWNER)}")
            admin.execute(f"REVOKE CONNECT ON DATABASE {self.name} FROM PUBLIC")
            admin.execute(f"GRANT CONNECT ON DATABASE {self.name} TO {APP}")
        with self.connect() as owner:
            owner.execute("CREATE TABLE counter AS SELECT 0 AS n")
            owner.execute(f"GRANT ALL ON counter TO {APP}")

    def admin(self) -> psycopg.Connection:
        return self.server.cluster.connect()

    def connect(self, user: str = OWNER, database: str | None = None, **more: Any) -> psycopg.Connection:
        return self.server.cluster.connect(database or self.database, user=user, **more)

    def ours(self, database: str | None = None, user: str = OWNER) -> psycopg.Connection:
        """A session as the modules have them."""
        return self.connect(
            user, database, application_name=session_name(RUN), options=session_options("500ms", "1min")
        )

    def may_connect(self, user: str, database: str | None = None) -> bool:
        try:
            self.connect(user, database).close()
        except psycopg.OperationalError as error:
            assert "permission denied for database" in str(error)
            return False
        return True

    def acl(self, database: str | None = None) -> set[tuple]:
        with self.admin() as admin:
            return set(admin.execute(ACL, [database or self.database]).fetchall())

    def count(self) -> int:
        with self.connect() as owner:
            return owner.execute("SELECT n FROM counter").fetchone()[0]

    def lock(self, run_id: str = RUN, user: str = OWNER, pid: int | None = None, silence: float = 120) -> dict | None:
        folder = self.runs / run_id
        self.locked.append(folder)
        label = {"run_id": run_id, "operator": "alice", "from": "db1", "phase": "PREFLIGHT"}
        watch = {"controller_pid": pid, "silence": silence}
        return run_lock.acquire(folder, self.server.cluster.conninfo(user=user), self.database, label, watch)

    def held(self) -> dict[str, Any] | None:
        with self.admin() as admin:
            return run_lock.held_by(admin, self.database)

    def holder(self) -> int:
        pid = run_lock.holder_pid(self.run_dir)
        assert pid
        return pid

    def close(self, writers: list[str] | None = None, user: str = OWNER, **more: bool) -> dict[str, Any]:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with self.ours(user=user) as connection:
            return fence.close(connection, str(self.run_dir), writers or [APP], **more)

    def open_again(self) -> bool:
        with self.ours("postgres") as connection:
            return fence.open_again(connection, str(self.run_dir))

    def closed(self) -> bool:
        return (self.run_dir / holder.FENCE).exists()

    def parameters(self, **changes: Any) -> dict[str, Any]:
        base = {
            "login_db": self.database,
            "run_id": RUN,
            "run_dir": str(self.run_dir),
            "writer_roles": [APP],
            "drain": 10.0,
            "fence_by_right": True,
            "operator": "alice",
            "origin": "db1",
        }
        return {**base, **changes}

    def window(self, user: str = OWNER, **changes: Any) -> contextlib.AbstractContextManager:
        reconnect = lambda: self.ours(user=user)  # noqa: E731
        return window(reconnect(), reconnect, self.parameters(**changes), "APPLY")

    def module(self, name: str, check: bool = False, **options: Any) -> dict[str, Any]:
        login = {"login_user": OWNER, "login_unix_socket": str(self.server.folder), "login_db": self.database}
        given = {**login, "env": "local", "run_id": RUN, "run_dir": str(self.run_dir), **options}
        done = subprocess.run(
            [sys.executable, "-m", f"{MODULES}.{name}"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": {**given, "_ansible_check_mode": check}}),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.stderr == ""
        return json.loads(done.stdout)

    def remove(self) -> None:
        for folder in self.locked:
            pid = run_lock.holder_pid(folder)
            if pid:
                os.kill(pid, signal.SIGKILL)
        with self.admin() as admin:
            for copy in list_copies(admin, self.database):
                admin.execute(f"DROP DATABASE {quoted(copy.name)} WITH (FORCE)")
            admin.execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")


@pytest.fixture
def place(server, tmp_path) -> Iterator[Place]:
    made = Place(server, tmp_path)
    yield made
    made.remove()


class Client(threading.Thread):
    """Connects again and again, and writes: once per session, or (``stays``) until somebody ends the session."""

    def __init__(self, place: Place, user: str, stays: bool = False) -> None:
        super().__init__(daemon=True)
        self.place, self.user, self.stays = place, user, stays
        self.written = self.ended = 0
        self.since = time.monotonic()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            with contextlib.suppress(psycopg.Error), self.place.connect(self.user) as session:
                self.since = time.monotonic()
                self.write(session)
            time.sleep(0.01)

    def write(self, session: psycopg.Connection) -> None:
        try:
            while not self.over.is_set():
                session.execute("UPDATE counter SET n = n + 1")
                self.written += 1
                if not self.stays:
                    return
                time.sleep(0.005)
        except psycopg.Error:
            self.ended += 1

    def __enter__(self) -> Client:
        self.start()
        assert self.writes()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join(20)

    def writes(self) -> bool:
        before = self.written
        return wait_until(lambda: self.written > before)


# What closing takes and opening gives.

GRANTS = {
    "as after bootstrap": [],
    "the default": ["GRANT CONNECT ON DATABASE {} TO PUBLIC", f"REVOKE CONNECT ON DATABASE {{}} FROM {APP}"],
    "nobody": [f"REVOKE CONNECT ON DATABASE {{}} FROM {APP}"],
    "several, quoted, one with the grant option": [
        "GRANT CONNECT ON DATABASE {} TO PUBLIC",
        f"GRANT CONNECT ON DATABASE {{}} TO {quoted(GUEST)} WITH GRANT OPTION",
        f"GRANT CREATE ON DATABASE {{}} TO {APP}",
    ],
    "the owner's own right written down": [f"GRANT CONNECT ON DATABASE {{}} TO {quoted(OWNER)}"],
    "the owner without it": [f"REVOKE CONNECT ON DATABASE {{}} FROM {quoted(OWNER)}"],
}


@pytest.mark.parametrize("name", GRANTS)
def test_everybody_gets_back_exactly_what_they_had(place, name):
    with place.admin() as admin:
        for statement in GRANTS[name]:
            admin.execute(statement.format(place.name))
    before, app = place.acl(), place.may_connect(APP)
    record = place.close(user="postgres")
    lost = {entry for entry in before if entry[2] == "CONNECT" and entry[0] != quoted(OWNER)}
    assert place.acl() == before - lost, "nothing but the right to connect is taken"
    assert {(grant["oid"] == 0, grant["grantable"]) for grant in record["grants"]} == {
        (grantee == "-", grantable) for grantee, _, _, grantable in lost
    }
    assert not place.may_connect(APP)
    assert not place.may_connect(GUEST)
    assert place.may_connect("postgres")
    assert place.open_again() is True
    assert (place.acl(), place.may_connect(APP)) == (before, app)
    assert place.open_again() is False, "there is nothing more to give"


def test_a_role_is_let_in_under_its_new_name_and_one_that_is_gone_is_nobodys_trouble(place):
    with place.admin() as admin:
        admin.execute(
            f"CREATE ROLE fen_renamed LOGIN; CREATE ROLE fen_gone LOGIN; GRANT CONNECT ON DATABASE {place.name} "
            "TO fen_renamed, fen_gone"
        )
        place.close(user="postgres")
        admin.execute("ALTER ROLE fen_renamed RENAME TO fen_zz")
        admin.execute("DROP ROLE fen_gone")
        assert place.open_again() is True
        assert place.may_connect("fen_zz")
        assert place.may_connect(APP)
        admin.execute(f"REVOKE CONNECT ON DATABASE {place.name} FROM fen_zz; DROP ROLE fen_zz")


def test_the_owner_alone_may_close_and_open_and_nobody_loses_a_session(place):
    with place.admin() as admin:
        admin.execute(f"GRANT CONNECT ON DATABASE {place.name} TO PUBLIC")
    with place.connect(APP) as app, place.connect(GUEST) as guest:
        assert place.close()["ended_roles"] == []
        assert [place.may_connect(role) for role in (APP, GUEST, OWNER, MEMBER)] == [False, False, True, True]
        for session in (app, guest):
            assert session.execute("SELECT 1").fetchone() == (1,)
        with place.ours("postgres") as connection:
            assert fence.open_again(connection, str(place.run_dir))
    assert place.may_connect(APP)
    assert place.may_connect(GUEST)


def test_what_is_taken_is_on_record_before(place):
    before, failed = place.acl(), []

    def close() -> None:
        try:
            place.close()
        except psycopg.Error as error:
            failed.append(error)

    with place.admin() as other, other.transaction(force_rollback=True):
        other.execute(f"GRANT TEMPORARY ON DATABASE {place.name} TO {APP}")
        closing = threading.Thread(target=close)
        closing.start()
        assert wait_until(place.closed)
        assert place.acl() == before
        closing.join(20)
    assert isinstance(failed[0], psycopg.errors.LockNotAvailable)
    assert (place.run_dir / holder.FENCE).stat().st_mode & 0o777 == 0o600
    assert place.open_again()
    assert place.acl() == before


def test_closing_twice_keeps_the_first_record(place):
    before = place.acl()
    first = place.close()
    assert place.close() == first
    assert place.close(by_right=False) == first
    assert place.open_again()
    assert place.acl() == before


def test_a_database_that_was_renamed_meanwhile_is_opened_and_its_successor_left_alone(place):
    before = place.acl()
    place.close()
    kept = f"{place.database}_before_{RUN}"
    with place.admin() as admin:
        admin.execute(f"ALTER DATABASE {place.name} RENAME TO {quoted(kept)}")
        admin.execute(f"CREATE DATABASE {place.name}")
        untouched = place.acl()
        assert place.open_again()
        assert place.acl(kept) == before
        assert place.acl() == untouched


def test_a_database_that_was_dropped_meanwhile_needs_nothing(place):
    place.close()
    with place.admin() as admin:
        admin.execute(f"DROP DATABASE {place.name} WITH (FORCE)")
        assert fence.open_again(admin, str(place.run_dir)) is True
    assert not place.closed()


# Who is kept out how.


@pytest.mark.parametrize(
    ("user", "role", "ended"),
    [
        (OWNER, APP, []),
        (OWNER, MEMBER, [MEMBER]),
        # The holder would end with its first attempt, and the lock with it.
        (OWNER, SUPER, []),
        ("postgres", SUPER, [SUPER]),
        ("postgres", MEMBER, [MEMBER]),
        ("postgres", OWNER, [OWNER]),
    ],
)
def test_sessions_are_ended_of_those_that_no_right_keeps_out(place, user, role, ended):
    assert place.close([role, "nobody_known"], user=user)["ended_roles"] == ended


def test_a_right_that_somebody_passed_on_is_left_alone(place):
    with place.connect("postgres") as admin:
        admin.execute(f"GRANT CONNECT ON DATABASE {place.name} TO {quoted(GUEST)} WITH GRANT OPTION")
        admin.execute(f"SET ROLE {quoted(GUEST)}; GRANT CONNECT ON DATABASE {place.name} TO {MEMBER}; RESET ROLE")
    before = place.acl()
    record = place.close()
    assert (record["grants"], record["ended_roles"]) == ([], [APP])
    assert place.acl() == before


def test_who_is_kept_out_is_told(place):
    with place.connect() as owner:
        assert fence.kept_out(owner, [APP, SUPER, MEMBER, "nobody_known"]) == []
        place.close()
        assert fence.kept_out(owner, [APP, GUEST, SUPER, MEMBER, OWNER]) == [GUEST, APP]


def test_what_the_preflight_says(place, golden):  # noqa: F811 - a fixture
    def told(user: str, writers: list[str], **more: bool) -> str:
        with place.connect(user) as connection:
            checks = fence.check_fence(connection, writers, "staging", **more)
        lines = [f"{check.state}: {check.text}" + (f" -> {check.next}" if check.next else "") for check in checks]
        return "\n".join(
            [f"{user} asks about {', '.join(writers) or 'nobody'}{' not by right' if more else ''}", *lines]
        )

    scenes = [
        told(OWNER, [APP]),
        told(OWNER, [APP, GUEST]),
        told(OWNER, []),
        told(OWNER, [APP, "nobody_known"]),
        told(OWNER, [SUPER]),
        told("postgres", [SUPER, APP]),
        told(OWNER, [OWNER, MEMBER]),
        told(OWNER, [APP, MEMBER, SUPER], by_right=False),
    ]
    with place.admin() as admin:
        admin.execute(f"REVOKE pg_signal_backend FROM {quoted(OWNER)}")
        try:
            scenes += [told(OWNER, [OWNER, APP]), told(OWNER, [APP], by_right=False)]
        finally:
            admin.execute(f"GRANT pg_signal_backend TO {quoted(OWNER)}")
        admin.execute(f"GRANT CONNECT ON DATABASE {place.name} TO {quoted(GUEST)} WITH GRANT OPTION")
        admin.execute(f"SET ROLE {quoted(GUEST)}; GRANT CONNECT ON DATABASE {place.name} TO {MEMBER}; RESET ROLE")
    golden("fence/checks", "\n\n".join([*scenes, told(OWNER, [APP])]))


@pytest.mark.parametrize(
    "statement",
    [
        "REVOKE CONNECT ON DATABASE habitat FROM PUBLIC",
        "grant all privileges\n  on\tdatabase habitat to habitat_app with grant option",
        "DO $$BEGIN EXECUTE 'revoke connect on database ' || current_database() || ' from public'; END$$",
        "SELECT 1; GRANT TEMP ON DATABASE a, b TO c",
        "ALTER DATABASE habitat OWNER TO somebody",
        "REASSIGN OWNED BY habitat TO habitat_owner",
        "DROP OWNED BY habitat_app",
    ],
)
def test_statements_that_change_who_may_connect(statement):
    assert fence.touches(["SELECT 1", statement])


@pytest.mark.parametrize(
    "statement",
    [
        "GRANT SELECT ON members TO habitat_app",
        "GRANT USAGE ON SCHEMA public TO habitat_app",
        "GRANT habitat_readers TO habitat_app",
        "GRANT SELECT ON a TO b; COMMENT ON DATABASE habitat IS 'x'",
        "ALTER DATABASE habitat SET work_mem = '7MB'",
        "ALTER TABLE members OWNER TO somebody",
        "CREATE TABLE grant_on_database (regrant int, owned text)",
        "DROP TABLE owned",
        "COMMENT ON DATABASE habitat IS 'x'",
    ],
)
def test_statements_that_do_not(statement):
    assert not fence.touches([statement])


# The window: what a step has around it.


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
        assert wait_until(lambda: fence.logins(owner))
        with place.window(drain=20.0) as alone:
            assert alone.refusal is None
            before = place.count()
            client.join(20)
            assert place.count() == before == len(wrote)


def test_who_does_not_come_in_is_a_refusal(place):
    place.lock()

    def late() -> None:
        with contextlib.suppress(psycopg.Error):
            place.connect(APP, options=LATE).close()

    with place.connect() as owner:
        client = threading.Thread(target=late)
        client.start()
        assert wait_until(lambda: fence.logins(owner))
        (pid,) = fence.logins(owner)
        with place.window(drain=0.2) as alone:
            assert alone.refusal.what == "1 session still logging in after 0 s"
            assert alone.refusal.found == f"pid {pid}"
    assert not place.closed()
    assert place.may_connect(APP)
    client.join(20)


def test_a_fence_that_cannot_be_closed_is_a_refusal(place):
    place.lock()
    before = place.acl()
    with place.admin() as other, other.transaction(force_rollback=True):
        other.execute(f"GRANT TEMPORARY ON DATABASE {place.name} TO {APP}")
        with place.window() as alone:
            assert alone.refusal.what == "the application cannot be kept out of the database"
            assert "lock timeout" in alone.refusal.found
    # What could not be given back yet, the end of the run gives.
    os.kill(place.holder(), signal.SIGTERM)
    assert wait_until(lambda: not place.run_dir.exists())
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
        with place.window(drain=0.5) as alone:
            assert alone.refusal.what == "1 session of the stopped services still connected after 0 s"
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


# The holder of the run lock, who opens what nobody else opens.


@pytest.mark.parametrize(("user", "role", "by_right"), [("postgres", SUPER, True), (OWNER, APP, False)])
def test_the_holder_ends_the_sessions_of_those_that_are_not_kept_out(place, user, role, by_right):
    place.lock(user=user)
    before = place.acl()
    spared = [
        place.connect(SUPER, application_name=session_name(RUN)),
        place.connect(OWNER),
        place.connect(role, "postgres"),
    ]
    with Client(place, role, stays=True) as client:
        record = place.close([role], user=user, by_right=by_right)
        assert record["ended_roles"] == [role]
        assert wait_until(lambda: client.ended >= 20), client.ended
        assert place.held()["run_id"] == RUN
        assert place.open_again()
        assert wait_until(lambda: time.monotonic() - client.since > 1.5), "nobody ends them any more"
    for session in spared:
        assert session.execute("SELECT 1").fetchone() == (1,)
        session.close()
    assert place.acl() == before


def test_the_holder_outlives_sessions_that_it_may_not_end(place):
    place.lock()
    with place.connect(SUPER):
        place.close([SUPER])
        for phase in ("APPLY", "VERIFY"):
            with run_lock.step(place.run_dir, phase):
                assert wait_until(lambda phase=phase: (place.held() or {}).get("phase") == phase)
        assert place.held()["run_id"] == RUN


def end_by_sigterm(place: Place) -> None:
    os.kill(place.holder(), signal.SIGTERM)


def fall_silent(place: Place) -> None:
    os.utime(place.run_dir / "step", (0, 0))


@pytest.mark.parametrize("end", [end_by_sigterm, fall_silent])
def test_the_end_of_a_run_opens(place, end):
    place.lock()
    before = place.acl()
    place.close()
    end(place)
    assert wait_until(lambda: not place.run_dir.exists())
    assert place.acl() == before


def test_the_end_of_the_controller_opens(place):
    controller = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    place.lock(pid=controller.pid)
    place.close()
    controller.kill()
    controller.wait()
    assert wait_until(lambda: place.may_connect(APP))


def test_a_killed_run_and_holder_are_made_good_by_the_next_run(place):
    place.lock()
    before = place.acl()
    place.close()
    os.kill(place.holder(), signal.SIGKILL)
    assert wait_until(lambda: place.held() is None)
    assert not place.may_connect(APP)
    place.locked.append(place.runs / NEXT_RUN)
    taken = place.module("run_lock", run_id=NEXT_RUN, run_dir=str(place.runs / NEXT_RUN))
    assert taken["held"] is True
    assert f"run {RUN} was cut off and had kept the application out" in json.dumps(taken["warnings"])
    assert place.acl() == before
    assert not place.run_dir.exists()


def test_a_run_on_another_database_leaves_the_fence_alone(place):
    place.lock()
    place.close()
    own = place.runs / NEXT_RUN
    assert fence.left_over(own) == [], "a run that lives is nobody's business"
    os.kill(place.holder(), signal.SIGKILL)
    assert wait_until(lambda: fence.left_over(own) == [place.run_dir])
    with place.admin() as admin:
        assert fence.open_left_over(admin, fence.left_over(own), "postgres") == []
        assert place.closed()
        assert not place.may_connect(APP)
        # Its copy after a swap is the same database.
        assert fence.open_left_over(admin, fence.left_over(own), place.database) == [RUN]
    assert place.may_connect(APP)


def test_a_record_of_another_server_is_left_alone(place):
    place.close()
    path = place.run_dir / "fence.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "server": "1"}))
    with place.admin() as admin:
        assert fence.open_left_over(admin, fence.left_over(place.runs / NEXT_RUN), place.database) == []
    assert path.exists()


def test_the_holder_opens_when_the_step_cannot_connect_any_more(place):
    place.lock()
    place.close()
    fence.ask_holder(str(place.run_dir))
    assert wait_until(lambda: not place.closed())
    assert place.may_connect(APP)
    assert place.holder(), "the run goes on"


def test_a_server_that_was_away_is_opened_when_it_is_back(place):
    place.lock()
    before = place.acl()
    place.close()
    pid = place.holder()
    place.server.stop()
    try:
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.5)
        assert place.run_dir.exists(), "it waits"
    finally:
        place.server.start()
    assert wait_until(lambda: not place.run_dir.exists(), 60)
    assert place.acl() == before


def test_a_step_that_loses_the_server_opens_since_the_lock_is_lost_too(place):
    place.lock()
    before = place.acl()
    with place.window() as alone:
        alone.stays_closed = True
        place.server.stop()
        place.server.start()
    assert place.acl() == before
