"""The modules themselves: run as Ansible runs them, killed, watched for secrets."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import manifest

from demo.embedded import postgres
from tests.integration.backing_up import names
from tests.integration.module_process import environment, finish, run, start
from tests.waiting import wait_for

REPOSITORY = Path(__file__).parents[2]
# Of its own in every test process: processes are looked for by it, and test processes run side by side.
RUN = f"20261122t100221z-{os.environ.get('PYTEST_XDIST_WORKER', 'k3f')[:3]}"
ID = f"local-{RUN}"
# Arguments of all processes are looked at, and there may be other tests.
CANARY = f"c4n{os.getpid()}ry'\\ pässword"


@pytest.fixture
def options(cluster, database, folder) -> dict:
    """Options of a backup that works."""
    return {
        "login_db": database,
        "login_unix_socket": str(cluster.folder),
        "login_user": "postgres",
        "run_id": RUN,
        "env": "local",
        "backup_dir": str(folder),
        "bin_dir": str(postgres.BIN),
        "operator": "alice",
    }


def test_a_backup_and_the_list_of_it(connection, options, folder):
    connection.execute(
        "CREATE TABLE schema_migrations (version text, applied_at timestamptz); "
        "INSERT INTO schema_migrations VALUES ('06'), ('07'); CREATE TABLE members AS SELECT generate_series(1, 5)"
    )
    done = run("database_backup", **options)
    told = manifest.read(folder / f"{ID}.json")
    assert told["taken_by"] == "alice"
    assert done["changed"] is True
    assert done["removed"] == []
    assert done["seconds"] == told["seconds"] > 0
    assert done["backup"] == {
        "id": ID,
        "dump": str(folder / f"{ID}.dump"),
        "form": "custom",
        "compression": told["dump"]["compression"],
        "proof": "restore",
        "restore_seconds": told["proof"]["restore_seconds"],
        "tag": None,
        "size": (folder / f"{ID}.dump").stat().st_size,
        "sha256": told["dump"]["sha256"],
        "taken_at": told["taken_at"],
        "database": options["login_db"],
        "ledger_version": "07",
        "schema_sha256": told["schema_sha256"],
        "tables": 2,
        "rows": 7,
    }
    listed = run("database_backup_info", backup_dir=str(folder))
    assert listed["changed"] is False
    assert listed["backups"] == [
        {
            "id": ID,
            "dump": done["backup"]["dump"],
            "verified": True,
            "problems": [],
            "taken_at": told["taken_at"],
            "size": done["backup"]["size"],
            "environment": "local",
            "database": options["login_db"],
            "ledger_version": "07",
            "form": "custom",
            "tag": None,
            "proof": "restore",
            "restore_seconds": told["proof"]["restore_seconds"],
        }
    ]
    assert run("database_backup_info", check=True, backup_dir=str(folder), id=ID)["backups"] == listed["backups"]


def test_through_ansible(options, folder, tmp_path):
    (tmp_path / "ansible.cfg").write_text(f"[defaults]\ncollections_path = {REPOSITORY / 'collections'}\n")
    command = [str(Path(sys.executable).parent / "ansible"), "localhost", "-c", "local", "-i", "localhost,"]
    command += ["-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(
        [*command, "-m", "habitat.runbook.database_backup", "-a", json.dumps(options)],
        cwd=tmp_path,
        env=environment(ANSIBLE_CONFIG=str(tmp_path / "ansible.cfg")),
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout.startswith("localhost | CHANGED => ")
    assert json.loads(done.stdout.split(" => ", 1)[1])["backup"]["id"] == ID
    assert names(folder) == [f"{ID}.dump", f"{ID}.globals.sql", f"{ID}.json"]


def test_check_mode_tells_and_writes_nothing(options, folder):
    done = run("database_backup", check=True, **options)
    assert done["changed"] is True
    assert (done["backup"]["id"], done["backup"]["dump"]) == (ID, str(folder / f"{ID}.dump"))
    assert done["database_bytes"] > 1_000_000
    assert not folder.exists()


def test_a_second_backup_of_the_run_fails(options):
    assert run("database_backup", **options)["changed"]
    again = run("database_backup", **options)
    assert again["failed"]
    assert again["msg"].endswith(f"{ID}.json is there already; a run takes one backup, start another run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run_id": "20261122t100211z-k3f\n"}, "run_id is '20261122t100211z-k3f\\n'; expected a form such as"),
        ({"run_id": "../../x"}, "run_id is '../../x'; expected"),
        ({"env": "$(id)"}, "env is '$(id)'; expected"),
        ({"login_db": "nowhere"}, "cannot connect to database nowhere at "),
        ({"login_unix_socket": "/nowhere"}, "cannot connect to database"),
        ({"bin_dir": "/nowhere"}, "there is no pg_dump in /nowhere; install the PostgreSQL "),
        ({"backup_dir": "/dev/null"}, "backup_dir /dev/null is not a folder; name another one"),
        ({"run_dir": "/nowhere"}, "this run does not hold the run lock (nobody does); start again with"),
    ],
)
def test_refusals_are_one_sentence(options, folder, changes, message):
    failed = run("database_backup", **{**options, **changes})
    assert failed["failed"]
    assert failed["msg"].startswith(message)
    assert "\n" not in failed["msg"]
    assert "exception" not in failed
    assert names(folder) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": "../../etc/passwd"}, "id is '../../etc/passwd'; expected a backup's id such as"),
        ({"id": "staging-20261122t100211z-k3f"}, "there is no backup staging-20261122t100211z-k3f in "),
        ({"backup_dir": "/dev/null"}, "the backups in /dev/null cannot be listed: Not a directory"),
    ],
)
def test_lists_that_are_refused(tmp_path, changes, message):
    failed = run("database_backup_info", **{"backup_dir": str(tmp_path), **changes})
    assert failed["failed"]
    assert failed["msg"].startswith(message)


def test_a_broken_manifest_is_listed(tmp_path):
    (tmp_path / f"{ID}.json").write_text('{"format": 1')
    (found,) = run("database_backup_info", backup_dir=str(tmp_path))["backups"]
    assert (found["id"], found["verified"], found["problems"]) == (ID, False, ["the manifest is not JSON"])


# Killed


def dumping() -> list[int]:
    """Processes of pg_dump that belong to a run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            command = path.read_bytes()
            if b"pg_dump" in command and f"runbook/{RUN}".encode() in command:
                found.append(int(path.parent.name))
    return found


