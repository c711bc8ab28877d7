"""Backups by the client programs inside the database's container, and what is left when somebody is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import (
    backup_proof,
    checks,
    client_programs,
    copies,
    dump,
    restore,
)
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, quoted

from demo.embedded import postgres
from tests.integration.test_backup_module import Sampler, finish, names
from tests.waiting import wait_for

# They need a Docker engine, and their time goes to containers.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("engine")]

IMAGE = "habitat-demo/postgres:15"
HOST_15 = Path("/usr/lib/postgresql/15/bin")
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
EVENT_TRIGGER = """
CREATE FUNCTION nothing() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER late ON ddl_command_end EXECUTE FUNCTION nothing();
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


@pytest.fixture
def hidden(server, path) -> client_programs.Tools:
    return client_programs.find_tools(None, 150000, server.id)


def take(server: Server, folder: Path, database: str = "habitat", **more) -> dict:
    with server.connect(database, "boss") as session:
        return dump.take_backup(session, folder, "local", RUN, "alice", dump.How(container=server.id, **more)).manifest


def restored(server: Server, tools: client_programs.Tools, folder: Path, told: dict) -> restore.Restored:
    copy = f"Copy '{os.getpid()}"
    with server.connect("postgres", "boss") as admin:
        try:
            path = folder / told["dump"]["file"]
            return restore.restore_backup(
                admin, lambda name: server.connect(name, "boss"), tools, path, told, copy, jobs=3
            )
        finally:
            admin.execute(f"DROP DATABASE IF EXISTS {quoted(copy)} WITH (FORCE)")


def test_a_backup_restored_and_compared(server, hidden, tmp_path):
    assert (hidden.place, hidden.jobs(4)) == (f" inside container {server.name}", 1)
    server.admin("CREATE DATABASE everything TEMPLATE template0")
    fill(server, "everything", "boss", 44)
    server.admin(EVENT_TRIGGER, "everything")
    told = take(server, tmp_path / "b", "everything")
    assert told["dump"]["size"] > 20_000_000
    assert told["pg_dump_version"] == hidden.version
    assert told["tables"]["public.zz_binary"]["rows"] == 44
    assert told["sequences"]['public."Odd ""Name_id_seq"'] == {"last_value": 1000, "is_called": True}
    assert (told["large_objects"]["count"], told["ledger_versions"]) == (1, ["06", "07"])
    assert names(tmp_path / "b") == [f"{ID}.dump", f"{ID}.globals.sql", f"{ID}.json"]
    done = restored(server, hidden, tmp_path / "b", told)
    assert (done.differences, done.warnings, done.rows) == ([], [], 1047)


@pytest.mark.skipif(not HOST_15.exists(), reason=f"needs the programs in {HOST_15}")
def test_host_and_container_read_each_others_dumps(server, hidden, tmp_path):
    host = client_programs.find_tools(str(HOST_15), 150000)
    by_host = take(server, tmp_path / "host", bin_dir=str(HOST_15))
    by_container = take(server, tmp_path / "container")
    for tools, folder, told in ((hidden, "host", by_host), (host, "container", by_container)):
        found = restored(server, tools, tmp_path / folder, told).differences
        # Other minor releases of pg_dump may write the schema differently, which is not what is tried here.
        assert [text for text in found if not text.startswith("the schema is another")] == []


def test_a_difference_is_found(server, hidden, tmp_path):
    told = take(server, tmp_path / "b")
    told["schema_sha256"] = "0" * 64
    (difference,) = restored(server, hidden, tmp_path / "b", told).differences
    assert difference.startswith("the schema is another than in the backup")


def test_a_damaged_dump_is_not_read_back(server, hidden, tmp_path):
    take(server, tmp_path / "b")
    whole = tmp_path / "b" / f"{ID}.dump"
    for length in (0, 3, whole.stat().st_size - 1):
        with whole.open("r+b") as file:
            file.truncate(length)
        with pytest.raises(BackupError, match=r"read back whole \(pg_restore inside container .* failed: .*input file"):
            backup_proof.read_back(hidden, whole, "")


# Which programs


def test_those_of_the_host_come_first(server, monkeypatch):
    monkeypatch.setenv("PATH", f"{postgres.BIN}:{os.environ['PATH']}")
    assert client_programs.find_tools(None, 150020, server.id).place == ""
    assert checks.check_tools(None, 150020, server.id).text.endswith(" is not older than the server")


def test_those_inside_are_told(server, path):
    check = checks.check_tools(None, 150000, server.id)
    version = docker("exec", server.id, "pg_dump", "--version").split()[2]
    assert (check.state, check.text) == ("ok", f"pg_dump {version} inside container {server.name}")


