"""Which backups stay: the newest, the tagged, the needed; never fewer than one, and never one that is not usable."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import Backup
from ansible_collections.habitat.runbook.plugins.module_utils.retention import decide, is_of
from hypothesis import given
from hypothesis import strategies as st

FIRST = datetime(2026, 11, 1, 10, 0, tzinfo=timezone.utc)


def name(day: int) -> str:
    return f"staging-{FIRST + timedelta(days=day):%Y%m%dt%H%M%Sz}-k3f"


def backup(day: int, **changes) -> Backup:
    """The backup of so many days after the first."""
    taken = f"{FIRST + timedelta(days=day):%Y-%m-%dT%H:%M:%S.000000Z}"
    base = {"id": name(day), "dump": "/x", "verified": True, "problems": (), "taken_at": taken, "size": 7}
    return Backup(**{**base, "environment": "staging", "database": "habitat", **changes})


def broken(day: int) -> Backup:
    return backup(
        day, verified=False, problems=("the dump is missing",), taken_at=None, environment=None, database=None
    )


def removed(backups, keep: int, **more) -> list[str]:
    return [one.id for one in decide(backups, keep, more.pop("referred", {}), **more) if not one.keep]


def test_the_newest_stay_whatever_order_they_come_in():
    five = [backup(day) for day in (3, 1, 5, 2, 4)]
    assert removed(five, 2) == [name(3), name(2), name(1)]
    assert removed(five, 5) == []
    assert removed(five, 0) == []
    assert removed([], 3) == []


def test_every_choice_has_a_reason_and_the_size():
    told = {one.id: one for one in decide([backup(1, tag="sale"), backup(2), backup(3), broken(4)], 1, {})}
    assert told[name(1)].reason == "tagged sale"
    assert told[name(2)].reason == "there are 1 newer ones, and nothing refers to it"
    assert told[name(2)].size == 7
    assert told[name(3)].reason == "the newest one"
    assert told[name(4)].reason == "not usable: the dump is missing"


def test_what_is_not_usable_neither_counts_nor_goes():
    assert removed([broken(5), broken(4), backup(3), backup(2), backup(1)], 2) == [name(1)]
    assert removed([broken(5), backup(1)], 1) == []


def test_what_something_refers_to_stays():
    four = [backup(day) for day in (4, 3, 2, 1)]
    assert removed(four, 1, referred={name(2): "taken by the run that applied 07"}) == [name(3), name(1)]


@pytest.mark.parametrize(("hours", "stays"), [(1, 2), (-1, 1), (24 * 9, 4)])
def test_the_one_that_latest_means_stays(hours, stays):
    # The newest from before the last commit, which came so many hours after the second backup.
    commit = (FIRST + timedelta(days=2, hours=hours)).isoformat()
    left = {name(day) for day in (4, 3, 2, 1)} - set(
        removed([backup(day) for day in (4, 3, 2, 1)], 1, last_commit=commit)
    )
    assert left == {name(4), name(stays)}


def test_the_one_taken_just_now_stays_although_the_clock_was_set_back():
    assert removed([backup(9), backup(8), backup(1)], 2, taken=name(1)) == []


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.booleans(), st.sampled_from([None, "sale"])), unique_by=lambda one: one[0]
    ),
    st.integers(0, 6),
    st.sets(st.integers(0, 40)),
)
def test_whatever_there_is(shapes, keep, days):
    backups = [backup(day, tag=tag) if good else broken(day) for day, good, tag in shapes]
    referred = {name(day): "x" for day in days}
    choices = decide(backups, keep, referred)
    assert sorted(one.id for one in choices) == sorted(one.id for one in backups)
    gone = {one.id for one in choices if not one.keep}
    good = sorted((one for one in backups if one.verified), key=lambda one: one.taken_at, reverse=True)
    assert not gone & {one.id for one in good[:keep]} and not gone & {one.id for one in good[:1]}
    assert not gone & {one.id for one in backups if one.tag or not one.verified or one.id in referred}
    assert bool(gone) == (keep > 0 and any(one.tag is None and one.id not in referred for one in good[max(keep, 1) :]))


def test_whose_a_backup_is():
    assert is_of(backup(1), "staging", "habitat")
    assert not is_of(backup(1), "staging", "other")
    assert not is_of(backup(1, environment="production"), "staging", "habitat")
    assert is_of(broken(1), "staging", "habitat")
    # An environment's name may begin with another one's.
    assert not is_of(Backup("staging-eu-20261101t100000z-k3f", "/x", False, ("x",)), "staging", "habitat")
