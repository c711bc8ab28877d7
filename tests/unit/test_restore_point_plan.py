"""Whether a restore point is going to be taken, and the reason that the plan shows when it is not."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.checks import Check, ok
from ansible_collections.habitat.runbook.plugins.module_utils.restore_point import plan_point

MEGABYTE = 10**6
IN_THE_WAY = [ok("fine"), Check("fail", "role habitat may not create databases", "ALTER ROLE habitat CREATEDB")]


def planned(size=100 * MEGABYTE, in_the_way=(), on_partial="restore", budget=60.0, free=10**12):
    return plan_point({"size": size}, list(in_the_way), on_partial, budget, free)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, ""),
        ({"free": 368 * MEGABYTE}, "368 MB are free for a copy of 100 MB and 268 MB to spare"),
        ({"free": 369 * MEGABYTE}, ""),
        ({"free": "the server's disk cannot be seen from here"}, "the server's disk cannot be seen from here"),
        ({"in_the_way": IN_THE_WAY}, "role habitat may not create databases (ALTER ROLE habitat CREATEDB)"),
        ({"on_partial": "start"}, "habitat_on_partial is start"),
    ],
)
def test_the_reason(given, reason):
    assert planned(**given).reason == reason
    assert planned(**given).planned is (reason == "")


def test_a_copy_that_takes_too_long():
    plan = planned(size=100_000 * MEGABYTE, budget=5)
    assert "habitat_restore_point_budget is 5.0 s" in plan.reason
    assert not plan.planned


@pytest.mark.parametrize(
    ("given", "use"),
    [({}, "required"), ({"on_partial": "auto"}, "wanted"), ({"free": 0}, "none"), ({"on_partial": "start"}, "none")],
)
def test_what_the_step_that_applies_is_told(given, use):
    assert planned(**given).use == use