def sessions(cluster) -> int:
    with cluster.connect() as admin:
        text = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        return admin.execute(text, [f"runbook/{RUN}"]).fetchone()[0]


def kill_and_look(cluster, process: subprocess.Popen[str], folder: Path, how: int = signal.SIGKILL) -> None:
    """Kill the module; soon nothing of it may be left but the part file."""
    process.send_signal(how)
    process.wait()
    wait_for(lambda: not dumping() and not sessions(cluster), 30)
    assert names(folder) == [f"{ID}.dump.part"]


def recovers(options: dict, folder: Path) -> None:
    again = "20261122t100311z-abc"
    done = run("database_backup", **{**options, "run_id": again})
    assert done["removed"] == [f"{ID}.dump.part"]
    assert names(folder) == [f"local-{again}.dump", f"local-{again}.globals.sql", f"local-{again}.json"]


def test_killed_while_pg_dump_waits_for_a_lock(cluster, database, connection, options, folder):
    connection.execute("CREATE VIEW v AS SELECT 1 AS one")
    with cluster.connect(database, autocommit=False) as other:
        other.execute("CREATE OR REPLACE VIEW v AS SELECT 1 AS one")
        process = start("database_backup", **options)
        wait_for(lambda: len(dumping()) == 2 and sessions(cluster) == 3)
        kill_and_look(cluster, process, folder)
    recovers(options, folder)


@pytest.fixture(scope="module")
def large(cluster) -> Iterator[str]:
    """A database that takes pg_dump a second or two."""
    name = f"large_{os.getpid()}"
    with cluster.connect() as admin:
        admin.execute(f"CREATE DATABASE {name}")
    with cluster.connect(name) as session:
        session.execute(
            "CREATE TABLE t AS SELECT g AS id, gen_random_uuid() AS a, gen_random_uuid() AS b "
            "FROM generate_series(1, 500000) g"
        )
    yield name
    with cluster.connect() as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_killed_in_the_middle_of_the_data(cluster, large, options, folder, how):
    options["login_db"] = large
    process = start("database_backup", **options)
    part = folder / f"{ID}.dump.part"
    wait_for(lambda: part.exists() and part.stat().st_size > 1_000_000)
    assert dumping()
    kill_and_look(cluster, process, folder, how)
    recovers(options, folder)