@pytest.mark.skipif(not HOST_15.exists(), reason=f"needs the programs in {HOST_15}")
def test_older_ones_of_the_host_do_not_do(server, path):
    (path / "pg_dump").symlink_to(HOST_15 / "pg_dump")
    (path / "pg_restore").symlink_to(HOST_15 / "pg_restore")
    assert client_programs.find_tools(None, 150000, server.id).place == ""
    assert client_programs.find_tools(None, 150099, server.id).place == f" inside container {server.name}"
    assert client_programs.find_tools(None, 150099).place == ""
    with pytest.raises(BackupError) as refused:
        client_programs.find_tools(None, 160000, server.id)
    assert str(refused.value).startswith(f"{path}/pg_dump is 15.")
    assert f"bin_dir; pg_dump inside container {server.name} is 15." in str(refused.value)
    assert checks.check_tools(None, 160000, server.id).state == "fail"


def test_a_wrong_bin_dir_is_an_error(server, path):
    with pytest.raises(BackupError, match="there is no pg_dump in /nowhere; install the PostgreSQL 15 client"):
        client_programs.find_tools("/nowhere", 150000, server.id)
    assert checks.check_tools("/nowhere", 150000, server.id).state == "fail"


@pytest.mark.parametrize("container", ["no-such-container", None])
def test_a_container_that_is_not_there(path, container):
    with pytest.raises(BackupError, match="there is no pg_dump in the PATH; install the PostgreSQL 15 client") as told:
        client_programs.find_tools(None, 150000, container)
    assert ("No such" in str(told.value)) == bool(container)
    assert "\n" not in str(told.value)


# What Docker may do


def test_output_that_docker_cuts_is_refused(server, hidden, path, tmp_path):
    (path / "docker").unlink()
    (path / "docker").write_text(
        f"""#!/bin/sh\ncase "$*" in
        *--schema-only*) {shutil.which("docker", path="/usr/local/bin:/usr/bin:/bin")} "$@" | /usr/bin/head -c 2000;;
        *) exec {shutil.which("docker", path="/usr/local/bin:/usr/bin:/bin")} "$@";; esac\n"""
    )
    (path / "docker").chmod(0o755)
    with pytest.raises(
        BackupError, match=f"pg_dump inside container {server.name} was cut off: docker ended before it"
    ):
        take(server, tmp_path / "b")
    assert names(tmp_path / "b") == []


# The modules


@pytest.fixture
def options(server, path, tmp_path) -> dict:
    where = {"login_db": "habitat", "login_user": "keeper", "login_password": CANARY, "container": server.compose}
    return {**where, "run_id": RUN, "env": "local", "backup_dir": str(tmp_path / "b")}


def start(module: str, **options) -> subprocess.Popen[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    process = subprocess.Popen(
        [sys.executable, "-m", f"ansible_collections.habitat.runbook.plugins.modules.{module}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**inherited, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": options}))
    process.stdin.close()
    return process


@pytest.fixture(scope="module")
def kept(server, tmp_path_factory) -> Path:
    """A folder with one backup, taken by the owner."""
    folder = tmp_path_factory.mktemp("kept")
    with server.connect() as session:
        dump.take_backup(session, folder, "local", RUN, "alice", dump.How(container=server.id))
    return folder


class Seldom(Sampler):
    """A hundred times a second, which is often enough for docker's commands and leaves them the processors."""

    def run(self) -> None:
        while not self.over.wait(0.01):
            for folder in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    self.seen.add((folder / "cmdline").read_bytes())


def test_the_password_is_in_no_argument(server, options, tmp_path):
    with Seldom() as sampler:
        backup = finish(start("database_backup", **options))
        done = finish(start("database_restore", **options, backup=ID, jobs=3))
    assert (backup["backup"]["rows"], done["rows"]) == (1023, 1023)
    assert (done["jobs"], done["not_compared"]) == (1, [])
    assert f"pg_restore inside container {server.name} reads a stream: it has 1 job, not 3" in json.dumps(done)
    for program in (b"pg_dump", b"pg_restore", b"docker\0exec"):
        assert any(program in arguments for arguments in sampler.seen)
    assert not [arguments for arguments in sampler.seen if b"c4n4ry" in arguments]
    assert "c4n4ry" not in json.dumps([backup, done]) + docker("inspect", server.id).replace(
        "POSTGRES_PASSWORD=c4n", ""
    )
    server.admin(f"DROP DATABASE {quoted(done['name'])}")


def test_a_wrong_password_is_not_shown(options, tmp_path):
    failed = finish(start("database_backup", **{**options, "login_password": "wr0ng-one"}))
    assert "password authentication failed" in failed["msg"]
    assert "wr0ng-one" not in json.dumps(failed)
    assert names(tmp_path / "b") == []


