"""What is on the screen while a long step works, and after a run was cut off; kept in ``golden/``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import screens
from ansible_collections.habitat.runbook.plugins.modules import run_recovery

from tests.unit.conftest import GOLDEN
from tests.unit.cut_off import DOWN, EVERYTHING, applying, begun, cut_off_run, told
from tests.unit.samples import HOLDER, PROBES, SERVICES, SICK, UGLY

COPY = {
    "kind": "copy",
    "what": "treasury_entries",
    "done": 2_100_000,
    "total": 5_213_004,
    "unit": "rows",
    "doing": "COPY TO",
}
INDEX = {
    "kind": "index",
    "what": "CREATE INDEX CONCURRENTLY members_email_idx\n    ON members (lower(email), joined_at, left_at)",
    "done": 812,
    "total": 4090,
    "unit": "blocks",
    "doing": "building index: scanning table",
}
STATEMENT = {
    "kind": "statement",
    "what": "UPDATE members SET email = lower(email)",
    "seconds": 125.2,
    "waits": False,
    "blockers": None,
}
BLOCKED = {**STATEMENT, "waits": True, "blockers": ["4121 metabase", "4122 psql"]}
UP, NONE_UP = {"running": SERVICES, "stopped": []}, {"running": [], "stopped": SERVICES}


def resumed(**changes: Any) -> str:
    base = {
        "env": "staging",
        "database": "habitat",
        "runs": [],
        "going_on": None,
        "last": None,
        "refusals": [],
        "services": UP,
        "probes": PROBES,
        "finishes": False,
    }
    return screens.resumed({**base, **changes})


def cancelled(*runs: dict[str, Any], check: bool = False) -> str:
    data = {"env": "staging", "database": "habitat", "runs": list(runs), "refusals": [], "check": check}
    return screens.cancelled(data)


def by_resume(**changes: Any) -> dict[str, Any]:
    return told(
        **{**EVERYTHING, "by": "resume.yml", "why": "nothing of it was alive any more", "healthy": None, **changes}
    )


LAST = told(**EVERYTHING)
BY_CANCEL = {"by": "cancel.yml", "why": "bob cancelled it"}
SCREENS: dict[str, Callable[[], str]] = {
    "progress_copies": lambda: screens.progress(
        "backup", 14.2, [COPY, {**COPY, "what": "members", "total": None}, {**COPY, "what": "logs", "total": 10}, COPY]
    ),
    "progress_index": lambda: screens.progress("applied", 4.0, [INDEX]),
    "progress_statement": lambda: screens.progress("applied", 126, [STATEMENT]),
    "progress_blocked": lambda: screens.progress("reverted", 126, [BLOCKED]),
    "progress_unknown": lambda: screens.progress("restore", 30, []),
    "resumed_nothing": lambda: resumed(),
    "resumed_and_goes_on": lambda: resumed(runs=[by_resume()], last=by_resume(), finishes=True),
    "resumed_only": lambda: resumed(runs=[by_resume()], last=by_resume()),
    "resumed_after_the_guard": lambda: resumed(last=LAST, finishes=True),
    "resumed_not_put_right": lambda: resumed(
        runs=[by_resume(started=[], problems=[DOWN])], last=by_resume(), services=NONE_UP, probes=[]
    ),
    "resumed_sick": lambda: resumed(runs=[by_resume()], last=by_resume(), probes=[PROBES[0], SICK]),
    "resumed_a_backup": lambda: resumed(
        runs=[told(begun(), cut_off_run(command="playbooks/backup.yml"), by="resume.yml")]
    ),
    "resumed_going_on": lambda: resumed(going_on=HOLDER),
    "cancelled_in_check_mode": lambda: cancelled({"run": cut_off_run(), **run_recovery._WOULD_END}, check=True),
    "cancelled": lambda: cancelled(told(**{**EVERYTHING, **BY_CANCEL})),
    "cancelled_before_anything": lambda: cancelled(told(begun(), schema="05", **BY_CANCEL)),
    "cancelled_nothing": lambda: cancelled(),
    "cancelled_not_put_right": lambda: cancelled(told(started=[], problems=[DOWN], **BY_CANCEL)),
}


@pytest.mark.parametrize("name", SCREENS)
def test_screen(golden, name):
    golden(f"cut_off_{name}", SCREENS[name]())


def test_no_golden_file_is_left_over():
    known = {path.stem for path in GOLDEN.glob("cut_off_*.txt") if not path.stem.startswith("cut_off_markdown_")}
    assert known == {f"cut_off_{name}" for name in SCREENS}


@pytest.mark.parametrize("name", SCREENS)
def test_every_line_has_its_label_and_fits(name):
    for line in SCREENS[name]().splitlines():
        assert line[:9].strip().isupper() or line.startswith("  "), line
        assert len(line) <= 160, line


@pytest.mark.parametrize("done", [0, 1, 4090, 5000])
def test_a_hundred_percent_is_said_by_the_end_only(done):
    text = screens.progress("applied", 1, [{**INDEX, "done": done}])
    assert " 100 %" not in text
    assert int(text.split()[1]) <= 99


def test_each_line_of_progress_is_one_line_whatever_the_statement():
    ugly = "SELECT 1 /* \x1b[2J\r\nLOCK      free " + "x" * 500
    (line,) = screens.progress("applied", 1, [{**STATEMENT, "what": ugly}]).splitlines()
    assert line.isprintable()
    assert len(line) < 120


@pytest.mark.parametrize("outside", [f"\x1b[2J{UGLY}", "bob\nRESULT    SUCCEEDED"])
def test_no_name_from_outside_forges_a_line(outside):
    report = told(applying(), by="cancel.yml", why=f"{outside} cancelled it", problems=[f"{outside} is in the way"])
    for text in (cancelled(report), resumed(runs=[report], last=report)):
        assert all(line.isprintable() for line in text.splitlines())
        assert not any(line.startswith("RESULT") for line in text.splitlines())


def test_every_sentence_of_a_state_is_kept_by_the_lines_it_is_cut_into():
    text = "word " * 200
    lines = screens.wrapped(text)
    assert " ".join(lines).split() == text.split()
    assert all(line.startswith("  ") and len(line) <= 116 for line in lines)
    assert screens.wrapped("") == []
