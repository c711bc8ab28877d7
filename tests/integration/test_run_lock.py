"""The run lock: one winner, a guard that is gone with the run, and the truth about who holds it."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import lock_session, run_folder, run_lock

from tests.integration import module_process
from tests.integration.guarded import Ground, ground  # noqa: F401 - a fixture
from tests.waiting import wait_for

# ruff: noqa: F811


def test_the_second_is_refused_with_who_since_where_and_which_phase(ground: Ground):
    assert ground.take("run-1") is None
    with run_folder.step(ground.folder("run-1"), "BACKUP"):
        wait_for(lambda: (ground.held() or {}).get("phase") == "BACKUP")
    holder = ground.take("run-2") or {}
    assert (holder["run_id"], holder["operator"], holder["from"]) == ("run-1", "alice */ DROP", "desk")
    assert holder["phase"] == "BACKUP"
    assert holder["since"].startswith("20")
    assert not ground.folder("run-2").exists(), "a refused run leaves nothing"
    assert not ground.kept("run-2").exists()
    assert (ground.held() or {})["run_id"] == "run-1"


def test_release_waits_until_it_is_free_and_keeps_the_journal(ground, connection):
    ground.take("run-1")
    with run_folder.step(ground.folder(), "PREFLIGHT"):
        pass
    assert run_lock.release(connection, ground.folder(), "run-1") is True
    assert ground.held() is None
    assert not ground.folder().exists()
    assert {path.name for path in ground.kept().iterdir()} == {run_folder.RUN, run_folder.JOURNAL}
    said = [(line["event"], line["what"]) for line in ground.journal()]
    assert said == [("note", "run"), ("intent", "PREFLIGHT"), ("done", "PREFLIGHT"), ("done", "release")]
    assert run_lock.release(connection, ground.folder(), "run-1") is False


def test_release_of_a_run_whose_guard_was_killed_keeps_the_journal_too(ground, connection):
    ground.take("run-1")
    ground.kill_guard()
    assert run_lock.release(connection, ground.folder(), "run-1") is False
    assert not ground.folder().exists()
    assert (ground.kept() / run_folder.JOURNAL).exists()


def test_another_database_has_a_lock_of_its_own(ground, connection):
    ground.take("run-1")
    assert ground.take("run-o", run={"database": "other"}) is None
    assert lock_session.held_by(connection, "other")["run_id"] == "run-o"
    assert run_lock.release(connection, ground.folder("run-o"), "run-o")
    assert (ground.held() or {})["run_id"] == "run-1"


def test_the_target_database_stays_renamable(ground, cluster, connection, database):
    ground.take("run-1")
    connection.close()
    with cluster.connect() as admin:
        admin.execute(f'ALTER DATABASE "{database}" RENAME TO "{database}_moved"')
        admin.execute(f'ALTER DATABASE "{database}_moved" RENAME TO "{database}"')


def test_it_is_gone_when_the_guard_is_killed(ground):
    ground.take("run-1")
    ground.kill_guard()
    wait_for(lambda: ground.held() is None)


def test_the_life_of_whoever_started_it_counts_for_nothing(ground):
    """A step is a process that ends before the next one begins; so may be the controller that starts them."""
    told = module_process.run("run_lock", run_dir=str(ground.folder()), operator="alice", **ground.login("run-1"))
    assert told["held"] is True
    assert ground.guard()
    assert (ground.held() or {})["run_id"] == "run-1"
    assert os.getsid(ground.guard()) == ground.guard(), "it is in no session that somebody else ends"
    told = module_process.run("run_lock", state="absent", run_dir=str(ground.folder()), **ground.login("run-1"))
    assert (told["held"], told["ended"], told["probes"]["asked"]) == (False, None, 0)
    assert not ground.folder().exists()


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_terminal_that_closes_does_not_end_it(ground, number):
    ground.take("run-1")
    os.kill(ground.guard(), number)
    with run_folder.step(ground.folder(), "BACKUP"):
        wait_for(lambda: (ground.held() or {}).get("phase") == "BACKUP")


def race(ground: Ground, rounds: int) -> None:
    for round_number in range(rounds):
        names = [f"r{round_number}-{number}" for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = [other is None for other in pool.map(ground.take, names)]
        assert won.count(True) == 1
        winner = names[won.index(True)]
        assert (ground.held() or {})["run_id"] == winner
        assert [path.name for path in ground.state_dir.iterdir() if path.name != run_folder.REPORTS] == [winner]
        with ground.cluster.connect() as admin:
            assert run_lock.release(admin, ground.folder(winner), winner)


def test_of_eight_starters_exactly_one_wins(ground):
    race(ground, 2)


@pytest.mark.matrix
def test_of_eight_starters_exactly_one_wins_every_time(ground):
    race(ground, 50)


def test_a_guard_that_cannot_connect_says_why_and_leaves_nothing(ground, cluster):
    with pytest.raises(run_lock.LockError, match="nobody_known"):
        ground.take("run-x", connect={**cluster.conninfo(), "user": "nobody_known"})
    assert list(ground.state_dir.iterdir()) == []


def test_a_folder_that_cannot_be_made_says_so(ground):
    ground.state_dir.write_text("a file")
    with pytest.raises(run_lock.LockError, match=r"cannot be written: .*; make room, or correct its owner"):
        ground.take("run-x")
    ground.state_dir.unlink()
    assert ground.held() is None


def test_what_never_began_is_removed_by_a_later_run_and_what_has_just_begun_is_not(ground):
    for name, age in (("old", 3600), ("new", 0)):
        ground.folder(name).mkdir(parents=True)
        step = ground.folder(name) / run_folder.STEP
        step.touch()
        os.utime(step, (time.time() - age, time.time() - age))
    ground.take("run-1")
    assert sorted(path.name for path in ground.state_dir.iterdir()) == ["new", "run-1"]


def test_no_secret_in_the_guards_arguments_or_files(ground, cluster):
    assert (
        ground.take("run-s", connect={**cluster.conninfo(), "password": "canary-4711"}, given_password="canary-4712")
        is None
    )
    for name in ("cmdline", "environ"):
        assert b"canary-471" not in Path(f"/proc/{ground.guard('run-s')}/{name}").read_bytes()
    files = [path for path in ground.state_dir.rglob("*") if path.is_file()]
    assert len(files) >= 4
    assert all(b"canary-471" not in path.read_bytes() and path.stat().st_mode & 0o077 == 0 for path in files)
    assert ground.folder("run-s").stat().st_mode & 0o777 == 0o700
    kept = json.loads((ground.folder("run-s") / run_folder.RUN).read_text())
    assert kept["connect"]["user"] == "postgres"


def test_a_step_of_a_run_that_does_not_hold_the_lock_is_refused(ground, connection, database):
    lock_session.require(connection, database, None, "run-1")
    with pytest.raises(run_folder.Ended, match="nobody does"):
        lock_session.require(connection, database, str(ground.folder()), "run-1")
    ground.take("run-2")
    with pytest.raises(run_folder.Ended, match="run run-2 does"):
        lock_session.require(connection, database, str(ground.folder()), "run-1")
    lock_session.require(connection, database, str(ground.folder("run-2")), "run-2")


def test_the_lock_is_taken_again_when_its_session_was_ended(ground, connection):
    ground.take("run-1")

    def session() -> list[tuple[int]]:
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
        return connection.execute(query, [lock_session.lock_application_name("run-1")]).fetchall()

    (before,) = session()
    connection.execute("SELECT pg_terminate_backend(%s)", before)
    wait_for(lambda: session() not in ([], [before]) and (ground.held() or {}).get("run_id") == "run-1")
    assert ground.guard()
    assert ground.folder().exists()


def test_a_run_whose_lock_somebody_else_has_got_ends(ground, cluster, database):
    ground.take("run-1")
    key = [lock_session.LOCK_CLASS, lock_session.lock_key(database)]
    with cluster.connect(application_name=lock_session.lock_application_name("run-2")) as other:
        # It stands in the queue, so it is the next one.
        with ThreadPoolExecutor(1) as pool, cluster.connect() as admin:
            waiting = pool.submit(other.execute, "SELECT pg_advisory_lock(%s, %s)", key)
            wait_for(
                lambda: admin.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone()
            )
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
                [lock_session.lock_application_name("run-1")],
            )
            waiting.result(60)
        wait_for(lambda: ground.guard() is None)
    assert ground.report()["why"] == "the run lock was lost and run run-2 has it now"
    with pytest.raises(run_folder.Ended, match="run-2 has it now"), run_folder.step(ground.folder(), "STOP"):
        pytest.fail("it must not begin")


def test_bootstrap_keeps_runs_out_with_the_same_lock(ground, cluster, database):
    with cluster.connect() as admin:
        assert lock_session.try_lock(admin, lock_session.lock_key(database))
        assert ground.take("run-1") is not None
        with cluster.connect() as second:
            assert not lock_session.try_lock(second, lock_session.lock_key(database))
    assert ground.take("run-1") is None
