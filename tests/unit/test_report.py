"""The end of a run on the screen and as Markdown, kept in ``golden/``; no name from outside breaks either."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import report

from tests.unit.conftest import GOLDEN
from tests.unit.runs import NOT_STOPPED, RUNS, finished
from tests.unit.samples import UGLY, failed, failed_migration, failure, raw, run

SCREENS: dict[str, Callable[[], str]] = {
    **{
        f"result_{name}": lambda given=given: report.result_screen(
            finished(given), "reports/20261122t100211z-k3f/report.md"
        )
        for name, given in RUNS.items()
    },
    **{f"markdown_{name}": lambda given=given: report.markdown(finished(given)) for name, given in RUNS.items()},
}


@pytest.mark.parametrize("name", SCREENS)
def test_screen(golden, name):
    golden(name, SCREENS[name]())


def test_no_golden_file_is_left_over():
    others = {"result_ended", "result_ended_not_put_right", "markdown_ended"}
    found = {path.stem for kind in ("result_*", "markdown_*") for path in GOLDEN.glob(f"{kind}.txt")}
    assert found == {*SCREENS, *others}


@pytest.mark.parametrize("failed_task", ["Compare the files with the ledger", "Take or give back the run lock"])
def test_a_refusal_that_no_screen_has_explained_is_explained_at_the_end(failed_task):
    why = "cannot connect to database habitat at db1.internal port 5432: connection refused"
    given = failed(failed_task, why, preflight={}, health_before={}, services={}, backup={}, **NOT_STOPPED)
    assert why in report.result_screen(finished(given), "reports/x/report.md")


def tables_of(text: str) -> list[list[int]]:
    """Of every table in a Markdown text the number of cells in each row, split at bars that are not escaped."""
    tables: list[list[int]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            tables[-1].append(len(line.replace("\\|", "").strip("|").split("|")))
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table]


def outside_code(text: str) -> list[str]:
    """The lines of a Markdown text that do not stand in a fence."""
    lines, fenced = [], False
    for line in text.splitlines():
        if line.lstrip(" ").startswith("```"):
            fenced = not fenced
        elif not fenced:
            lines.append(line)
    assert not fenced
    return lines


@pytest.mark.parametrize("name", RUNS)
def test_no_name_breaks_a_table(name):
    tables = tables_of(report.markdown(finished(RUNS[name])))
    assert len(tables[0]) > 5
    assert {len(set(table)) for table in tables} == {1}
    assert [table[0] for table in tables] in ([2], [2, 4], [2, 5], [2, 4, 5], [2, 4, 2])


@pytest.mark.parametrize("part", ["operator", "database", "message", "state"])
def test_no_name_becomes_markup(part):
    given = {
        "operator": raw(run=run(operator=UGLY)),
        "database": raw(database=UGLY),
        "message": failed("Dump the database", f"{UGLY}\n# Heading\n```", backup={"failed": True}, **NOT_STOPPED),
        "state": failed("Wait", UGLY, health={"failed": True, "msg": f"status 502 instead of 200: {UGLY}"}, healthy={}),
    }[part]
    text = report.markdown(finished(given))
    assert "alert" in text
    plain = [line.replace("\\<", "") for line in outside_code(text)]
    assert [line for line in plain if "<script" in line or line.startswith("# Heading")] == []


def test_a_message_does_not_leave_its_fence():
    given = failed_migration(failure(message=f"first\n```\n# {UGLY}"), [], "05")
    assert [line for line in outside_code(report.markdown(finished(given))) if "script" in line] == []


def test_whether_a_lost_commit_failed_is_not_claimed():
    text = report.markdown(finished(RUNS["commit_unknown"]))
    assert "| 07 | email\\_verifications | failed |" not in text
