"""What status.yml shows, and the one thing it says to do next; screens are kept in ``golden/``."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import status_screen

from tests.unit.conftest import GOLDEN
from tests.unit.cut_off import DOWN as NOT_STARTED
from tests.unit.cut_off import EVERYTHING, begun, cut_off_run, told
from tests.unit.rollbacks import ROLLBACKS
from tests.unit.runs import RUNS, finished
from tests.unit.samples import (
    BACKUP_ID,
    HOLDER,
    LONG,
    PROBES,
    REFUSALS,
    RUN_ID,
    SERVICES,
    SICK,
    raw,
    session,
    state,
    stored,
    waiting,
)


def copy(kind: str, size: int, run_id: str = RUN_ID) -> dict[str, Any]:
    """A copy of the database as module session_info lists it."""
    return {"name": f"habitat_{kind}_{run_id}", "kind": kind, "run_id": run_id, "size": size}


def entry(event: str, version: str | None, minute: int, **changes: Any) -> dict[str, Any]:
    """An entry of the history as module session_info returns it."""
    base = {"at": f"2026-11-22T10:{minute:02d}:52.120311+00:00", "event": event, "version": version, "name": "x"}
    who = {"run_id": RUN_ID, "operator": "alice", "origin": "AWX job 811", "duration_ms": 12, "error": None}
    return {**base, **who, **changes}


START = "docker start habitat-api-1 habitat-api-2 habitat-worker-1"
WAIT = "a run is going on: wait for its end, or end it: ansible-playbook playbooks/cancel.yml -e env=staging"
DOWN = f"the services are down; on db1.internal: {START}"
POINT = copy("point", 9_500_000)
COPIES = [copy("before", 431_000_000), POINT, copy("restore", 7_000_000, "20261121t080000z-x1y")]
HISTORY = [
    entry("restore", "05", 9),
    entry("fail", "07", 8, error='relation "member" does not exist'),
    entry("apply", "06", 7),
    entry("revert", "07", 6, operator="b\x1b[2Job", origin="db1\nLOCK      free"),
    entry("restore", None, 5, at="2026-11-22T11:05:52.1+01:00"),
    entry("baseline", "01", 1),
]


def status(**changes: Any) -> dict[str, Any]:
    """The data of the status screen, made of what role and modules return."""
    migrations = {
        "current": "07",
        "versions": [
            state("01", "treasury_core", state="baseline", duration_ms=0),
            state("06", "security", duration_ms=184),
            state("07", "email_verifications"),
        ],
        "refusals": [],
        "warnings_in_files": [],
    }
    around = {
        "holder": None,
        "sessions": [session(seconds=3), session(seconds=None, state="idle")],
        "copies": [],
        "history": [],
        "kept_out": [],
        "interrupted": [],
    }
    facts = {
        "around": {name: changes.pop(name, value) for name, value in around.items()},
        "env": "staging",
        "host": "db1.internal",
        "database": "habitat",
        "services": {"start_with": START, **changes.pop("services", {"running": SERVICES, "stopped": []})},
        "probes": PROBES,
        "successes": 1,
        "backups": [
            stored(),
            stored(id="staging-20261121t080000z-x1y"),
            stored(id="broken", verified=False, size=None, environment=None, database=None, taken_at=None),
        ],
        "last_drill": None,
        "last_run": finished(raw()),
    }
    of_migrations = {name: changes.pop(name) for name in list(changes) if name in migrations}
    return status_screen.build({**facts, "migrations": {**migrations, **of_migrations}, **changes})


RESUME = "ansible-playbook playbooks/resume.yml -e env=staging"
INTERRUPTED = {
    "run_id": HOLDER["run_id"],
    "operator": "bob",
    "origin": "AWX job 811",
    "where": "while migrations were applied",
    "at": "2026-11-22T10:01:12.120+00:00",
    "stopped": SERVICES,
    "next": RESUME,
}
CUT_OFF = told(**EVERYTHING)
OF_A_BACKUP = told(begun(), cut_off_run(command="playbooks/backup.yml"), schema="05")
PENDING_07 = {"current": "06", "versions": [state("06", "security"), waiting("07", "email_verifications")]}
LAST_NOT_PUT_BACK = finished(ROLLBACKS["not_put_back"])


NOW = datetime(2026, 11, 24, 9, 0, tzinfo=timezone.utc)
TRIED = {
    "id": BACKUP_ID,
    "at": "2026-11-23T05:00:12.120+00:00",
    "ok": True,
    "seconds": 38.2,
    "error": None,
    "operator": "alice",
    "run_id": "20261123t045912z-d41",
}
NOT_RESTORED = {**TRIED, "ok": False, "seconds": None, "error": "the dump was changed,\x1b[2J damaged or replaced"}
MANY = [
    stored(id=f"staging-202611{22 - day}t100211z-k3f", taken_at=f"2026-11-{22 - day}T10:02:15Z", **changes)
    for day, changes in enumerate(
        [{}, {"tag": "before-sale"}, {"restore_seconds": None, "proof": "read"}, {"ledger_version": None}, {}, {}, {}]
    )
]


def shown(**changes: Any) -> str:
    return status_screen.status(status(**changes), NOW)


SCREENS: dict[str, Callable[[], str]] = {
    "status": shown,
    "status_empty": lambda: shown(
        current=None, versions=[], services={"running": [], "stopped": []}, backups=[], last_run=None
    ),
    "status_pending": lambda: shown(
        current="05",
        versions=[state("05", "indexes"), waiting("06", "security"), waiting("07", LONG)],
        last_run=None,
    ),
    "status_partial": lambda: shown(
        versions=[
            state("07", "", state="by hand", duration_ms=None, run_id=None),
            waiting(
                "08",
                "members_email_idx",
                state="partial",
                label="partial 2/5",
                run_id="20261121t220000z-p02",
                error="canceling statement due to lock timeout",
            ),
        ],
        last_run=finished(RUNS["migration_partial"]),
    ),
    "status_problems": lambda: shown(
        versions=[
            state("05", "indexes", state="changed"),
            waiting("06", "security", state="out of order"),
            state("07", "", state="missing"),
        ],
        refusals=REFUSALS,
        warnings_in_files=["schema/06_security.sql: no down section"],
        sessions=[session(), session(pid=99, app=None, query=None, seconds=60)],
    ),
    "status_during_a_run": lambda: shown(
        holder=HOLDER, services={"running": [], "stopped": SERVICES}, probes=[SICK, SICK]
    ),
    "status_copies": lambda: shown(copies=COPIES, history=HISTORY, last_run=finished(ROLLBACKS["put_back"])),
    "status_not_put_back": lambda: shown(
        copies=[POINT], versions=[state("06", "security"), waiting("07", "x")], last_run=LAST_NOT_PUT_BACK
    ),
    "status_swap_unknown": lambda: shown(
        copies=COPIES[:1], probes=[SICK, SICK], last_run=finished(ROLLBACKS["swap_unknown"])
    ),
    "status_down": lambda: shown(
        services={"running": [], "stopped": SERVICES}, last_run=finished(RUNS["start_failed"])
    ),
    "status_kept_out": lambda: shown(kept_out=["habitat_app", "ugly \"role's"]),
    "status_kept_out_by_a_run": lambda: shown(
        kept_out=["habitat_app"],
        holder=dict(HOLDER, phase="APPLY"),
        services={"running": [], "stopped": SERVICES},
        probes=[SICK, SICK],
    ),
    "status_interrupted": lambda: shown(
        **PENDING_07,
        interrupted=[INTERRUPTED, {**INTERRUPTED, "run_id": RUN_ID, "at": None, "stopped": []}],
        kept_out=["habitat_app"],
        services={"running": [], "stopped": SERVICES},
        probes=[SICK, SICK],
    ),
    "status_cut_off": lambda: shown(**PENDING_07, last_run=CUT_OFF),
    "status_cut_off_nothing_left": lambda: shown(last_run=CUT_OFF),
    "status_cut_off_not_put_right": lambda: shown(
        **PENDING_07,
        services={"running": [], "stopped": SERVICES},
        probes=[SICK, SICK],
        last_run=told(started=[], problems=[NOT_STARTED]),
    ),
    "status_backups": lambda: shown(
        backups=[
            *MANY,
            stored(id="foreign", environment="production"),
            stored(id="bad", verified=False, taken_at=None),
        ],
        last_drill=TRIED,
    ),
    "status_never_restored": lambda: shown(backups=[MANY[2]]),
    "status_drill_failed": lambda: shown(last_drill=NOT_RESTORED),
    "status_drill_is_old": lambda: shown(last_drill={**TRIED, "at": "2026-10-01T05:00:12Z"}),
    "status_unhealthy": lambda: shown(
        services={"running": SERVICES[:2], "stopped": SERVICES[2:], "units": SERVICES[:2]},
        probes=[PROBES[0], SICK],
        last_run=finished(RUNS["unhealthy"]),
    ),
}


@pytest.mark.parametrize("name", SCREENS)
def test_screen(golden, name):
    golden(name, SCREENS[name]())


def test_no_golden_file_is_left_over():
    assert {path.stem for path in GOLDEN.glob("status*.txt")} == set(SCREENS)


@pytest.mark.parametrize(
    ("changes", "next_step"),
    [
        ({}, "nothing to do"),
        ({"versions": [waiting("08", "x")]}, "ansible-playbook migrate.yml -e env=staging"),
        ({"versions": [waiting("08", "x", state="partial")]}, "ansible-playbook migrate.yml -e env=staging"),
        ({"holder": HOLDER, "refusals": REFUSALS}, WAIT),
        ({"refusals": REFUSALS, "versions": [waiting("08", "x")]}, REFUSALS[0]["next"]),
        (
            {"kept_out": ["habitat_app"], "versions": [waiting("08", "x")], "probes": [SICK, SICK]},
            'as the owner: GRANT CONNECT ON DATABASE "habitat" TO "habitat_app"',
        ),
        (
            {"kept_out": ['a"b', "c d"], "last_run": LAST_NOT_PUT_BACK},
            'as the owner: GRANT CONNECT ON DATABASE "habitat" TO "a""b", "c d"',
        ),
        ({"kept_out": ["habitat_app"], "holder": HOLDER}, WAIT),
        ({"kept_out": ["habitat_app"], "refusals": REFUSALS}, REFUSALS[0]["next"]),
        ({"interrupted": [INTERRUPTED]}, RESUME),
        ({"interrupted": [INTERRUPTED], "refusals": REFUSALS, "kept_out": ["habitat_app"]}, RESUME),
        ({"interrupted": [INTERRUPTED], "holder": HOLDER}, WAIT),
        ({"last_run": CUT_OFF, **PENDING_07}, RESUME),
        ({"last_run": CUT_OFF, "probes": [SICK, SICK]}, RESUME),
        ({"last_run": CUT_OFF}, "nothing to do"),
        ({"last_run": {**CUT_OFF, "next": ""}, **PENDING_07}, "ansible-playbook migrate.yml -e env=staging"),
        ({"last_run": {**CUT_OFF, "cut_off": False}, **PENDING_07}, "ansible-playbook migrate.yml -e env=staging"),
        ({"last_run": OF_A_BACKUP}, "ansible-playbook playbooks/backup.yml -e env=staging"),
        ({"last_run": OF_A_BACKUP, "probes": [PROBES[0], SICK]}, "the API is not healthy: look at its log"),
        ({"env": "production", **PENDING_07}, "ansible-playbook migrate.yml -e env=production -e confirm=production"),
        ({"last_run": told(run=cut_off_run(command="habitat.runbook.migrate"))}, "nothing to do"),
        (
            {"last_drill": NOT_RESTORED},
            "the newest backup could not be restored, take another one: "
            "ansible-playbook playbooks/backup.yml -e env=staging",
        ),
        ({"last_drill": NOT_RESTORED, **PENDING_07}, "ansible-playbook migrate.yml -e env=staging"),
        ({"last_drill": {**NOT_RESTORED, "id": "staging-20261101t100211z-k3f"}}, "nothing to do"),
        ({"last_drill": TRIED}, "nothing to do"),
        ({"probes": [PROBES[0], SICK]}, "the API is not healthy: look at its log"),
        (
            {"services": {"running": [], "stopped": SERVICES}, "versions": [waiting("08", "x")]},
            DOWN,
        ),
    ],
)
def test_the_one_thing_to_do_next(changes, next_step):
    assert status(**changes)["next"] == next_step


def test_the_status_takes_the_services_as_the_module_returns_them():
    (line,) = (line for line in shown(services={"running": SERVICES, "stopped": []}).splitlines() if "SERVICES" in line)
    assert line == "SERVICES  habitat:api_0, habitat:api_1, habitat:worker running"


def test_what_the_last_run_said_is_next_while_nobody_did_it():
    # Otherwise the command to roll back is lost with the screen it was on.
    down = {"running": [], "stopped": SERVICES}
    for changes in ({"probes": [SICK, SICK]}, {"services": down}):
        last = finished(RUNS["start_failed"])
        assert last["next"] in shown(last_run=last, **changes)


def test_a_service_that_is_down_is_something_to_do():
    down = {"running": SERVICES[:2], "stopped": SERVICES[2:], "units": SERVICES[:2]}
    told = status(services=down)["next"]
    assert told == f"start habitat:worker, unless it is stopped on purpose; on db1.internal: {START}"


def test_an_application_nobody_asked_is_not_called_healthy():
    assert "API healthy" not in shown(probes=[])


def test_backups_that_cannot_be_used_are_not_called_none():
    text = shown(backups=[stored(verified=False, problems=["the dump is missing"])])
    (line,) = (line for line in text.splitlines() if line.startswith("BACKUPS"))
    assert "1" in line


def test_a_holder_of_whom_only_the_run_is_known():
    known = {"run_id": HOLDER["run_id"], "since": HOLDER["since"]}
    assert "None" not in shown(holder=known)


def test_a_restore_point_that_could_not_be_put_back_is_next_however_well_the_application_is():
    pending = [state("06", "security"), waiting("07", "x")]
    told = status(versions=pending, copies=[POINT], last_run=LAST_NOT_PUT_BACK)["next"]
    assert told.startswith(LAST_NOT_PUT_BACK["next"])
    # Somebody went back to it meanwhile, or it was removed: the command would not work any more.
    assert status(versions=pending, last_run=LAST_NOT_PUT_BACK)["next"] == "ansible-playbook migrate.yml -e env=staging"


def test_the_status_does_not_send_to_the_status():
    for name in ("swap_unknown", "put_back_but_down"):
        told = status(services={"running": [], "stopped": SERVICES}, last_run=finished(ROLLBACKS[name]))["next"]
        assert told == DOWN


def test_only_the_newest_entries_of_the_history_are_shown():
    lines = shown(history=HISTORY).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("HISTORY"))
    assert [line.split()[2] for line in [lines[first][10:], *lines[first + 1 : first + 5]]] == [
        "restore",
        "fail",
        "apply",
        "revert",
        "restore",
    ]
    assert not lines[first + 5].startswith(" ")


def test_an_entry_of_the_history_is_one_line_whoever_wrote_it():
    assert [line for line in shown(history=HISTORY).splitlines() if line.startswith("LOCK")] == ["LOCK      free"]
