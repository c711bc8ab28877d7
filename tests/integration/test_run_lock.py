"""The run lock: one winner, a holder that is gone with the run, and the truth about who holds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import run_lock


def label(run_id: str) -> dict[str, str]:
    return {"run_id": run_id, "operator": "alice */ DROP", "from": "db1", "phase": "PREFLIGHT"}


def watch(pid: int | None = None, silence: float = 60) -> dict:
    return {"controller_pid": pid, "silence": silence}


@pytest.fixture
def lock(cluster, database, tmp_path):
    """take(run_id) starts a holder in a folder of its own; every holder is ended after the test."""
    folders: list[Path] = []

    def take(run_id: str, **watching) -> tuple[Path, dict | None]:
        folder = tmp_path / run_id
        folders.append(folder)
        return folder, run_lock.acquire(folder, cluster.conninfo(), database, label(run_id), watch(**watching))

    yield take
    for folder in folders:
        pid = run_lock.holder_pid(folder)
        if pid:
            os.kill(pid, signal.SIGKILL)


def wait_until(condition, seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_the_second_is_refused_with_who_since_where_and_which_phase(lock, connection, database):
    folder, other = lock("run-1")
    assert other is None
    with run_lock.step(folder, "BACKUP"):
        assert wait_until(lambda: (run_lock.held_by(connection, database) or {}).get("phase") == "BACKUP")
    second, holder = lock("run-2")
    assert holder["run_id"] == "run-1"
    assert (holder["operator"], holder["from"], holder["phase"]) == ("alice */ DROP", "db1", "BACKUP")
    assert holder["since"].startswith("20")
    assert not second.exists(), "a refused run leaves nothing"
    assert run_lock.held_by(connection, database)["run_id"] == "run-1"


def test_release_waits_until_it_is_free(lock, connection, database):
    folder, _ = lock("run-1")
    assert run_lock.release(connection, folder, "run-1") is True
    assert run_lock.held_by(connection, database) is None
    assert not folder.exists()
    assert run_lock.release(connection, folder, "run-1") is False


def test_another_database_has_a_lock_of_its_own(lock, cluster, connection, database, tmp_path):
    lock("run-1")
    assert run_lock.acquire(tmp_path / "o", cluster.conninfo(), "other", label("run-o"), watch()) is None
    assert run_lock.held_by(connection, "other")["run_id"] == "run-o"
    run_lock.release(connection, tmp_path / "o", "run-o")


def test_the_target_database_stays_renamable(lock, cluster, connection, database):
    lock("run-1")
    connection.close()
    with cluster.connect() as admin:
        admin.execute(f'ALTER DATABASE "{database}" RENAME TO "{database}_moved"')
        admin.execute(f'ALTER DATABASE "{database}_moved" RENAME TO "{database}"')


def test_it_is_gone_with_the_controller(lock, connection, database):
    controller = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    folder, _ = lock("run-1", pid=controller.pid)
    assert run_lock.held_by(connection, database)
    controller.kill()
    controller.wait()
    assert wait_until(lambda: run_lock.held_by(connection, database) is None)
    assert wait_until(lambda: not folder.exists())


def test_it_is_gone_when_the_holder_is_killed(lock, connection, database):
    folder, _ = lock("run-1")
    os.kill(run_lock.holder_pid(folder), signal.SIGKILL)
    assert wait_until(lambda: run_lock.held_by(connection, database) is None)


def test_silence_ends_it_but_a_working_step_never_does(lock, connection, database):
    folder, _ = lock("run-1", silence=2)
    with run_lock.step(folder, "APPLY"):
        time.sleep(3)
        assert run_lock.held_by(connection, database)
    assert wait_until(lambda: run_lock.held_by(connection, database) is None, 10)


def test_a_killed_step_does_not_look_alive(lock, connection, database, tmp_path):
    path = tmp_path / "run-1" / "step"
    code = f"import fcntl, time; print(1, flush=True); input(); f = open({str(path)!r}); fcntl.flock(f, fcntl.LOCK_EX); print(2, flush=True); time.sleep(60)"
    step = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert step.stdin and step.stdout and step.stdout.readline(), "it has started before its silence is measured"
    lock("run-1", silence=2)
    step.stdin.write(b"\n")
    step.stdin.flush()
    assert step.stdout.readline()
    time.sleep(3)
    assert run_lock.held_by(connection, database)
    step.kill()
    step.wait()
    assert wait_until(lambda: run_lock.held_by(connection, database) is None)


def test_of_eight_starters_exactly_one_wins(lock, cluster, connection, database, tmp_path):
    def start(name: str) -> bool:
        return run_lock.acquire(tmp_path / name, cluster.conninfo(), database, label(name), watch()) is None

    for round_number in range(3):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(start, [f"r{round_number}-{number}" for number in range(8)]))
        assert won.count(True) == 1
        winner = f"r{round_number}-{won.index(True)}"
        assert run_lock.held_by(connection, database)["run_id"] == winner
        assert run_lock.release(connection, tmp_path / winner, winner)


def test_a_holder_that_cannot_connect_says_why(cluster, tmp_path):
    wrong = {**cluster.conninfo(), "user": "nobody_known"}
    with pytest.raises(run_lock.LockError, match="nobody_known"):
        run_lock.acquire(tmp_path / "x", wrong, "db", label("run-x"), watch())
    assert not (tmp_path / "x").exists()


def test_no_secret_in_the_holders_arguments_or_files(cluster, database, tmp_path, connection):
    connect = {**cluster.conninfo(), "password": "canary-4711"}
    folder = tmp_path / "run-s"
    assert run_lock.acquire(folder, connect, database, label("run-s"), watch()) is None
    pid = run_lock.holder_pid(folder)
    for name in ("cmdline", "environ"):
        assert b"canary-4711" not in Path(f"/proc/{pid}/{name}").read_bytes()
    assert all(b"canary-4711" not in path.read_bytes() for path in folder.iterdir())
    assert run_lock.release(connection, folder, "run-s")
