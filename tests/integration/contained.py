"""A PostgreSQL in a container, on a host without PostgreSQL's programs; skipped where no engine answers."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options

from tests.waiting import wait_for

IMAGE = "habitat-demo/postgres:15"
RUN = f"20261122t100241z-{os.environ.get('PYTEST_XDIST_WORKER', 'k3f')[:3]}"
ID = f"local-{RUN}"
CANARY = "c4n4ry'\\ $(id) pässword"
OURS = ("pg_dump", "pg_restore", "sh", "cat", "sleep")

# What is slow is so only while a restore is watched: its session has the setting then.
SLOW = """
CREATE FUNCTION slowly(what text, result int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
$$BEGIN IF current_setting('test.slow', true) = what THEN PERFORM pg_sleep(60); END IF; RETURN result; END$$;
CREATE TABLE slow (id serial, CHECK (public.slowly('data', id) > 0));
INSERT INTO slow DEFAULT VALUES;
CREATE INDEX slow_index ON slow (public.slowly('index', id));
"""
RICH = """
CREATE TABLE schema_migrations (version text, applied_at timestamptz);
INSERT INTO schema_migrations VALUES ('06'), ('07');
CREATE TABLE "Odd ""Name" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text);
INSERT INTO "Odd ""Name" (note) SELECT 'Ünï' || g FROM generate_series(1, 1000) g;
CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM "Odd ""Name";
SELECT lo_from_bytea(0, decode('00ff1011', 'hex'));
"""


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


if not shutil.which("docker") or subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).returncode:
    pytest.skip(f"needs a Docker Engine and the image {IMAGE} (make images)", allow_module_level=True)


@dataclass
class Server:
    """A PostgreSQL in a container that wants a password over TCP, from inside, too."""

    id: str
    name: str
    address: str
    compose: dict

    def connect(self, database: str = "habitat", user: str = "keeper", **more) -> psycopg.Connection:
        given = {"application_name": session_name(RUN), "options": session_options("30s", "1min"), **more}
        where = {"host": self.address, "user": user, "password": CANARY, "dbname": database}
        return psycopg.connect(**where, autocommit=True, connect_timeout=10, **given)

    def admin(self, statement: str, database: str = "postgres") -> list[tuple]:
        with self.connect(database, "boss", application_name="test") as session:
            cursor = session.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def sessions(self, text: str = "") -> list[tuple]:
        found = self.admin("SELECT application_name, query FROM pg_stat_activity")
        return [query for name, query in found if name == session_name(RUN) and text in query]

    def waits(self) -> bool:
        """Whether a session of the run waits for a lock."""
        found = self.admin("SELECT application_name FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return (session_name(RUN),) in found

    def processes(self) -> list[str]:
        """What runs inside and is not the server."""
        lines = docker("top", self.id, "-eo", "pid,args").splitlines()[1:]
        commands = [line.split(None, 1)[1] for line in lines]
        return [command for command in commands if command.split()[0] in OURS]

    def files(self) -> list[str]:
        return docker("exec", self.id, "ls", "-A", "/tmp").split()

    def crashes(self) -> list[str]:
        done = subprocess.run(["docker", "logs", self.id], capture_output=True, text=True, check=True)
        signs = ("terminated by signal", "reinitializing", "untracked child")
        return [line for line in (done.stdout + done.stderr).splitlines() if any(sign in line for sign in signs)]

    def databases(self) -> set[str]:
        return {name for (name,) in self.admin("SELECT datname FROM pg_database")}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    name, folder = f"cli-test-{os.getpid()}", str(tmp_path_factory.mktemp("project"))
    told = {
        "project.working_dir": folder,
        "project.config_files": f"{folder}/c.yml",
        "service": "db",
        "oneoff": "False",
    }
    labels = [f"--label=com.docker.compose.{key}={value}" for key, value in told.items()]
    given = ["--env=POSTGRES_USER=boss", "--env=POSTGRES_DB=habitat", "--env=POSTGRES_PASSWORD"]
    subprocess.run(
        ["docker", "run", "--detach", "--volume=/var/lib/postgresql/data", f"--name={name}", *labels, *given, IMAGE],
        env={**os.environ, "POSTGRES_PASSWORD": CANARY},
        check=True,
        capture_output=True,
    )
    try:
        identity = docker("inspect", "--format={{.Id}}", name).strip()
        address = docker("inspect", "--format={{.NetworkSettings.IPAddress}}", name).strip()
        made = Server(identity, name, address, {"folder": folder, "file": "c.yml", "service": "db"})
        wait_for(lambda: answers(made))
        docker("exec", name, "sh", "-c", "sed -i '/^host/s/trust/scram-sha-256/' $PGDATA/pg_hba.conf")
        made.admin(f"CREATE ROLE keeper LOGIN CREATEDB PASSWORD '{CANARY.replace(chr(39), chr(39) * 2)}'")
        made.admin("ALTER DATABASE habitat OWNER TO keeper")
        made.admin("ALTER SCHEMA public OWNER TO keeper", "habitat")
        made.admin("SELECT pg_reload_conf()")
        fill(made, "habitat", "keeper", 20)
        yield made
    finally:
        docker("rm", "--force", "--volumes", name)


def answers(server: Server) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        return bool(server.admin("SELECT 1"))
    return False


def fill(server: Server, database: str, user: str, rows: int) -> None:
    with server.connect(database, user) as session:
        session.execute(SLOW)
        session.execute(RICH)
        # Named to be restored behind the slow table: much is still to come while that waits.
        session.execute("CREATE TABLE zz_binary (id int, content bytea)")
        with session.cursor().copy("COPY zz_binary FROM STDIN") as copy:
            for number in range(rows):
                copy.write_row((number, os.urandom(500_000)))


@pytest.fixture(autouse=True)
def nothing_left(server) -> Iterator[None]:
    yield
    wait_for(lambda: not server.processes() and not server.sessions() and not server.files())
    assert server.crashes() == []


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    """The PATH of a host without PostgreSQL's programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").symlink_to(shutil.which("docker"))
    monkeypatch.setenv("PATH", str(folder))
    return folder
