"""The API and the worker on the embedded stack: what they answer, and how they live and end."""

from __future__ import annotations

import concurrent.futures
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.embedded import processes
from demo.embedded.stack import health
from tests.integration.embedded import Runner, api, call, migrated_stack
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def running() -> Iterator[Runner]:
    """A stack that is up and migrated; tests leave it so."""
    with migrated_stack() as run:
        yield run


def test_health_tells_the_highest_version_by_number(running):
    for url in running.stack.health_urls:
        status, body = health(url)
        assert (status, body["status"], body["schema_version"]) == (200, "ok", "9")


def test_members_and_contributions_over_http(running):
    status, member = call(api(running) + "/members", {"email": "http@example.org", "display_name": "Hätte"})
    assert status == 201 and member["email"] == "http@example.org"
    own = f"{api(running, 1)}/members/{member['id']}"
    assert call(own) == (200, member)
    status, given = call(own + "/contributions", b'{"amount": 12.50, "note": "Roof"}')
    assert (status, given["amount"], given["currency"], given["note"]) == (201, "12.50", "EUR", "Roof")
    assert call(own + "/contributions") == (200, {"contributions": [given]})
    listed = call(api(running) + "/members?limit=200")[1]["members"]
    assert {"id": member["id"], "display_name": "Hätte", "created_at": member["created_at"]} in listed
    ids = [each["id"] for each in listed]
    assert [each["id"] for each in call(f"{api(running)}/members?limit=1&after={ids[0]}")[1]["members"]] == ids[1:2]


MEMBER = "/members/00000000-0000-0000-0000-000000000001"


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/members", b"{", 400, "must be JSON"),
        ("/members", b"\xff", 400, "must be JSON"),
        ("/members", b"[" * 60000, 400, "must be JSON"),
        ("/members", b"[]", 400, "JSON object"),
        ("/members", {"email": "a@b.c", "display_name": "A", "admin": True}, 400, "'admin' is not known"),
        ("/members", {"email": "a@b.c"}, 400, "display_name must be a text"),
        ("/members", {"email": "a@b.c", "display_name": "  "}, 400, "display_name"),
        ("/members", {"email": "a@b.c", "display_name": "A\0"}, 400, "printable"),
        ("/members", {"email": "a@b.c", "display_name": "\ud800"}, 400, "printable"),
        ("/members", {"email": "a@b.c", "display_name": "A" * 101}, 400, "100"),
        ("/members", {"email": "a b@c", "display_name": "A"}, 400, "email must look like"),
        ("/members", {"email": 5, "display_name": "A"}, 400, "email"),
        *[
            (MEMBER + "/contributions", {"amount": amount}, 400, "amount must be above 0")
            for amount in (0, -1, 1.234, True, None, "1e3", "ten", "NaN", "1_0", [1], 10**12, 1e300)
        ],
        (MEMBER + "/contributions", {"amount": 1, "note": ""}, 400, "note"),
        (MEMBER + "/contributions", {"amount": 1}, 404, "no such member"),
        (MEMBER + "/contributions", None, 404, "no such member"),
        (MEMBER, None, 404, "no such member"),
        ("/members/me", None, 400, "'me' is not an id"),
        ("/members?limit=0", None, 400, "limit must be a whole number from 1 to 200"),
        ("/members?limit=x", None, 400, "limit"),
        ("/members?after=x", None, 400, "'x' is not an id"),
        ("/nothing", None, 404, "nothing at this address"),
        (MEMBER, b"{}", 405, "method"),
    ],
)
def test_what_is_wrong_is_told_in_one_json_sentence(running, path, body, status, sentence):
    found, answer = call(api(running) + path, body)
    assert (found, list(answer)) == (status, ["error"])
    assert sentence in answer["error"] and answer["error"].endswith(".") and "\n" not in answer["error"]


def test_an_email_that_is_taken_is_a_conflict(running):
    given = {"email": "twice@example.org", "display_name": "A"}
    assert call(api(running) + "/members", given)[0] == 201
    status, answer = call(api(running) + "/members", {**given, "email": "Twice@example.org"})
    assert (status, answer["error"]) == (409, "A member with this email exists.")