def clients(server: Server, word: str) -> list[int]:
    """The docker commands for this server whose arguments have this word."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            if arguments[0].endswith(b"/docker") and {word.encode(), server.id.encode()} <= set(arguments):
                found.append(int(folder.name))
    return found


def gone(server: Server, within: float = 5) -> None:
    """What ran inside is gone, its backend too, and the server never took it for its own."""
    wait_for(lambda: not server.processes() and not server.sessions(), within)
    assert server.files() == []


# docker exec ends with 0 when it gets a SIGTERM.
LONG = [pytest.param(how, marks=pytest.mark.long) for how in ("module TERM", "module INT")]
HOWS = ["module KILL", "client KILL", "client TERM", *LONG]


def interrupt(server: Server, how: str, process: subprocess.Popen[str], word: str) -> dict | None:
    """Send a signal to the module or the docker command; the module's answer when it can give one."""
    who, name = how.split()
    number = signal.Signals[f"SIG{name}"]
    if who == "module":
        process.send_signal(number)
        process.wait(30)
        return None
    (client,) = clients(server, word)
    os.kill(client, number)
    return finish(process)


@pytest.mark.parametrize("how", HOWS)
def test_interrupted_in_the_dump(server, options, tmp_path, how):
    process = start("database_backup", **options)
    part = tmp_path / "b" / f"{ID}.dump.part"
    wait_for(lambda: part.exists() and part.stat().st_size > 1_000_000)
    assert server.processes()
    failed = interrupt(server, how, process, "--format=custom")
    gone(server)
    assert names(tmp_path / "b") == ([] if how != "module KILL" and how != "module TERM" else [part.name])
    if failed:
        assert failed["msg"].startswith(f"pg_dump inside container {server.name} ")
        assert "\n" not in failed["msg"]


def test_killed_while_pg_dump_waits(server, options, tmp_path):
    server.admin("CREATE VIEW waits AS SELECT 1 AS one; ALTER VIEW waits OWNER TO keeper", "habitat")
    try:
        with server.connect(application_name="other") as other, other.transaction():
            other.execute("CREATE OR REPLACE VIEW waits AS SELECT 1 AS one")
            process = start("database_backup", **options)
            wait_for(lambda: len(server.processes()) >= 4 and server.waits())
            interrupt(server, "module KILL", process, "")
            gone(server)
    finally:
        server.admin("DROP VIEW waits", "habitat")


@contextlib.contextmanager
def restoring(server: Server, options: dict, kept: Path, what: str) -> Iterator[subprocess.Popen[str]]:
    """A restore that stands still in the slow table's data or in its index."""
    statement = {"data": "COPY public.slow", "index": "CREATE INDEX slow_index"}[what]
    server.admin(f"ALTER ROLE keeper SET test.slow = '{what}'")
    try:
        process = start("database_restore", **{**options, "backup_dir": str(kept)}, backup=ID)
        wait_for(lambda: server.sessions(statement))
        yield process
    finally:
        server.admin("ALTER ROLE keeper RESET test.slow")
        process.kill()
        name = copies.copy_name("habitat", copies.RESTORE, RUN)
        server.admin(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")


@pytest.mark.parametrize("how", HOWS)
def test_interrupted_after_the_last_byte(server, options, kept, how):
    with restoring(server, options, kept, "index") as process:
        time.sleep(0.5)
        failed = interrupt(server, how, process, "--exit-on-error")
        gone(server)
        left = {name for name in server.databases() if "_restore_" in name}
        assert len(left) == (1 if how in ("module KILL", "module TERM") else 0)
        if failed:
            assert f"pg_restore inside container {server.name} " in failed["msg"]
            assert "\n" not in failed["msg"]


@pytest.mark.parametrize("how", ["module KILL", "client KILL"])
def test_killed_with_most_of_the_dump_still_to_come(server, options, kept, how):
    """Bytes that nobody reads must not hide that we are gone."""
    with restoring(server, options, kept, "data") as process:
        assert any("cat" in command.split()[0] for command in server.processes())
        interrupt(server, how, process, "--exit-on-error")
        gone(server)


def test_the_carrier_is_killed(server, options, kept):
    with restoring(server, options, kept, "data") as process:
        (carrier,) = [pid for pid in clients(server, "--interactive") if pid not in clients(server, "--exit-on-error")]
        os.kill(carrier, signal.SIGKILL)
        server.admin("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY public.slow%'")
        failed = finish(process)
        assert f"pg_restore inside container {server.name} failed" in failed["msg"]
        gone(server)
