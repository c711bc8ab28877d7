"""The guard opens a fence that nobody else opens, and ends the sessions that no right keeps out."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import (
    fence,
    recovery,
    run_folder,
)
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name

from tests.integration.fenced import (  # noqa: F401 - fixtures among them
    APP,
    NEXT_RUN,
    OWNER,
    RUN,
    SUPER,
    Client,
    Place,
    place,
    server,
)
from tests.waiting import wait_for

# ruff: noqa: F811


@pytest.mark.parametrize(("user", "role", "by_right"), [("postgres", SUPER, True), (OWNER, APP, False)])
def test_the_guard_ends_the_sessions_of_those_that_are_not_kept_out(place, user, role, by_right):
    place.lock(user=user)
    before = place.acl()
    spared = [
        place.connect(SUPER, application_name=session_name(RUN)),
        place.connect(OWNER),
        place.connect(role, "postgres"),
    ]
    with Client(place, role, stays=True) as client:
        record = place.close([role], user=user, by_right=by_right)
        assert record["ended_roles"] == [role]
        wait_for(lambda: client.ended >= 20)
        assert place.held()["run_id"] == RUN
        assert place.open_again()
        wait_for(lambda: time.monotonic() - client.since > 1.5)
    for session in spared:
        assert session.execute("SELECT 1").fetchone() == (1,)
        session.close()
    assert place.acl() == before


def test_the_guard_outlives_sessions_that_it_may_not_end(place):
    place.lock()
    with place.connect(SUPER):
        place.close([SUPER])
        for phase in ("APPLY", "HEALTH"):
            with run_folder.step(place.run_dir, phase):
                wait_for(lambda phase=phase: (place.held() or {}).get("phase") == phase)
        assert place.held()["run_id"] == RUN


def end_by_sigterm(place: Place) -> None:
    os.kill(place.guard(), signal.SIGTERM)


def be_cancelled(place: Place) -> None:
    run_folder.write_json(place.run_dir / run_folder.CANCEL, {"why": "bob cancelled it"})


def fall_silent(place: Place) -> None:
    """It does so by itself."""


@pytest.mark.parametrize("end", [end_by_sigterm, be_cancelled, fall_silent])
def test_the_end_of_a_run_opens(place, end):
    place.lock(silence=6 if end is fall_silent else 120)
    before = place.acl()
    place.close()
    end(place)
    wait_for(lambda: not place.run_dir.exists())
    assert place.acl() == before
    report = json.loads((place.runs / run_folder.REPORTS / RUN / "report.json").read_text())
    assert "The application may connect again." in report["state"]
    with pytest.raises(run_folder.Ended), place.window():
        pytest.fail("no step of it begins any more")
    assert place.acl() == before


def settled(place: Place, **more: Any) -> dict[str, Any]:
    """What resume.yml has done."""
    given = {"state_dir": str(place.runs), "run_dir": None, "run_id": NEXT_RUN, **more}
    return place.module("run_recovery", state="settled", **given)


def test_a_killed_run_and_guard_are_made_good_by_who_resumes_and_not_by_the_next_run(place):
    place.lock()
    before = place.acl()
    place.close()
    os.kill(place.guard(), signal.SIGKILL)
    wait_for(lambda: place.held() is None)
    place.locked.append(place.runs / NEXT_RUN)
    refused = place.module("run_lock", run_id=NEXT_RUN, run_dir=str(place.runs / NEXT_RUN))
    assert refused["held"] is False
    assert refused["refusals"][0]["next"] == "ansible-playbook playbooks/resume.yml -e env=local"
    assert not place.may_connect(APP)
    assert settled(place)["changed"] is True
    assert place.acl() == before
    assert not place.run_dir.exists()
    assert place.module("run_lock", run_id=NEXT_RUN, run_dir=str(place.runs / NEXT_RUN))["held"] is True


def test_who_resumes_on_another_database_leaves_the_fence_alone(place):
    place.lock()
    place.close()
    os.kill(place.guard(), signal.SIGKILL)
    wait_for(lambda: place.held() is None)
    assert settled(place, login_db="postgres")["changed"] is False
    assert place.closed()
    assert not place.may_connect(APP)
    assert settled(place)["changed"] is True
    assert place.may_connect(APP)


def test_the_guard_opens_when_the_step_cannot_connect_any_more(place):
    place.lock()
    place.close()
    fence.ask_guard(str(place.run_dir))
    wait_for(lambda: not place.closed())
    assert place.may_connect(APP)
    assert place.guard(), "the run goes on"


def test_a_server_that_was_away_is_opened_when_it_is_back(place):
    place.lock()
    before = place.acl()
    place.close()
    pid = place.guard()
    place.server.stop()
    try:
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.5)
        assert place.run_dir.exists(), "it waits"
    finally:
        place.server.start()
    wait_for(lambda: not place.run_dir.exists())
    assert place.acl() == before


@pytest.mark.long
def test_a_server_that_stays_away_too_long_is_made_good_by_who_resumes(place, monkeypatch):
    place.lock()
    before = place.acl()
    place.close()
    os.kill(place.guard(), signal.SIGKILL)
    monkeypatch.setattr(recovery, "SERVER_SECONDS", 1.0)
    place.server.stop()
    try:
        run = run_folder.read_json(place.run_dir / run_folder.RUN) or {}
        connect = lambda name: place.connect("postgres", name)  # noqa: E731
        righted = recovery.put_right(place.run_dir, run, connect, "resume.yml", "x")
    finally:
        place.server.start()
    assert righted.problems[0].startswith(
        "the database server does not answer, and the application may still not connect"
    )
    assert place.run_dir.exists()
    assert settled(place)["refusals"] == []
    assert place.acl() == before


def test_a_server_that_was_started_anew_finds_the_lock_taken_again_and_the_fence_closed(place):
    place.lock()
    before = place.acl()
    place.close()
    place.server.stop()
    place.server.start()
    wait_for(lambda: (place.held() or {}).get("run_id") == RUN)
    assert not place.may_connect(APP)
    with place.window() as alone:
        assert alone.refusal is None
    assert place.acl() == before


def test_a_step_that_loses_the_server_opens_when_nobody_holds_the_lock_any_more(place):
    place.lock()
    before = place.acl()
    with place.window() as alone:
        alone.stays_closed = True
        os.kill(place.guard(), signal.SIGKILL)
        place.server.stop()
        place.server.start()
    assert place.acl() == before