def test_interrupted_it_cleans_up_itself(cluster, large, options, folder):
    options["login_db"] = large
    part = folder / f"{ID}.dump.part"
    for _ in range(5):
        process = start("database_backup", **options)
        wait_for(part.exists)
        process.send_signal(signal.SIGINT)
        process.wait(120)
        if process.returncode:
            break
        # On a busy machine it may have been done before the signal came.
        for path in folder.iterdir():
            path.unlink()
    assert process.returncode
    assert names(folder) == []
    wait_for(lambda: not dumping() and not sessions(cluster), 30)


@pytest.mark.long
def test_memory_does_not_grow_with_the_data(large, options, folder):
    """The dump is some 20 MB; a module that held it would show."""
    options["login_db"] = large
    process = start("database_backup", **options)
    highest = 0
    while process.poll() is None:
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            highest = max(highest, int(next(line for line in lines if line.startswith("VmHWM")).split()[1]))
        time.sleep(0.005)
    assert finish(process)["backup"]["size"] > 15_000_000
    assert 10_000 < highest < 80_000


# Secrets


@pytest.fixture(scope="module")
def guarded() -> Iterator[dict]:
    """Options for a server of its own that asks for a password over TCP."""
    folder = Path(tempfile.mkdtemp(prefix="habitat-pg-"))
    postgres.init_cluster(folder / "data", "keeper")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = [f"-p{port}", "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            postgres.server_command("postgres", "-D", str(folder / "data"), *settings), stdout=log, stderr=log
        )

    def prepared() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            with psycopg.connect(host=str(folder), port=port, user="keeper", dbname="postgres") as session:
                session.execute(psycopg.sql.SQL("ALTER ROLE keeper PASSWORD {}").format(CANARY))
                session.execute("CREATE TABLE t AS SELECT g AS id, gen_random_uuid() FROM generate_series(1, 200000) g")
            return True
        return False

    wait_for(prepared)
    where = {"host": "127.0.0.1", "port": port, "user": "keeper", "password": CANARY}
    yield {f"login_{key}": value for key, value in where.items()} | {"login_db": "postgres"}
    server.send_signal(signal.SIGINT)
    server.wait(timeout=120)
    shutil.rmtree(folder)


class Sampler(threading.Thread):
    """Reads the arguments of all processes again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[bytes] = set()
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.seen.add(path.read_bytes())

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(self, *error) -> None:
        self.over.set()
        self.join()


def test_the_password_is_nowhere(guarded, folder, tmp_path):
    options = {**guarded, "run_id": RUN, "env": "local", "backup_dir": str(folder), "bin_dir": str(postgres.BIN)}
    secret = CANARY.encode()
    begins = secret.partition(b"'")[0]
    with Sampler() as sampler:
        process = start("database_backup", **options)
        answer, errors = process.stdout.read(), process.stderr.read()
        process.wait()
    assert json.loads(answer)["backup"]["rows"] == 200000
    for program in (b"pg_dump", b"pg_restore", b"database_backup"):
        assert any(program in arguments for arguments in sampler.seen)
    assert not [arguments for arguments in sampler.seen if begins in arguments]
    assert begins.decode() not in answer + errors
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or begins not in path.read_bytes()


def test_a_wrong_password_is_one_sentence(guarded, folder):
    options = {**guarded, "run_id": RUN, "env": "local", "backup_dir": str(folder), "bin_dir": str(postgres.BIN)}
    failed = run("database_backup", **{**options, "login_password": "wr0ng-one"})
    assert failed["msg"].startswith("cannot connect to database postgres at 127.0.0.1 port")
    assert "password authentication failed" in failed["msg"]
    assert "wr0ng-one" not in json.dumps(failed)
    assert names(folder) == []
