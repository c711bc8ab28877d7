"""What the guard does about what a run leaves open: it is told to end, its session is lost, services still stop."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import lock_session, run_folder, run_lock

from tests.integration.guarded import (  # noqa: F401 - fixtures among them
    NAMES,
    STUBBORN,
    Application,
    Ground,
    application,
    ground,
    one_application,
)
from tests.waiting import wait_for

# ruff: noqa: F811

STOPPING = """
    import threading
    from ansible_collections.habitat.runbook.plugins.module_utils.services import stop_services
    from ansible_collections.habitat.runbook.plugins.module_utils.services_kinds import manager_of
    names, manager = {names!r}, {manager!r}
    run_folder.note(folder, "intent", "STOP", names=names, manager=manager)
    threading.Thread(target=stop_services, args=(manager_of(manager), names), daemon=True).start()
"""
SIGTERM = "its guard was told to end by SIGTERM"


def end_guard(ground: Ground, how: int = signal.SIGTERM) -> None:
    pid = ground.guard()
    assert pid
    os.kill(pid, how)
    assert ground.is_over()


def test_a_guard_that_is_told_to_end_in_the_window_starts_the_services_first(ground, application):
    """By a host that goes down, or a login that ends: not by its run, which has another signal."""
    ground.take(urls=[application.url])
    ground.services(application, "stopped")
    assert application.running() == []
    end_guard(ground)
    assert sorted(application.running()) == NAMES
    assert (ground.report()["why"], ground.report()["outcome"]) == (SIGTERM, "stopped_safe")
    assert not ground.folder().exists()
    assert ground.recover()["last"]["run"]["id"] == "run-1", "what it began is finished by resume.yml"


def test_a_guard_that_is_told_to_end_ends_the_step_at_work(ground):
    ground.take()
    step = ground.step("BACKUP")
    end_guard(ground)
    assert step.wait(60) == -signal.SIGKILL
    assert ground.report()["why"] == SIGTERM
    assert "The services were not touched." in ground.report()["state"]


def test_a_guard_that_is_told_to_end_before_anything_was_begun_leaves_no_report(ground):
    ground.take()
    end_guard(ground)
    assert not ground.folder().exists()
    assert not (ground.kept() / "report.json").exists()


def test_a_guard_that_is_told_to_end_while_it_takes_the_lock_leaves_nothing(ground, cluster):
    """The server does not answer for a moment, so the guard is seen in the midst of it."""
    with ThreadPoolExecutor() as aside:
        os.kill(cluster.pid, signal.SIGSTOP)
        try:
            taken = aside.submit(ground.take)
            os.kill(wait_for(lambda: connecting(ground)), signal.SIGTERM)
        finally:
            os.kill(cluster.pid, signal.SIGCONT)
        assert taken.result() is None
    assert ground.is_over()
    assert not ground.folder().exists()
    assert not (ground.kept() / "report.json").exists()


def connecting(ground: Ground) -> int | None:
    """The guard, once it has a socket, which can be that to the server only."""
    pid = ground.guard()
    # In a scope of systemd's that comes first, with the same arguments.
    with contextlib.suppress(OSError):
        if not pid or Path(f"/proc/{pid}/comm").read_text().startswith("systemd-run"):
            return None
    found = []
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return pid if any(name.startswith("socket:") for name in found) else None


def test_what_is_still_stopping_is_not_taken_for_running(ground):
    slow = Application(STUBBORN)
    try:
        ground.take()
        step = ground.step("STOP", STOPPING.format(names=NAMES, manager=slow.manager))
        wait_for(lambda: slow.running() == [])
        run_folder.write_json(ground.folder() / run_folder.CANCEL, {"why": "bob cancelled it"})
        assert ground.is_over()
        assert step.wait(60) == -signal.SIGKILL
        assert "Started again: habitat:api, habitat:worker." in ground.report()["state"]
        time.sleep(4)
        assert sorted(slow.running()) == NAMES, "nothing goes down any more"
    finally:
        slow.stop()
        shutil.rmtree(slow.folder)


def test_what_could_not_be_put_right_is_left_for_resume_by_the_end_of_the_run(ground, application, connection):
    """The controller of a run that its guard has ended comes to its last step, too."""
    ground.take()
    ground.services(application, "stopped")
    application.stop()
    try:
        run_folder.write_json(ground.folder() / run_folder.CANCEL, {"why": "bob cancelled it"})
        assert ground.is_over()
        assert ground.report()["problems"][0].startswith("the services are DOWN: ")
        assert run_lock.release(connection, ground.folder(), "run-1") is False
    finally:
        application.start()
    ground.services(application, "stopped", run_dir=None)
    (report,) = ground.recover()["runs"]
    assert report["problems"] == []
    assert sorted(application.running()) == NAMES


def test_a_lock_that_the_guards_own_lost_session_still_has_is_taken_over(ground, cluster):
    ground.take()
    name, key = lock_session.lock_application_name("run-1"), lock_session.lock_key(ground.database)
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND pid <> pg_backend_pid()"
    queued = "SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted"
    with (
        cluster.connect() as admin,
        cluster.connect(application_name=name) as left,
        ThreadPoolExecutor() as aside,
    ):
        (first,) = (pid for (pid,) in admin.execute(query, [name]) if pid != left.info.backend_pid)
        # Who waits for it already gets it before the guard comes back.
        aside.submit(left.execute, "SELECT pg_advisory_lock(%s, %s)", [lock_session.LOCK_CLASS, key])
        try:
            wait_for(lambda: admin.execute(queued, [left.info.backend_pid]).fetchone())
            admin.execute("SELECT pg_terminate_backend(%s, 10000)", [first])
            wait_for(lambda: (ground.held() or {}).get("operator"))
        finally:
            left.cancel_safe()
        assert ground.guard()
        assert ground.held()["run_id"] == "run-1"


def test_a_role_that_may_not_see_the_guards_session_is_told_which_run_holds_the_lock(ground, cluster):
    ground.take()
    with cluster.connect() as admin:
        admin.execute("CREATE ROLE lock_stranger LOGIN")
        try:
            with cluster.connect(user="lock_stranger") as stranger:
                assert lock_session.held_by(stranger, ground.database) == {"run_id": "run-1", "since": None}
        finally:
            admin.execute("DROP ROLE lock_stranger")


def test_a_transaction_that_the_server_does_not_know_keeps_nobody_out(ground, cluster):
    """After a crash the number of one whose COMMIT was lost has not been given yet, or once more."""
    ground.take()
    run_folder.note(ground.folder(), "intent", "commit", version="07", xid="4000000000")
    ground.kill_guard()
    (report,) = ground.recover()["runs"]
    assert report["problems"] == []
    assert "The COMMIT of 07 was under way: PostgreSQL says transaction 4000000000 is not known." in report["state"]


FULL = """
import resource, sys
from pathlib import Path
from ansible_collections.habitat.runbook.plugins.module_utils import run_folder
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
with run_folder.step(Path(sys.argv[1]), sys.argv[2]):
    print("at work")
