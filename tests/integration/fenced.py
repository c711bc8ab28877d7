"""A database behind a fence: a server of its own that may be stopped, and clients that always come back."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import (
    fence,
    lock_session,
    run_folder,
    run_lock,
)
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options
from ansible_collections.habitat.runbook.plugins.module_utils.copies import list_copies
from ansible_collections.habitat.runbook.plugins.module_utils.fence_record import open_fence, read_fence
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted
from ansible_collections.habitat.runbook.plugins.module_utils.window import window

from demo.embedded import postgres
from tests.conftest import Cluster, _start
from tests.integration import module_process
from tests.waiting import wait_for

RUN, NEXT_RUN = "20261122t100211z-k3f", "20261122t110211z-b7q"
OWNER, APP, GUEST, SUPER, MEMBER = 'fen "owner"', "fen_app", "fen guest's", "fen_super", "fen_member"
ROLES = f"""
CREATE ROLE {quoted(OWNER)} LOGIN CREATEDB; CREATE ROLE {APP} LOGIN; CREATE ROLE {quoted(GUEST)} LOGIN;
CREATE ROLE {SUPER} LOGIN SUPERUSER; CREATE ROLE {MEMBER} LOGIN IN ROLE {quoted(OWNER)};
GRANT pg_read_all_stats, pg_signal_backend TO {quoted(OWNER)}"""
ACL = """
SELECT a.grantee::regrole::text, a.grantor::regrole::text, a.privilege_type, a.is_grantable
FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE d.datname = %s"""
# A client that was let in sleeps so long before anybody can see it in pg_stat_activity.
LATE = "-c post_auth_delay=2"
_serial = itertools.count(1)


class Server:
    """A PostgreSQL that a test may stop and start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        postgres.init_cluster(folder / "data", "postgres")
        self.start()

    def start(self) -> None:
        self.process = _start(self.folder, listen_addresses="", fsync="off", max_connections="50")
        self.cluster = Cluster(self.folder, 5432, self.process.pid)
        wait_for(self.cluster.answers)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=120)


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

    def lock(self, run_id: str = RUN, user: str = OWNER, silence: float = 120) -> dict | None:
        folder = self.runs / run_id
        self.locked.append(folder)
        run = {
            **{"id": run_id, "env": "local", "database": self.database, "host": "db1", "operator": "alice"},
            **{"origin": "db1", "command": "migrate.yml", "inputs": {}, "container": None},
        }
        watch = {
            **{"silence": silence, "patience": silence, "max_window": 600},
            **{"urls": [], "body": {}, "given_password": None},
        }
        return run_lock.acquire(folder, self.server.cluster.conninfo(user=user), run, watch)

    def held(self) -> dict[str, Any] | None:
        with self.admin() as admin:
            return lock_session.held_by(admin, self.database)

    def guard(self) -> int:
        pid = run_folder.guard_pid(self.run_dir)
        assert pid
        return pid

    def close(self, writers: list[str] | None = None, user: str = OWNER, **more: bool) -> dict[str, Any]:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with self.ours(user=user) as connection:
            return fence.close(connection, str(self.run_dir), writers or [APP], **more)

    def open_again(self) -> bool:
        with self.ours("postgres") as connection:
            return open_fence(connection, self.run_dir)

    def closed(self) -> bool:
        return read_fence(self.run_dir) is not None

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
        given = {option: value for option, value in given.items() if value is not None}
        return module_process.run(name, check, **given)

    def remove(self) -> None:
        for folder in self.locked:
            pid = run_folder.guard_pid(folder)
            if pid:
                with contextlib.suppress(ProcessLookupError):
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
        return bool(wait_for(lambda: self.written > before))
