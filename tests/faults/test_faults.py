"""A dozen faults of the matrix; `make faults` tries all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.matrix import shot_at
from tests.faults.moments import kill_guard, kill_postmaster, kill_step, send
from tests.faults.shots import Outcome, fire
from tests.faults.stand import Stand, standing

LOOKED_AT = [
    "before Take or give back the run lock",
    "after Check server, rights, client programs, space and sessions",
    "before Stop what runs",
    "before Apply the pending migrations",
    "after Apply the pending migrations",
    "before Start what was stopped, and nothing else",
    "after Write the report and say how it ended",
]
"""Points at which the controller is killed, and things are looked at."""

FINISHED = ["after Stop what runs"]
"""The same, and then what status says is typed."""


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with standing() as one:
        # How soon is for `make faults` to say; here another test runs beside it, and what never comes is found, too.
        one.slack = 20.0
        yield one


def holds(outcome: Outcome) -> None:
    assert outcome.well, f"{outcome.broken}\n{outcome.shown}"


def spread(cases: list[str]) -> list:
    """Half of the cases for each of two processes, which need a stand each."""
    return [pytest.param(one, marks=pytest.mark.xdist_group(f"faults-{n % 2}")) for n, one in enumerate(cases)]


@pytest.mark.parametrize("point", spread(LOOKED_AT))
def test_the_api_is_back_and_nothing_is_left(stand, point):
    holds(fire(stand, shot_at(stand, "migrate", point, point), finish=False))


@pytest.mark.parametrize("point", spread(FINISHED))
def test_what_status_says_leads_on(stand, point):
    holds(fire(stand, shot_at(stand, "migrate", point, point)))


@pytest.mark.xdist_group("faults-0")
def test_ctrl_c_while_migrations_are_applied(stand):
    holds(send(stand, "in apply", "SIGINT", finish=False))


@pytest.mark.xdist_group("faults-1")
def test_the_step_that_applies_is_killed(stand):
    holds(kill_step(stand, "in apply", finish=False))


@pytest.mark.xdist_group("faults-1")
def test_the_guard_is_killed_while_migrations_are_applied(stand):
    holds(kill_guard(stand, "in apply", controller=False, finish=False))


@pytest.mark.xdist_group("faults-1")
def test_the_server_is_killed_while_migrations_are_applied(stand):
    holds(kill_postmaster(stand, "in apply", controller=False, finish=False))
