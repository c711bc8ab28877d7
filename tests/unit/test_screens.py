"""Every screen of a run as an operator sees it, kept in ``golden/``; ``HABITAT_GOLDEN=write`` writes them anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import screens

from tests.unit import samples
from tests.unit.conftest import GOLDEN
from tests.unit.runs import HTML
from tests.unit.samples import (
    APPLIED,
    CHECKS,
    FAIL,
    HOLDER,
    LONG,
    PENDING,
    PROBES,
    PUBLIC_SICK,
    PUBLIC_URL,
    REFUSALS,
    SERVER,
    SERVICES,
    SICK,
    URLS,
    WARNING,
    failure,
    planned,
    probe,
    session,
)

DOWN_NONE = {"state": "none", "reason": "no down section"}
IRREVERSIBLE = {"state": "irreversible", "reason": "the old addresses are gone"}
BROKEN = {"state": "broken", "reason": "the commented section is not SQL"}
POINT_PLANNED = {"planned": True, "seconds": 2.3, "bytes": 412034101, "reason": "", "use": "wanted"}
TOO_LONG = "it would take about 31 s, habitat_restore_point_budget is 5.0 s"
POINT_NOT_PLANNED = {"planned": False, "seconds": 31.0, "bytes": 15_000_000_000, "reason": TOO_LONG, "use": "none"}
NO_POINT = {
    "name": None,
    "seconds": 0.1,
    "reason": "database habitat is still in use by pid 4121 report (psql, active)",
}


NOTHING_TO_REVERT = {"env": "staging", "database": "habitat", "from_version": "05", "reverts": [], "losses": []}


def preflight(**changes: Any) -> dict[str, Any]:
    base = {
        "run": samples.run(),
        "database": "habitat",
        "host": "db1.internal",
        "server": SERVER,
        "checks": CHECKS,
        "refusals": [],
        "pending": PENDING,
        "current": "05",
        "warnings_in_files": [],
        "running": SERVICES,
        "probes": PROBES,
        "public_probes": [],
        "restore_point": POINT_PLANNED,
    }
    return {**base, **changes}


def plan(pending: list[dict[str, Any]], current: str | None = "05", **changes: Any) -> str:
    return screens.plan({"pending": pending, "current": current, "running": SERVICES, **changes})


SCREENS: dict[str, Callable[[], str]] = {
    "refusal": lambda: screens.refusal(
        'env is "produciton"', "known: local, production, staging", "did you mean production?"
    ),
    "refusal_without_more": lambda: screens.refusal("local is not ready", "there is no embedded stack yet", ""),
    "refusals": lambda: screens.refusals({"refusals": REFUSALS}),
    "held": lambda: screens.held({"env": "staging", "database": "habitat", "holder": HOLDER}),
    "nothing": lambda: screens.nothing({"env": "staging", "database": "habitat", "current": "07"}),
    "nothing_up_to": lambda: screens.nothing(
        {"env": "staging", "database": "habitat", "current": "05", "target": "05"}
    ),
    "nothing_at_all": lambda: screens.nothing(
        {"env": "staging", "database": "habitat", "current": None, "target": None}
    ),
    "preflight": lambda: screens.preflight(preflight()),
    "preflight_warnings": lambda: screens.preflight(preflight(checks=[*CHECKS, WARNING], running=[], probes=[SICK])),
    "preflight_fails": lambda: screens.preflight(preflight(checks=[*CHECKS, WARNING, FAIL], probes=[PROBES[0], SICK])),
    "preflight_public": lambda: screens.preflight(preflight(public_probes=[probe(PUBLIC_URL), probe(URLS[0])])),
    "preflight_public_sick": lambda: screens.preflight(preflight(public_probes=[probe(URLS[0]), PUBLIC_SICK])),
    "preflight_refusals": lambda: screens.preflight(preflight(refusals=REFUSALS)),
    "plan_nothing": lambda: plan([]),
    "plan_of_an_empty_database": lambda: plan([planned("01", "treasury_core"), planned("02", "people_core")], None),
    "plan_of_every_kind": lambda: plan(
        [
            planned("06", "security", down=IRREVERSIBLE),
            planned("07", "members_email_idx", mode="steps", down=DOWN_NONE),
            planned("8", "vacuum", mode="as_written", statements=1, down=BROKEN),
            planned("20261122100000", LONG, statements=12000),
        ],
        warnings_in_files=[
            "schema/07_members_email_idx.sql:3: the file is not UTF-8 at its end",
            "schema/08_vacuum.sql: no down section",
        ],
        running=[],
    ),
    "plan_of_many": lambda: plan([planned(f"{number:03d}", "step") for number in range(6, 18)]),
    "plan_restore_point": lambda: plan(PENDING, restore_point=POINT_PLANNED),
    "plan_restore_point_of_an_empty_database": lambda: plan(PENDING, None, running=[], restore_point=POINT_PLANNED),
    "plan_no_restore_point": lambda: plan(PENDING, restore_point=POINT_NOT_PLANNED),
    "nothing_to_revert": lambda: screens.nothing_to_revert(NOTHING_TO_REVERT),
    "nothing_to_revert_at_all": lambda: screens.nothing_to_revert({**NOTHING_TO_REVERT, "from_version": None}),
    "backup": lambda: screens.backup({"backup": samples.backup(), "seconds": 38.214}),
    "stopping": lambda: screens.stopping({"running": SERVICES}),
    "stopping_nothing": lambda: screens.stopping({"running": []}),
    "applied": lambda: screens.applied({"applied": APPLIED, "other_sessions": []}),
    "applied_among_others": lambda: screens.applied(
        {
            "applied": [samples.applied("20261122100000", LONG, 125_000)],
            "other_sessions": [session(), session(app="", role="bob")],
        }
    ),
    "applied_with_restore_point": lambda: screens.applied(
        {"applied": APPLIED, "other_sessions": [], "restore_point": {"name": "x", "seconds": 0.4, "reason": ""}}
    ),
    "applied_without_restore_point": lambda: screens.applied(
        {"applied": APPLIED, "other_sessions": [session()], "restore_point": NO_POINT}
    ),
    "applied_and_put_back": lambda: screens.applied({"applied": APPLIED, "put_back": {"done": True}}),
    "starting": lambda: screens.starting({"running": SERVICES}),
    "starting_nothing": lambda: screens.starting({"running": []}),
    "healthy": lambda: screens.healthy(
        {"probes": [probe(url) for url in URLS], "now": 1795341833.99, "since": 1795341831.25}
    ),
    "baseline": lambda: screens.baseline({"recorded": ["01", "02", "03"], "to_version": "03"}),
    "baseline_nothing": lambda: screens.baseline({"recorded": [], "to_version": "03"}),
    "failure": lambda: "\n".join(screens.failure(failure())),
    "failure_of_the_ledger": lambda: "\n".join(screens.failure(failure(file="the ledger", line=2, column=1))),
    "failure_with_everything": lambda: "\n".join(screens.failure(HTML)),
    "failure_of_many_lines": lambda: "\n".join(
        screens.failure(failure(statement="SELECT\n" + "  1,\n" * 20 + "  nobody"))
    ),
}


@pytest.mark.parametrize("name", SCREENS)
def test_screen(golden, name):
    golden(name, SCREENS[name]())


def test_no_golden_file_is_left_over():
    others = ("status", "result_", "markdown_", "verdicts", "bootstrap_", "cut_off_")
    others += ("backup_after", "copied", "retained", "drill")
    assert {path.stem for path in GOLDEN.glob("*.txt") if not path.stem.startswith(others)} == set(SCREENS)


@pytest.mark.parametrize("name", ["backup", "healthy", "held", "preflight", "refusal", "stopping", "starting"])
def test_every_phase_begins_at_the_same_column(name):
    labels = [line for line in SCREENS[name]().splitlines() if line[:1].isupper() and not line.startswith("Runbook")]
    assert all(line[:9].strip().isupper() and line[9] == " " and line[10] != " " for line in labels)


def test_an_application_the_controller_cannot_see_does_not_refuse_a_run():
    assert screens.refused(preflight(public_probes=[PUBLIC_SICK])) is None
    assert "not healthy before the run" in (screens.refused(preflight(probes=[SICK])) or "")


def test_nobody_is_asked_about_an_application_that_does_not_run():
    (only,) = screens.health_checks(preflight(running=[], probes=[SICK], public_probes=[PUBLIC_SICK]))
    assert only["state"] == "warn"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lambda: screens.health_checks(preflight(probes=[PROBES[0]]))[0]["text"], "1 addresses"),
        (lambda: screens.healthy({"probes": PROBES[:1], "now": 2, "since": 1}), "1 good answers"),
    ],
)
def test_one_is_not_many(text, words):
    assert words not in text()


@pytest.mark.parametrize("statement", ["SELECT\n" + "  1,\n" * 20 + "  nobody"])
def test_a_statement_that_is_cut_says_so(statement):
    assert screens.failure(failure(statement=statement))[-1].endswith("... 16 more lines")


def test_a_message_of_many_lines_stays_one_line():
    lines = screens.failure(failure(message="not so\n```\n# Heading\x1b[2J", sqlstate="P0001"))
    assert lines[0].startswith("FAILED    schema/07_email_verifications.sql:12:38   not so")
    assert lines[0].endswith("(SQLSTATE P0001)")
    assert all(line.isprintable() for line in lines)


def test_a_plan_up_to_a_target_does_not_say_that_nothing_is_pending_at_all():
    assert plan([], target="05").endswith("nothing pending up to 05, schema is at 05")


def test_a_plan_names_every_migration_that_could_stay_partial():
    pending = [
        planned(f"{number:02d}", "step", mode="steps" if number == 9 else "transaction") for number in range(6, 18)
    ]
    assert "  if 09 fails: it stays partial, on record" in plan(pending)


def test_a_plan_promises_no_start_of_services_that_do_not_run():
    text = plan(PENDING, running=[])
    assert "none is running" in text
    assert "services start" not in text
    assert "services stay up" not in text


@pytest.mark.parametrize("running", [SERVICES, []], ids=["services", "none"])
def test_a_plan_with_a_restore_point_promises_nothing_else(running):
    text = plan(PENDING, running=running, restore_point=POINT_PLANNED)
    assert "what was committed is undone by the restore point" in text
    assert ("if health fails: the restore point is put back" in text) == bool(running)
    assert "services stay up" not in text
    assert "PostgreSQL rolls it back" not in text
    assert ("services start" in text) == bool(running)


def test_a_single_migration_in_a_transaction_needs_no_restore_point():
    text = plan(PENDING[:1], running=SERVICES, restore_point=POINT_PLANNED)
    assert f"if {PENDING[0]['version']} fails: PostgreSQL rolls it back, the services start on schema 05" in text


def test_a_plan_without_a_restore_point_promises_none():
    for point in (POINT_NOT_PLANNED, {}):
        text = plan(PENDING, restore_point=point)
        assert "is put back" not in text
        assert "if health fails: the services stay up on schema 07" in text


def test_a_reason_cannot_forge_a_line():
    reason = "role x\nREFUSED  nothing"
    for text in (
        plan(PENDING, restore_point={**POINT_NOT_PLANNED, "reason": reason}),
        screens.applied({"applied": APPLIED, "restore_point": {**NO_POINT, "reason": reason}}),
    ):
        assert [line for line in text.splitlines() if line.startswith("REFUSED")] == []


def test_the_window_is_left_out_when_nothing_was_stopped():
    assert "window" not in screens.healthy({"probes": PROBES, "now": 1795341833.99, "since": None})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"refusals": REFUSALS}, REFUSALS[0]["what"]),
        ({"refusals": [], "holder": None, "pending": []}, None),
        ({"env": "staging", "database": "habitat", "holder": HOLDER}, "another run holds staging/habitat"),
        (NOTHING_TO_REVERT, None),
        ({**NOTHING_TO_REVERT, "refusals": REFUSALS}, REFUSALS[0]["what"]),
        (preflight(), None),
        (preflight(checks=[WARNING], running=[], probes=[]), None),
        (preflight(checks=[*CHECKS, FAIL]), FAIL["text"]),
        (preflight(probes=[SICK]), f"the application is not healthy before the run: {SICK['url']}: {SICK['reason']}"),
        (preflight(refusals=REFUSALS), REFUSALS[0]["what"]),
    ],
)
def test_the_screens_that_end_a_run(data, why):
    assert screens.refused(data) == why


def test_a_lock_held_by_somebody_who_is_gone_already_ends_the_run_too():
    # The holder ended between our attempt and our question who it is: the lock was not ours, so nothing may follow.
    data = {"env": "staging", "database": "habitat", "holder": {}}
    assert screens.refused(data)
    assert "None" not in screens.held(data)


def test_a_holder_of_whom_only_the_run_is_known():
    known = {"run_id": HOLDER["run_id"], "since": HOLDER["since"]}
    assert "None" not in screens.held({"env": "staging", "database": "habitat", "holder": known})
