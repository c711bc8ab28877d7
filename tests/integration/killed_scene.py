"""A server of its own, a database with a backup on it, and what must hold of it when a rollback was killed."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import copies, dump, engine, history
from ansible_collections.habitat.runbook.plugins.module_utils.bundle_writer import write_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import find_tools
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted
from ansible_collections.habitat.runbook.plugins.module_utils.properties import read_properties
from ansible_collections.habitat.runbook.plugins.module_utils.restore_comparison import compare
from ansible_collections.habitat.runbook.plugins.module_utils.schema_folder import read_schema

from demo.embedded import postgres
from tests.conftest import Cluster, _start
from tests.integration import habitat
from tests.integration.rolling_back import roll_back
from tests.waiting import wait_for

BIN = str(postgres.BIN)
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "k3f")[:3]
DATABASE, OWNER, VISITOR = "live", "owner", "visitor"
WRITES = "writes"
"""The table that clients write into all the time; what is in it is looked at by itself."""

# The rights that the documentation asks for, and no more.
ROLES = f"""
CREATE ROLE habitat_app; CREATE ROLE {VISITOR} LOGIN; CREATE ROLE {OWNER} LOGIN CREATEDB;
GRANT pg_read_all_stats, pg_signal_backend TO {OWNER}"""

DATA = f"""
INSERT INTO members (display_name, email) SELECT 'm' || i, 'm' || i || '@x.org' FROM generate_series(1, 1000) i;
INSERT INTO treasury_accounts (code, name, currency) VALUES ('main', 'Main', 'EUR');
INSERT INTO treasury_entries (account_id, amount, description)
  SELECT id, i, repeat('entry ' || i, 5) FROM treasury_accounts, generate_series(1, 5000) i;
