"""The guard: when it ends a run, what it leaves then, and what it never does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import fence, lock_session, run_folder, run_lock

from tests.integration.guarded import NAMES, Ground, application, ground, one_application  # noqa: F401
from tests.waiting import wait_for

# ruff: noqa: F811

# What a step has open while it works: a session with a transaction that holds a lock.
SESSION = "import psycopg; c = psycopg.connect(sys.argv[4]); c.execute('CREATE TABLE begun ()')"


def stop(ground: Ground, application: Any) -> None:
    done = ground.services(application, "stopped")
    assert sorted(done["running"]) == NAMES, done
    assert application.running() == []


def test_silence_while_services_are_stopped_ends_the_run_and_starts_them(ground, application):
    ground.take(silence=4.0, urls=[application.url], body={"status": "ok"})
    wait_for(lambda: (ground.folder() / run_folder.PROBES).exists())
    stop(ground, application)
    assert ground.is_over()
    assert sorted(application.running()) == NAMES
    assert application.answers(), "the guard has waited for it"
    report = ground.report()
    assert (report["cut_off"], report["outcome"], report["ended_by"]) == (True, "stopped_safe", "the guard")
    assert report["why"] == "no step showed a sign of life for 4 s"
    assert report["phase"] == "STOP"
    assert report["next"] == "ansible-playbook playbooks/resume.yml -e env=local"
    assert "Started again: habitat:api, habitat:worker." in report["state"]
    assert 1 < report["down_seconds"] < 90
    kept = {"run.json", "journal.ndjson", "probes.ndjson", "ended.json", "report.json", "report.md"}
    assert {path.name for path in ground.kept().iterdir()} == kept
    assert not ground.folder().exists()
    assert [line["what"] for line in ground.journal()] == ["run", "STOP", "STOP", "GUARD", "GUARD"]


def test_nothing_of_a_run_begins_after_its_end(ground, application):
    ground.take(silence=3.0)
    stop(ground, application)
    assert ground.is_over()
    for state in ("stopped", "started"):
        told = ground.services(application, state)
        assert told["failed"] is True
        assert "run run-1 was ended: no step showed a sign of life for 3 s" in told["msg"]
    assert sorted(application.running()) == NAMES


def test_a_run_that_is_silent_before_it_stops_anything_touches_nothing(ground, application):
    ground.take(patience=1.0, silence=0.1)
    assert ground.is_over()
    report = ground.report()
    assert (report["outcome"], report["phase"]) == ("stopped_safe", "")
    assert "The services were not touched." in report["state"]
    assert sorted(application.running()) == NAMES


def test_a_step_that_works_is_never_shot(ground, application):
    ground.take(silence=1.0)
    step = ground.step("STOP", f"run_folder.note(folder, 'intent', 'STOP', names={NAMES!r}, manager={{}})")
    ended = time.monotonic() + 5
    while time.monotonic() < ended:
        assert step.poll() is None
        assert ground.guard()
        time.sleep(0.1)


def test_a_step_that_was_killed_does_not_look_alive(ground, application):
    ground.take(silence=5.0)
    stop(ground, application)
    step = ground.step("APPLY")
    time.sleep(6)
    assert ground.guard(), "it works"
    step.kill()
    step.wait()
    assert ground.is_over()
    assert ground.report()["phase"] == "APPLY"
    assert "while migrations were applied" in ground.report()["state"]
    assert sorted(application.running()) == NAMES


def test_steps_after_one_another_keep_a_run_alive(ground, application):
    ground.take(silence=6.0)
    stop(ground, application)
    for _ in range(16):
        with run_folder.step(ground.folder(), "HEALTH"):
            time.sleep(0.5)
    assert ground.guard()
    ground.services(application, "started")
    wait_for(lambda: (ground.held() or {}).get("phase") == "START")


def test_the_window_has_an_end_also_for_a_step_that_works(ground, application):
    ground.take(max_window=8.0)
    stop(ground, application)
    step = ground.step("APPLY")
    assert ground.is_over()
    assert step.wait(60) == -signal.SIGKILL
    assert sorted(application.running()) == NAMES
    assert ground.report()["why"] == "the services were stopped for longer than 8 s"
    assert "Its step APPLY was ended, and PostgreSQL rolled back what was open there." in ground.report()["state"]
    (warned,) = (line for line in ground.journal() if line["what"] == "window")
    assert warned["ends_at"] == 8
    assert warned["open_for"] >= 1


def cancelled(ground: Ground, why: str = "bob cancelled it") -> dict[str, Any]:
    run_folder.write_json(ground.folder() / run_folder.CANCEL, {"why": why})
    assert ground.is_over()
    return ground.report()


def test_cancelling_ends_the_step_its_sessions_and_the_fence_and_starts_the_services(ground, application, cluster):
    with cluster.connect(ground.database) as admin, ground.session() as session:
        admin.execute("DO $$BEGIN CREATE ROLE gua_app LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END$$")
        ground.take(urls=[application.url])
        stop(ground, application)
        fence.close(admin, str(ground.folder()), ["gua_app"])
        name = lock_session.session_name("run-1")
        where = psycopg.conninfo.make_conninfo(**cluster.conninfo(ground.database), application_name=name)
        step = ground.step("APPLY", SESSION.replace("sys.argv[4]", repr(where)))
        run_folder.note(ground.folder(), "intent", "commit", version="07", xid=xid(admin))
        with pytest.raises(psycopg.OperationalError):
            cluster.connect(ground.database, user="gua_app").close()
        report = cancelled(ground)
        assert step.wait(60) == -signal.SIGKILL
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
        cluster.connect(ground.database, user="gua_app").close()
        assert admin.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [name]
        ).fetchone() == (0,)
        assert admin.execute("SELECT to_regclass('begun')").fetchone() == (None,)
    assert sorted(application.running()) == NAMES
    assert (report["ended_by"], report["why"], report["problems"]) == ("cancel.yml", "bob cancelled it", [])
    assert "database session" in report["state"], "one of them may have ended with its process"
    assert "The application may connect again." in report["state"]
    assert report["commits"]["07"].endswith("is committed")


def xid(admin: psycopg.Connection) -> str:
    """A transaction that was committed."""
    with admin.transaction():
        return admin.execute("SELECT pg_current_xact_id()::text").fetchone()[0]


def test_what_became_of_a_commit_is_told_as_the_server_says(ground, cluster):
    ground.take()
    with cluster.connect(ground.database) as admin, cluster.connect(ground.database) as other:
        told = {"06": xid(admin)}
        with admin.transaction(force_rollback=True):
            told["07"] = admin.execute("SELECT pg_current_xact_id()::text").fetchone()[0]
        for version, one in told.items():
            run_folder.note(ground.folder(), "intent", "commit", version=version, xid=one)
        run_folder.note(ground.folder(), "intent", "commit", version="05", xid=told["06"])
        run_folder.note(ground.folder(), "done", "commit", version="05", xid=told["06"])
        assert other.execute("SELECT 1").fetchone() == (1,)
    assert cancelled(ground)["commits"] == {
        "06": f"PostgreSQL says transaction {told['06']} is committed",
        "07": f"PostgreSQL says transaction {told['07']} is aborted",
    }


def test_only_processes_of_the_step_are_ended(ground):
    """The number in the file may belong to somebody else by now."""
    ground.take()
    other = subprocess.Popen(["sleep", "600"])
    ground.started.append(other)
    step = ground.folder() / run_folder.STEP
    step.write_text(json.dumps({"phase": "APPLY", "pid": other.pid, "started": 1}))
    assert "Its step" not in cancelled(ground)["state"]
    assert other.poll() is None


def test_a_release_with_services_stopped_leaves_them_as_the_run_says(ground, application, connection):
    """The run has tried to start them and reports what became of it: that is its own end."""
    ground.take()
    stop(ground, application)
    assert run_lock.release(connection, ground.folder(), "run-1")
    assert application.running() == []
    assert not (ground.kept() / "report.json").exists()


@pytest.mark.long
def test_services_that_do_not_start_are_said_and_what_is_left_is_kept_for_the_next_try(ground, application):
    ground.take()
    stop(ground, application)
    application.stop()
    try:
        report = cancelled(ground)
        assert report["outcome"] == "needs_operator"
        assert report["problems"][0].startswith("the services are DOWN: ")
        assert ground.folder().exists()
        assert [one["next"] for one in ground.recover()["refusals"]] == [report["next"]]
    finally:
        application.start()
    ground.services(application, "stopped", run_dir=None)
    done = ground.recover()
    assert (done["changed"], done["refusals"], done["runs"][0]["schema"]) == (True, [], "empty")
    assert sorted(application.running()) == NAMES
    assert not ground.folder().exists()


@pytest.mark.long
def test_an_application_that_is_sick_afterwards_is_not_called_well(ground, application):
    ground.take(urls=[application.url], body={"status": "well"})
    stop(ground, application)
    report = cancelled(ground)
    assert report["outcome"] == "needs_operator"
    assert "The application does NOT answer well." in report["state"]


def test_nothing_is_stopped_without_a_guard_who_would_start_it_again(ground, application):
    ground.take()
    ground.kill_guard()
    told = ground.services(application, "stopped")
    assert told["msg"] == "the run's guard is gone, so nothing is stopped; start again with the same command"
    assert sorted(application.running()) == NAMES


def test_a_guard_that_stood_still_has_not_lost_its_run(ground, application):
    ground.take(silence=30.0)
    stop(ground, application)
    step = ground.step("APPLY")
    pid = ground.guard()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(2)
    os.kill(pid, signal.SIGCONT)
    step.kill()
    step.wait()
    with run_folder.step(ground.folder(), "START"):
        wait_for(lambda: (ground.held() or {}).get("phase") == "START")
    assert ground.guard() == pid
