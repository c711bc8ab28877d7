"""Putting things right when a run and its guard are gone, too: by resume.yml, or by the boot hook."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import fence, lock_session, run_folder

from tests.integration import module_process
from tests.integration.guarded import (  # noqa: F401
    NAMES,
    Ground,
    application,
    ground,
    one_application,
)
from tests.waiting import wait_for

# ruff: noqa: F811

RESUME = "ansible-playbook playbooks/resume.yml -e env=local"


@pytest.fixture
def crashed(ground: Ground, application: Any) -> Ground:
    """A run that was in the middle of its window when everything of it was killed, and whose services are stopped."""
    ground.take(urls=[application.url])
    ground.services(application, "stopped")
    step = ground.step("APPLY")
    ground.kill_guard()
    step.kill()
    step.wait()
    wait_for(lambda: ground.held() is None)
    return ground


def test_nothing_happens_by_itself_any_more_and_no_other_run_begins(crashed, application):
    assert application.running() == []
    told = module_process.run("run_lock", run_dir=str(crashed.folder("run-2")), **crashed.login("run-2"))
    assert told["failed"] is True
    assert told["held"] is False
    assert told["refusals"] == [
        {
            "what": "run run-1 by alice */ DROP was cut off while migrations were applied and not put right yet",
            "found": "its services are stopped: habitat:api, habitat:worker",
            "next": RESUME,
        }
    ]
    assert not crashed.folder("run-2").exists()
    assert crashed.held() is None


def test_it_is_put_right_once(crashed, application):
    predicted = crashed.recover(check=True)
    assert predicted["changed"] is True
    assert predicted["runs"][0]["state"] == "The run was cut off while migrations were applied."
    assert application.running() == []
    done = crashed.recover()
    assert (done["changed"], done["refusals"], done["going_on"]) == (True, [], None)
    (report,) = done["runs"]
    assert (report["ended_by"], report["why"]) == ("resume.yml", "nothing of it was alive any more")
    assert "Started again: habitat:api, habitat:worker." in report["state"]
    assert done["last"] == report == crashed.report()
    assert sorted(application.running()) == NAMES
    assert not crashed.folder().exists()
    again = crashed.recover()
    assert (again["changed"], again["runs"], again["last"]) == (False, [], report)
    assert crashed.held() is None
    assert (
        module_process.run("run_lock", run_dir=str(crashed.folder("run-2")), **crashed.login("run-2"))["held"] is True
    )


def test_who_finishes_what_was_begun_takes_it_on(crashed):
    assert crashed.recover(check=True, finish=True)["last"] is None
    assert crashed.recover(finish=True)["last"]["run"]["id"] == "run-1"
    assert crashed.report()["resumed_by"] == "run-9"
    assert crashed.recover(finish=True)["last"] is None


def test_of_two_who_put_right_at_once_one_does(crashed, application):
    with ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda _: crashed.recover(), range(2)))
    assert not [one["msg"] for one in told if one.get("failed")]
    assert sorted(one["changed"] for one in told) == [False, True]
    assert sorted(application.running()) == NAMES


def test_the_boot_hook_and_who_resumes_do_not_do_it_twice(crashed, application):
    """The hook has no password for the run lock."""
    hook = subprocess.Popen([sys.executable, str(crashed.folder() / run_folder.PROGRAM), "boot"])
    wait_for(lambda: "GUARD" in [line["what"] for line in crashed.journal()])
    hook.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor() as aside:
        resuming = aside.submit(crashed.recover)
        try:
            wait_for(crashed.held)
            time.sleep(1)
        finally:
            hook.send_signal(signal.SIGCONT)
        assert (hook.wait(), resuming.result().get("msg")) == (0, None)
    assert [line["event"] for line in crashed.journal() if line["what"] == "GUARD"] == ["intent", "done"]
    assert sorted(application.running()) == NAMES


def test_a_run_that_is_going_on_is_left_alone(ground, application):
    ground.take()
    ground.services(application, "stopped")
    told = ground.recover(finish=True)
    assert (told["changed"], told["runs"], told["last"]) == (False, [], None)
    assert told["going_on"]["run_id"] == "run-1"
    assert application.running() == []
    assert ground.guard()


def test_a_step_that_outlived_everybody_is_ended(ground, application):
    ground.take()
    ground.services(application, "stopped")
    step = ground.step("APPLY")
    with ground.session() as session:
        ground.kill_guard()
        wait_for(lambda: ground.held() is None)
        (report,) = ground.recover()["runs"]
        assert step.wait(60) == -signal.SIGKILL
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    assert "Its step APPLY was ended. 1 database session was ended" in report["state"]


def test_the_fence_is_opened(ground, cluster):
    with cluster.connect(ground.database) as admin:
        admin.execute("DO $$BEGIN CREATE ROLE rec_app LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
        ground.take()
        fence.close(admin, str(ground.folder()), ["rec_app"])
        ground.kill_guard()
        wait_for(lambda: ground.held() is None)
        with pytest.raises(psycopg.OperationalError):
            cluster.connect(ground.database, user="rec_app").close()
        assert "The application may connect again." in ground.recover()["runs"][0]["state"]
        cluster.connect(ground.database, user="rec_app").close()


def test_a_run_on_another_database_is_left_alone(ground, cluster):
    ground.take(run={"database": "other"})
    ground.kill_guard()
    told = ground.recover()
    assert (told["changed"], told["runs"], told["last"]) == (False, [], None)
    assert ground.folder().exists()


def test_a_ledger_that_cannot_be_read_is_said(crashed, cluster):
    with cluster.connect(crashed.database) as admin:
        admin.execute("CREATE TABLE schema_migrations (other int)")
    done = crashed.recover()
    assert done["refusals"] == [{"what": "the ledger could not be read", "found": "", "next": RESUME}]
    assert crashed.folder().exists()
    with cluster.connect(crashed.database) as admin:
        admin.execute("DROP TABLE schema_migrations; CREATE TABLE schema_migrations (version text)")
        admin.execute("INSERT INTO schema_migrations VALUES ('07'), ('8'), ('06')")
    (report,) = crashed.recover()["runs"]
    assert (report["schema"], report["problems"]) == ("empty -> 8", [])


# Cancelling.


def test_cancelling_waits_until_things_are_right(ground, application):
    ground.take()
    ground.services(application, "stopped")
    assert ground.recover("cancelled", check=True)["changed"] is True
    assert ground.guard()
    told = ground.recover("cancelled")
    assert (told["changed"], told["refusals"]) == (True, [])
    assert told["runs"] == [ground.report()]
    assert told["runs"][0]["why"] == "bob cancelled it"
    assert sorted(application.running()) == NAMES
    assert ground.held() is None


@pytest.mark.parametrize("run", ["", "20261122t100211z-k3f"])
def test_with_nothing_going_on_there_is_nothing_to_cancel(ground, run):
    told = ground.recover("cancelled", run=run)
    assert (told["changed"], told["runs"], told["refusals"]) == (False, [], [])


def test_only_the_run_that_is_meant_is_cancelled(ground):
    ground.take()
    assert ground.recover("cancelled", run="run-2")["changed"] is False
    assert ground.guard()
    assert ground.recover("cancelled", run="run-1")["changed"] is True
    assert ground.guard() is None


def test_a_run_that_was_cut_off_is_not_cancelled(crashed, application):
    assert crashed.recover("cancelled")["changed"] is False
    assert application.running() == []


# After a start of the host.


def boot(ground: Ground) -> subprocess.CompletedProcess[str]:
    program = ground.folder() / run_folder.PROGRAM
    return subprocess.run(
        [sys.executable, "-I", str(program), "boot"], cwd="/", text=True, capture_output=True, timeout=120, check=False
    )


def test_the_boot_hook_puts_right_without_ansible(crashed, application):
    done = boot(crashed)
    assert (done.returncode, done.stderr) == (0, "")
    assert "the host was started anew" in done.stdout
    assert sorted(application.running()) == NAMES
    assert (crashed.report()["ended_by"], crashed.report()["outcome"]) == ("the boot hook", "stopped_safe")
    assert not crashed.folder().exists()


def test_the_boot_hook_leaves_a_run_alone_that_is_guarded(ground, application):
    ground.take()
    ground.services(application, "stopped")
    done = boot(ground)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert application.running() == []
    assert ground.guard()


@pytest.mark.long
def test_the_boot_hook_starts_services_also_while_the_server_is_away(crashed, application):
    path = crashed.folder() / run_folder.RUN
    run = run_folder.read_json(path) or {}
    run_folder.write_json(path, {**run, "connect": {**run["connect"], "host": "/nowhere"}})
    done = boot(crashed)
    assert done.returncode == 1, done.stdout
    assert "NOT put right: the database server does not answer" in done.stdout
    assert sorted(application.running()) == NAMES
    assert crashed.folder().exists(), "resume.yml does the rest"
    run_folder.write_json(path, run)
    assert crashed.recover()["refusals"] == []


def test_sessions_of_other_runs_are_left_alone(crashed):
    with crashed.session("run-2") as other, crashed.session("run-1") as ours:
        crashed.recover()
        assert other.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.OperationalError):
            ours.execute("SELECT 1")
    assert lock_session.session_name("run-1") != lock_session.session_name("run-2")