CREATE FUNCTION slow(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
  $$BEGIN IF current_setting('test.slow', true) = 'on' THEN PERFORM pg_sleep(60); END IF; RETURN i; END$$;
CREATE TABLE one AS SELECT 1 AS id; CREATE INDEX slow ON one (slow(id));
CREATE TABLE {WRITES} (id bigint);
GRANT INSERT ON {WRITES} TO {VISITOR};
ALTER DATABASE {DATABASE} SET work_mem = '7MB'"""

TABLES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' ORDER BY 1, 2"""

_serial = itertools.count(1)


def next_id() -> str:
    return f"20261122t{next(_serial):06d}z-{WORKER}"


class Server:
    """A private server that can be killed."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="habitat-pg-"))
        postgres.init_cluster(self.folder / "data", "postgres")
        self.start()

    def start(self) -> None:
        """Start it; after a kill it refuses as long as one of its old backends is still there."""

        def answers() -> bool:
            if self.process.poll() is not None:
                self.process = self._begin()
            return self.cluster.answers()

        self.process = self._begin()
        self.cluster = Cluster(self.folder, 5432, self.process.pid)
        wait_for(answers)

    def _begin(self) -> subprocess.Popen[bytes]:
        # Whose synchronous_commit is on waits at its COMMIT for a standby that never comes.
        waiting = {"synchronous_standby_names": "nobody", "synchronous_commit": "local"}
        return _start(self.folder, listen_addresses="", fsync="off", max_connections="60", **waiting)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def remove(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=120)
        shutil.rmtree(self.folder)


def contents(cluster: Cluster, name: str) -> dict[str, Any]:
    """All of a database but WRITES: schema, properties, sequences, and a digest of the rows of every table."""
    with cluster.connect(name) as session:
        found: dict[str, Any] = {"schema": habitat.schema_of(session), "properties": read_properties(session, name)}
        found["sequences"] = session.execute("SELECT * FROM pg_sequences ORDER BY 1, 2").fetchall()
        for names in session.execute(TABLES).fetchall():
            table = ".".join(map(quoted, names))
            rows = f"SELECT count(*), md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\")) FROM {table} t"
            if WRITES not in names:
                found[table] = session.execute(rows).fetchone()
    return found


def entries(cluster: Cluster, name: str) -> dict[str, tuple]:
    """The history by id: event, run and version."""
    with cluster.connect(name) as session:
        rows = session.execute(f"SELECT id::text, event, run_id, version FROM {history.TABLE}").fetchall()
    return {row[0]: row[1:] for row in rows}


def programs(run: str) -> list[int]:
    """Processes of pg_restore and pg_dump that this run started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = path.read_bytes()
            alive = b"\nState:\tZ" not in (path.parent / "status").read_bytes()
            if command.startswith(BIN.encode()) and session_name(run).encode() in command and alive:
                found.append(int(path.parent.name))
    return found


@dataclass
class Scene:
    """A database at version 07 and a backup of it at 05; what is in the backup (told) and in the database (before)."""

    server: Server
    backups: Path
    told: dict[str, Any]
    before: dict[str, Any]

    @property
    def cluster(self) -> Cluster:
        return self.server.cluster

    def arguments(self, run: str) -> list[str]:
        where = [str(self.server.folder), OWNER, DATABASE]
        return [*where, run, str(self.backups), self.told["id"], BIN]

    def start(self, run: str, *pause: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.integration.rolling_back", *self.arguments(run), *pause]
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        # Nobody waits for ever for what it says.
        last = threading.Timer(180, process.kill)
        last.daemon = True
        last.start()
        return process

    def ask(self, text: str, *parameters: object) -> list[tuple]:
        with self.cluster.connect() as admin:
            return admin.execute(text, parameters).fetchall()

    def left(self) -> set[tuple[str, str]]:
        """Kind and run of every copy."""
        with self.cluster.connect() as admin:
            return {(copy.kind, copy.run_id) for copy in copies.list_copies(admin, DATABASE)}

    def sessions(self, run: str) -> list[tuple]:
        return self.ask("SELECT pid, query FROM pg_stat_activity WHERE application_name = %s", session_name(run))

    def renaming(self, run: str, old: str, commit: bool = False) -> int:
        """Wait until the run renames the database ``old``, or until it waits at its COMMIT; returns its backend's pid."""
        text = (
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND datname = 'postgres' AND CASE WHEN %s "
            "THEN wait_event = 'SyncRep' ELSE state = 'active' AND starts_with(query, %s) END"
        )
        statement = f"ALTER DATABASE {quoted(old)} RENAME"
        return wait_for(lambda: self.ask(text, session_name(run), commit, statement))[0][0]

    def write(self) -> None:
        """What a client does: connect, write, try again when that is refused."""

        def written() -> bool:
            with suppress(psycopg.OperationalError), self.cluster.connect(DATABASE, user=VISITOR) as client:
                client.execute(f"INSERT INTO {WRITES} VALUES (0)")
                return True
            return False

        wait_for(written)

    def look(self, run: str) -> bool:
        """What holds after any end of a run, before anybody puts anything right; True when it has swapped."""
        self.write()
        wait_for(lambda: not self.sessions(run) and not programs(run))
        assert self.ask("SELECT datname FROM pg_database WHERE NOT datallowconn") == [("template0",)]
        if (copies.BEFORE, run) in self.left():
            self.is_swapped([run])
            return True
        assert contents(self.cluster, DATABASE) == self.before
        return False

    def is_swapped(self, runs: list[str]) -> None:
        """The database is the backup, its history goes on; what it was before the first of the runs is kept."""
        kept = copies.copy_name(DATABASE, copies.BEFORE, runs[0])
        assert contents(self.cluster, kept) == self.before
        changing = (f"public.{WRITES}", history.TABLE)
        told = {**self.told, "tables": {key: one for key, one in self.told["tables"].items() if key not in changing}}
        with self.cluster.connect(DATABASE) as session:
            found, warnings = compare(session, find_tools(BIN, session.info.server_version), told, DATABASE)
            assert [line for line in found if not any(name in line for name in changing)] == []
            assert warnings == []
            assert read_properties(session, DATABASE) == self.told["database"]["properties"]
        was, now = entries(self.cluster, kept), entries(self.cluster, DATABASE)
        assert was.items() <= now.items()
        assert sorted(now[key] for key in now.keys() - was.keys()) == [(history.RESTORE, run, "05") for run in runs]

    def goes_on(self, swapped_by: list[str]) -> str:
        """The next run removes what dead ones left, and succeeds; returns where the database before the first is."""
        run = next_id()
        roll_back(*self.arguments(run), say=lambda stage: None)
        runs = [*swapped_by, run]
        assert self.left() == {(copies.BEFORE, one) for one in runs}
        self.is_swapped(runs)
        return copies.copy_name(DATABASE, copies.BEFORE, runs[0])

    def reset(self, original: str) -> None:
        """Everything is as before the first run; nobody is connected."""
        with self.cluster.connect() as admin:
            admin.execute(f"DROP DATABASE {quoted(DATABASE)} WITH (FORCE)")
            admin.execute(f"ALTER DATABASE {quoted(original)} RENAME TO {quoted(DATABASE)}")
            for copy in copies.list_copies(admin, DATABASE):
                admin.execute(f"DROP DATABASE {quoted(copy.name)} WITH (FORCE)")


def set_up(server: Server, folder: Path) -> Scene:
    """Version 05 with rows in it, a backup, then 06, 07 and a mistake."""
    with server.cluster.connect() as admin:
        admin.execute(ROLES)
        admin.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER} TEMPLATE template0")
    plan, who = folder / "plan", Run(next_id(), "alice")
    write_bundle(plan, read_schema(habitat.REPOSITORY / "schema").migrations)

    def connect() -> psycopg.Connection:
        settings = {"application_name": session_name(who.run_id), "options": session_options("5s", "1min")}
        return server.cluster.connect(DATABASE, user=OWNER, **settings)

    def migrate(*versions: str) -> None:
        assert not engine.apply(connect(), connect, str(plan), versions, who).failure

    migrate("01", "02", "03", "04", "05")
    with connect() as session:
        session.execute(DATA)
    with connect() as session:
        told = dump.take_backup(
            session, folder / "backups", "local", who.run_id, "alice", dump.How(bin_dir=BIN)
        ).manifest
    migrate("06", "07")
    with connect() as session:
        session.execute("UPDATE members SET email = 'corrupted' || email; DELETE FROM one")
    return Scene(server, folder / "backups", told, contents(server.cluster, DATABASE))
