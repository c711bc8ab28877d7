"""A run that its guard or an operator has ended: what was said then is what is said at its end."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import report
from ansible_collections.habitat.runbook.plugins.module_utils.verdict import judge

from tests.unit.cut_off import DOWN, EVERYTHING, told
from tests.unit.runs import RUNS, finished
from tests.unit.samples import failed, failed_migration, failure, raw, run

ENDED = told(**EVERYTHING, by="cancel.yml", why="bob cancelled it")
PROBES = {"asked": 800, "good": 590, "down_seconds": 21.34}


def ended(given: dict[str, Any], by: dict[str, Any] = ENDED) -> dict[str, Any]:
    """How a run looks to its own report when it was ended from outside."""
    return {**given, "lock": {"held": False, "holder": None, "ended": by, "probes": PROBES}}


STEP_GONE = failed(
    "Apply the pending migrations",
    "the step has left no result: it was ended from outside, or the disk of its run is full; see status.yml",
    **{"applying": {"failed": True}, "starting": {"failed": True}, "health": {}, "healthy": {}},
)


@pytest.mark.parametrize("given", [STEP_GONE, raw(), failed_migration(failure(), [], "05"), RUNS["start_failed"]])
def test_whatever_the_controller_saw_the_guard_knows_better(given):
    verdict = judge(report.gather(ended(given)))
    assert verdict.as_data() == {name: ENDED[name] for name in ("outcome", "schema", "state", "next")}


@pytest.mark.parametrize("lock", [{}, {"held": False, "holder": None, "ended": None, "probes": PROBES}, {"msg": "x"}])
def test_a_run_that_nobody_ended_is_judged_by_itself(lock):
    given = raw(lock=lock)
    assert judge(report.gather(given)) == judge(report.gather(raw()))
    assert finished(given)["cut_off"] is False


def test_the_report_says_so_and_for_how_long_the_application_was_down():
    found = finished(ended(STEP_GONE))
    assert (found["cut_off"], found["down_seconds"]) == (True, 21.34)
    assert finished(raw())["down_seconds"] is None
    assert finished(raw(lock={"held": False, "holder": None, "ended": None, "probes": PROBES}))["down_seconds"] == 21.34


def test_the_last_screen_is_what_happened_and_not_which_task_failed(golden):
    golden("result_ended", report.result_screen(finished(ended(STEP_GONE)), "reports/20261122t100211z-k3f/report.md"))


def test_what_is_still_wrong_is_on_the_last_screen(golden):
    given = ended(STEP_GONE, told(started=[], problems=[DOWN]))
    golden("result_ended_not_put_right", report.result_screen(finished(given), None))


def test_the_markdown_of_a_run_that_was_ended(golden):
    golden("markdown_ended", report.markdown(finished(ended(STEP_GONE))))


def test_a_run_over_several_hosts_has_such_a_report_too():
    found = finished(ended(raw(run=run(serial=2))))
    assert found["outcome"] == "stopped_safe"
