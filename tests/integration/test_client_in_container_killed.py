"""What is left when a backup or a restore by programs inside the container is killed, and what is seen of secrets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import copies, dump
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted

from tests.integration.backing_up import names
from tests.integration.contained import (  # noqa: F401 - fixtures among them
    CANARY,
    ID,
    RUN,
    Server,
    docker,
    nothing_left,
    path,
    server,
)
from tests.integration.module_process import finish, start
from tests.integration.test_backup_module import Sampler
from tests.waiting import wait_for

# ruff: noqa: F811

# They need a Docker engine, and their time goes to containers.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("engine")]


@pytest.fixture
def options(server, path, tmp_path) -> dict:
    where = {"login_db": "habitat", "login_user": "keeper", "login_password": CANARY, "container": server.compose}
    return {**where, "run_id": RUN, "env": "local", "backup_dir": str(tmp_path / "b")}


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


def gone(server: Server) -> None:
    """What ran inside is gone, its backend too: long before what is slow would have ended by itself."""
    wait_for(lambda: not server.processes() and not server.sessions(), 30)
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
