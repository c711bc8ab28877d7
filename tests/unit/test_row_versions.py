"""Which rows are newer than a snapshot, against a history of transactions of which everything is known."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.row_versions import (
    Buckets,
    Snapshot,
    by_digests,
    by_versions,
    same_major,
)
from hypothesis import given
from hypothesis import strategies as st

# A transaction: how long it takes and how many subtransactions it has; numbers are given in turn.
HISTORIES = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 2)), min_size=1, max_size=12)


def play(history: list[tuple[int, int]], at: int) -> tuple[Snapshot, dict[int, bool]]:
    """The snapshot PostgreSQL would take as the transaction with this index begins, and who is visible in it."""
    xid, tops, visible = 700, [], {}
    for index, (length, subs) in enumerate(history):
        ended = index < at and index + length < at
        tops.append((xid, ended))
        for own in range(xid, xid + 1 + subs):
            visible[own] = ended
        xid += 1 + subs
    completed = [own for own, ended in visible.items() if ended]
    xmax = max(completed, default=699) + 1
    running = frozenset(top for top, ended in tops if not ended and top < xmax)
    return Snapshot(min(running, default=xmax), xmax, running), visible


@given(HISTORIES, st.data())
def test_newer_rows_are_never_missed_and_doubt_is_told(history, data):
    moments = data.draw(st.lists(st.integers(0, len(history)), min_size=1, max_size=4))
    played = [play(history, at) for at in moments]
    buckets = Buckets(snapshot for snapshot, _ in played)
    xids = [0, *played[0][1]]
    groups = Counter((bisect_right(buckets.edges, xid), xid if xid in buckets.watched else None) for xid in xids)
    for snapshot, visible in played:
        certain, possible = buckets.newer([(*key, rows) for key, rows in groups.items()], snapshot)
        truly = sum(not seen for seen in visible.values())
        assert certain <= truly <= certain + possible
        if not snapshot.xip:
            assert possible == 0


SNAPSHOT = Snapshot(100, 110, frozenset({100, 105}))
BUCKETS = Buckets([SNAPSHOT])


def entry(rows: int, digest: str = "1") -> dict[str, object]:
    return {"rows": rows, "digest": digest}


@pytest.mark.parametrize(
    ("then", "groups", "newer", "gone", "uncertain"),
    [
        (5, [(0, None, 5)], None, None, 0),
        (5, [(0, None, 5), (2, None, 2)], 2, 0, 0),
        (5, [(0, None, 3), (1, 100, 1), (1, 105, 1)], 2, 2, 0),
        (5, [(0, None, 5), (1, None, 2)], 2, 0, 0),  # more than there were: all of them are newer
        (5, [(0, None, 3), (1, None, 2)], 2, 2, 2),  # as many as there were: all or none
        (5, [(0, None, 4), (1, None, 2)], 2, 1, 1),
        (5, [(0, None, 4), (1, None, 2), (2, None, 3)], 5, 1, 2),  # at least 4 are newer, 3 of them surely
    ],
)
def test_what_the_counts_tell_besides(then, groups, newer, gone, uncertain):
    result = by_versions({"t": entry(then)}, {"t": groups}, BUCKETS, SNAPSHOT)
    if newer is None:
        assert result.tables == []
    else:
        assert [(one["newer"], one["gone"]) for one in result.tables] == [(newer, gone)]
    upper = newer or 0
    now = sum(rows for _, _, rows in groups)
    assert result.rows == upper
    assert result.uncertain == upper - max(upper - sum(r for b, w, r in groups if (b, w) == (1, None)), now - then)
    assert result.uncertain <= uncertain


def test_tables_on_one_side_only_and_tables_that_were_not_read():
    then = {"both": entry(1), "gone": entry(2), "gone_empty": entry(0), "locked": entry(3)}
    found = {"both": [(0, None, 1)], "new": [(0, None, 4)], "new_empty": [], "locked": None, "new_locked": None}
    result = by_versions(then, found, BUCKETS, SNAPSHOT)
    assert [tuple(one.values()) for one in result.tables] == [
        ("gone", 2, None, 0, 2),
        ("locked", 3, None, None, None),
        ("new", None, 4, 4, 0),
        ("new_locked", None, None, None, None),
    ]
    assert (result.rows, result.uncounted) == (4, 2)


@pytest.mark.parametrize(("comparable", "rows"), [(True, 1 + 2 + 4 + 5), (False, 2 + 4 + 5)])
def test_tables_compared_by_digests(comparable, rows):
    then = {"a": entry(1), "b": entry(1), "c": entry(3), "gone": entry(4), "locked": entry(9)}
    found = {"a": entry(1), "b": entry(1, "2"), "c": entry(1), "new": entry(5), "locked": None}
    result = by_digests(then, found, comparable)
    assert not result.exact
    assert [one["table"] for one in result.tables] == [*(["b"] if comparable else []), "c", "gone", "locked", "new"]
    assert (result.rows, result.uncounted) == (rows, 1)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("17.10 (Debian 1)", "17.2", True), ("18beta1", "18.1", True), ("17.1", "18.1", False), ("", "17", False)],
)
def test_major_versions(one, other, same):
    assert same_major(one, other) is same
