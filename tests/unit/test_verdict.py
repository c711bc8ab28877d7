"""Every way a run can end: its outcome, what is said about it, and what to type next."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.report import build, gather
from ansible_collections.habitat.runbook.plugins.module_utils.verdict import Verdict, judge

from tests.unit.samples import (
    APPLIED,
    BACKUP_ID,
    CHECKS,
    PENDING,
    PUBLIC_FAILED,
    SERVICES,
    SKIPPED,
    STOPPED_AT,
    URLS,
    failed,
    failed_migration,
    failure,
    probe,
    raw,
    run,
)

AGAIN = "ansible-playbook migrate.yml -e env=staging"
STATUS = "ansible-playbook playbooks/status.yml -e env=staging"
BACK = f"ansible-playbook rollback.yml -e backup={BACKUP_ID}"
UNTOUCHED = {"stopping": {}, "applying": {}, "starting": {}, "health": {}, "healthy": {}}
NO_BACKUP = {"backup": {}, **UNTOUCHED}
NOT_APPLIED = {"applying": {}}
UNHEALTHY = {"failed": True, "msg": f"{URLS[1]} is not healthy: no answer: Connection refused", "probes": [probe()]}
NOBODY = {"services": {"running": [], "stopped": SERVICES, "units": []}}
NOTHING_STARTED = {
    "starting": {"changed": False, "skipped": True, "results": []},
    "health": SKIPPED,
    "healthy": SKIPPED,
}
PARTIAL = failure(state="partial", done=2, total=5)
UNKNOWN = failure(state="unknown", sqlstate=None, message="the connection to the server was lost")
FIRST = [APPLIED[0]]


def judged(given: dict[str, Any]) -> Verdict:
    return judge(gather(given))


class End(NamedTuple):
    """How a run ended, and what has to be said: the outcome, the schema, words of the state, words of what is next."""

    given: dict[str, Any]
    outcome: str
    schema: str
    state: tuple[str, ...]
    next: str = ""


ENDS = {
    "all went well": End(raw(), "succeeded", "05 -> 07", ("up and healthy: habitat:api_0, habitat:api_1",)),
    "all went well and no service had been running": End(
        raw(**NOBODY, **NOTHING_STARTED), "succeeded", "05 -> 07", ("No service was running before",)
    ),
    "check mode": End(raw(**NO_BACKUP), "succeeded", "05", ("The services were not touched",)),
    "a check failed": End(
        failed("Show the run", "a transaction is open for 7 min 1 s", **NO_BACKUP),
        "refused",
        "05",
        ("The services were not touched", "the schema is at 05"),
        AGAIN,
    ),
    "a check failed on an empty database": End(
        failed("Show the run", "x", **NO_BACKUP, preflight={"current": None, "checks": CHECKS, "pending": PENDING}),
        "refused",
        "empty",
        ("no migration is applied",),
        AGAIN,
    ),
    "the backup failed": End(
        failed(
            "Dump the database", "pg_dump: error", **UNTOUCHED, **{"backup": {"failed": True, "msg": "pg_dump: error"}}
        ),
        "stopped_safe",
        "05",
        ("The services were not touched", "the schema is at 05"),
        AGAIN,
    ),
    "stopping failed and all were started again": End(
        failed("Stop what runs", "habitat:worker: ERROR", **NOT_APPLIED),
        "stopped_safe",
        "05",
        ("The schema is at 05.", "up and healthy"),
        AGAIN,
    ),
    "the first migration failed": End(
        failed_migration(failure(version="06", file="schema/06_security.sql"), [], "05"),
        "stopped_safe",
        "05",
        ("06 was rolled back by PostgreSQL; the schema is at 05.", "up and healthy"),
        f"correct schema/06_security.sql, then: {AGAIN}",
    ),
    "the second migration failed": End(
        failed_migration(failure(), FIRST, "06"),
        "stopped_safe",
        "05 -> 06",
        ("07 was rolled back by PostgreSQL; the schema is at 06.", "up and healthy"),
        f"correct schema/07_email_verifications.sql, then: {AGAIN}",
    ),
    "the second migration failed and no service had been running": End(
        failed_migration(failure(), FIRST, "06", **NOBODY, **NOTHING_STARTED),
        "stopped_safe",
        "05 -> 06",
        ("the schema is at 06", "No service was running before"),
        AGAIN,
    ),
    "a migration is partial": End(
        failed_migration(PARTIAL, FIRST, "06"),
        "stopped_safe",
        "05 -> 06",
        ("07 is partial: 2 of 5 statements are done and on record", "the schema is at 06", "up and healthy"),
        AGAIN,
    ),
    "the connection was lost during COMMIT": End(
        failed_migration(UNKNOWN, FIRST, "06"),
        "needs_operator",
        "05 -> 06",
        ("Whether 07 was committed is not known", "up and healthy"),
        STATUS,
    ),
    "a writer would not leave": End(
        failed(
            "Apply the pending migrations",
            "1 session of the stopped services is still connected after 10 s",
            applying={"failed": True, "applied": [], "from_version": "05", "to_version": "05", "refusals": []},
        ),
        "stopped_safe",
        "05",
        ("The schema is at 05.", "up and healthy"),
        AGAIN,
    ),
    "starting failed after all was applied": End(
        failed("Start what was stopped", "x", starting={"failed": True}, health={}, healthy={}),
        "needs_operator",
        "05 -> 07",
        ("The schema is at 07.", "The services are DOWN: habitat:api_0"),
        BACK,
    ),
    "starting failed after nothing was applied": End(
        failed_migration(failure(), [], "05", starting={"failed": True}, health={}, healthy={}),
        "needs_operator",
        "05",
        ("the schema is at 05", "The services are DOWN"),
        STATUS,
    ),
    "starting was not tried": End(
        failed_migration(failure(), [], "05", starting={}, health={}, healthy={}),
        "needs_operator",
        "05",
        ("The services are DOWN",),
        STATUS,
    ),
    "health failed after all was applied": End(
        failed("Wait until the application is healthy", UNHEALTHY["msg"], health=UNHEALTHY, healthy={}),
        "needs_operator",
        "05 -> 07",
        ("The schema is at 07.", "started but NOT healthy", f"{URLS[1]} is not healthy: no answer: Connection refused"),
        BACK,
    ),
    "health failed after one of two was applied": End(
        failed_migration(failure(), FIRST, "06", health=UNHEALTHY, healthy={}),
        "needs_operator",
        "05 -> 06",
        ("07 was rolled back", "started but NOT healthy"),
        BACK,
    ),
    "health failed after nothing was applied": End(
        failed_migration(failure(), [], "05", health=UNHEALTHY, healthy={}),
        "needs_operator",
        "05",
        ("07 was rolled back", "started but NOT healthy"),
        STATUS,
    ),
    "healthy on its host but not from the controller": End(
        failed("Wait until it is healthy from here, too", PUBLIC_FAILED["msg"], public=PUBLIC_FAILED),
        "needs_operator",
        "05 -> 07",
        ("healthy on their host", "NOT from here", "certificate has expired"),
        "look at what is between: name, proxy, certificate; the database is in order",
    ),
    "neither from the controller nor on its host": End(
        failed("Wait until the application is healthy", UNHEALTHY["msg"], health=UNHEALTHY, healthy={}, public=SKIPPED),
        "needs_operator",
        "05 -> 07",
        ("started but NOT healthy",),
        BACK,
    ),
    "the ledger was not complete afterwards": End(
        failed("Compare the files with the ledger once more", "x"),
        "stopped_safe",
        "05 -> 07",
        ("The schema is at 07.", "up and healthy"),
        AGAIN,
    ),
}


def check_verdict(end: End) -> None:
    verdict = judged(end.given)
    assert (verdict.outcome, verdict.schema) == (end.outcome, end.schema)
    assert [words for words in end.state if words not in verdict.state] == []
    assert verdict.next.endswith(end.next) if end.next else verdict.next == ""


def check_report(end: End) -> None:
    facts = gather(end.given)
    report = build(facts, judge(facts), "2026-11-22T10:03:59+00:00")
    assert json.loads(json.dumps(report)) == report
    assert report["format"] == 1
    assert report["outcome"] == end.outcome
    assert report["finished_at"] == "2026-11-22T10:03:59+00:00"


def sentences(ends: dict[str, End]) -> str:
    texts = []
    for name, end in ends.items():
        verdict = judged(end.given)
        texts.append(
            f"{name}\n  {verdict.outcome}   schema {verdict.schema}\n  {verdict.state}\n  {verdict.next}".rstrip()
        )
    return "\n\n".join(texts)


@pytest.mark.parametrize("name", ENDS)
def test_every_way_a_run_can_end(name):
    check_verdict(ENDS[name])


def test_the_sentences_read_well(golden):
    golden("verdicts", sentences(ENDS))


def test_nothing_is_claimed_of_a_schema_that_was_not_read():
    # The server could not be reached, or another run holds the lock: preflight never looked.
    verdict = judged(failed("Compare the files with the ledger", "cannot connect", **NO_BACKUP, preflight={}))
    assert verdict.outcome == "refused"
    assert "no migration is applied" not in verdict.state
    assert verdict.schema != "empty"


def test_nothing_is_claimed_of_a_schema_after_the_engine_died():
    crashed = {"failed": True, "msg": "MODULE FAILURE: No start of json char found"}
    verdict = judged(failed("Apply the pending migrations", crashed["msg"], applying=crashed))
    assert "the schema is at 05" not in verdict.state.lower()
    assert verdict.next.endswith(STATUS)


def test_a_start_that_was_skipped_started_nothing():
    verdict = judged(failed_migration(failure(), [], "05", starting=SKIPPED, health=UNHEALTHY, healthy={}))
    assert "DOWN" in verdict.state


def test_the_way_back_is_named_when_half_a_migration_keeps_the_application_ill():
    verdict = judged(failed_migration(PARTIAL, [], "05", health=UNHEALTHY, healthy={}))
    assert verdict.next.endswith(BACK)


def test_the_next_command_keeps_the_target():
    # Without it the command would apply what the operator left out on purpose.
    given = failed_migration(failure(), [], "05", run=run(inputs={"env": "staging", "target": "07"}))
    assert judged(given).next.endswith(f"{AGAIN} -e target=07")


@pytest.mark.parametrize(
    ("sqlstate", "message"),
    [
        ("55P03", "canceling statement due to lock timeout"),
        ("40P01", "deadlock detected"),
        ("57P01", "terminating connection due to administrator command"),
        ("53100", "could not extend file: No space left on device"),
        (None, "the connection to the server was lost"),
    ],
)
def test_a_file_is_not_blamed_for_what_happened_around_it(sqlstate, message):
    verdict = judged(failed_migration(failure(sqlstate=sqlstate, message=message), [], "05"))
    assert "correct schema/" not in verdict.next
    assert verdict.next.endswith(AGAIN)


def test_the_window_is_from_stop_to_healthy():
    assert gather(raw())["window_seconds"] == pytest.approx(2.74)
    assert gather(raw(healthy={}))["window_seconds"] is None
    assert gather(raw(healthy=SKIPPED, stopping=SKIPPED))["window_seconds"] is None
    assert gather(raw(stopping={"at": STOPPED_AT}, healthy={"at": STOPPED_AT}))["window_seconds"] == 0


def test_gathering_a_run_that_ended_before_its_first_step():
    names = [name for name, value in raw().items() if isinstance(value, dict) and name != "run"]
    assert len(names) == 22
    facts = gather(failed("Check", "x", **{name: {} for name in names}))
    assert facts["checks"] == []
    assert facts["running"] == []
    assert facts["backup"] is None
    assert not any(facts[name] for name in ("stopped", "started", "healthy", "backup_tried"))


def test_the_application_before_the_run_is_one_of_the_checks():
    facts = gather(raw(health_before={"probes": [probe(good=0, reason="status 503 instead of 200: ")]}))
    assert [check["state"] for check in facts["checks"]] == ["ok", "ok", "ok", "ok", "fail"]


def test_so_is_the_application_as_the_controller_sees_it():
    seen = gather(raw(public_before={"probes": [PUBLIC_FAILED["probes"][0]]}))["checks"][-1]
    assert seen["state"] == "warn", "it is no reason not to run: the proxy may know this controller only"
    assert "certificate has expired" in seen["text"]
    assert gather(raw(public_before=SKIPPED))["checks"] == gather(raw())["checks"]


def test_an_answer_from_the_controller_is_a_probe_of_the_report():
    assert gather(raw(public=PUBLIC_FAILED))["probes"][-1] == PUBLIC_FAILED["probes"][0]
    assert gather(raw(public=PUBLIC_FAILED))["public_message"] == PUBLIC_FAILED["msg"]
    assert gather(raw(public={"probes": [probe()]}))["public_message"] is None


@pytest.mark.parametrize("name", ENDS)
def test_every_end_becomes_a_report_that_is_plain_json(name):
    check_report(ENDS[name])