"""


@pytest.mark.parametrize(("phase", "said"), [("START", "at work\n"), ("ACCESS", "at work\n"), ("STOP", "")])
def test_without_room_for_a_word_services_are_started_all_the_same(ground, phase, said):
    ground.take()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FULL, str(ground.folder()), phase]
    done = subprocess.run(command, text=True, capture_output=True, env=environment, check=False)
    assert (done.stdout, done.returncode) == (said, 0 if said else 1)
    assert said or "cannot be written" in done.stderr


def test_a_run_that_cannot_be_told_to_end_is_said_in_one_sentence(ground):
    """Its folder is on a disk that is full."""
    ground.take()
    (ground.folder() / "cancel.part").mkdir()
    failed = ground.recover("cancelled")
    folder, pid = ground.folder(), ground.guard()
    assert failed["msg"] == (
        f"run run-1 could not be told to end: {folder} cannot be written (Is a directory); make room there, or type on "
        f"the host: kill {pid}"
    )
    assert "exception" not in failed


def test_a_cancel_in_check_mode_names_the_run_and_ends_nothing(ground):
    ground.take()
    told = ground.recover("cancelled", check=True)
    assert [(one["run"]["id"], one["problems"]) for one in told["runs"]] == [("run-1", [])]
    assert told["changed"] is True
    assert ground.guard()