def test_contributions_of_one_member_at_the_same_time_all_succeed(running):
    member = call(api(running) + "/members", {"email": "busy@example.org", "display_name": "Busy"})[1]["id"]
    with concurrent.futures.ThreadPoolExecutor(12) as crowd:
        jobs = [
            crowd.submit(call, f"{api(running, n % 2)}/members/{member}/contributions", {"amount": 1})
            for n in range(60)
        ]
    assert {job.result()[0] for job in jobs} == {201}
    with running.owner() as session:
        query = "SELECT count(*), max(version) FROM events WHERE stream_id = %s"
        assert session.execute(query, [member]).fetchone() == (61, 61)


def test_the_worker_writes_on_its_own(running):
    query = "SELECT count(*) FROM events WHERE event_type = 'treasury.totals_refreshed'"
    with running.owner() as session:
        before = session.execute(query).fetchone()[0]
        wait_for(lambda: session.execute(query).fetchone()[0] >= before + 2)


@pytest.mark.parametrize("program", ["api1", pytest.param("worker", marks=pytest.mark.long)])
def test_a_killed_process_comes_back_and_a_stopped_one_stays_away(running, program):
    name = f"habitat:{program}"
    pid = running.pid(name)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: running.pid(name) not in (0, pid))
    wait_for(lambda: health(running.stack.health_urls[0])[0] == 200)
    assert f"{name}: stopped" in running.control("stop", name)
    time.sleep(2.5)  # two beats of Supervisor, which would start it again
    assert re.search(rf"{name}\s+STOPPED", running.control("status"))
    assert running("status").returncode == 1
    assert f"{name}: started" in running.control("start", name)
    wait_for(lambda: running("status").returncode == 0)


@pytest.mark.parametrize("program", ["api2", "worker"])
def test_a_process_ends_promptly_when_asked(running, program):
    wait_for(lambda: running("status").returncode == 0)
    pid = running.pid(f"habitat:{program}")
    start = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not processes.is_alive(pid))
    assert time.monotonic() - start < 10  # 0.4 s is the limit it sets itself
    wait_for(lambda: running("status").returncode == 0)


def test_a_worker_that_waits_for_a_lock_ends_promptly_and_leaves_no_session(running):
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'habitat-worker' AND wait_event_type = 'Lock'"
    )
    with running.owner() as session, running.superuser() as admin:
        with session.transaction():
            session.execute("LOCK TABLE contribution_totals IN ACCESS EXCLUSIVE MODE")
            wait_for(lambda: admin.execute(query).fetchone() == (1,))
            log = Path(running.stack.file("supervisord.log"))
            said = log.stat().st_size
            assert "stopped" in running.control("stop", "habitat:worker")
            assert b"SIGKILL" not in log.read_bytes()[said:], "what Supervisor does when it has waited long enough"
            wait_for(lambda: admin.execute(query).fetchone() == (0,))
        running.control("start", "habitat:worker")


@pytest.mark.long
def test_health_says_within_two_seconds_that_the_database_is_frozen_or_away(running):
    url = running.stack.health_urls[0]
    postmaster = running.pid("postgres")
    children = [int(pid) for pid in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()]
    try:
        for pid in (postmaster, *children):
            os.kill(pid, signal.SIGSTOP)
        for _ in range(3):
            start = time.monotonic()
            status, body = health(url)
            assert time.monotonic() - start < 2
            assert (status, body["status"], body["schema_version"]) == (503, "degraded", None) and body["error"]
    finally:
        for pid in (*children, postmaster):
            os.kill(pid, signal.SIGCONT)
    wait_for(lambda: health(url)[0] == 200)

    running.control("stop", "postgres")
    assert health(url)[0] == 503
    status, answer = call(api(running) + "/members")
    assert (status, answer["error"]) == (503, "The database does not answer; try again in a moment.")
    running.control("stop", "habitat:api1")
    running.control("start", "habitat:api1")
    wait_for(lambda: health(url)[0] == 503)  # an API that starts without a database serves and says so
    running.control("start", "postgres")
    wait_for(lambda: running("status").returncode == 0)
    assert "Traceback" not in running.stack.file("api1.log").read_text()


def test_sessions_that_the_server_ended_cost_no_request(running):
    members = api(running) + "/members"
    with concurrent.futures.ThreadPoolExecutor(8) as crowd:
        list(crowd.map(lambda _: call(members), range(40)))
    end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'habitat-api'"
    with running.superuser() as admin:
        assert admin.execute(end).rowcount > 2
    assert health(running.stack.health_urls[0])[0] == 200
    with concurrent.futures.ThreadPoolExecutor(8) as crowd:
        assert {status for status, _ in crowd.map(lambda _: call(members), range(40))} == {200}
