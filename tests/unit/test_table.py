"""Columns, sizes, times and sessions as people read them."""

from __future__ import annotations

import re

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.table import columns, duration, moment, session, size
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit import samples

CELL = st.text("abc xyz_äß|", max_size=12).map(str.strip)


def test_columns_are_as_wide_as_their_longest_cell():
    assert columns([["VERSION", "NAME", "DOWN"], ["07", "email_verifications", "yes"], ["1", "", ""]]) == [
        "  VERSION  NAME                 DOWN",
        "  07       email_verifications  yes",
        "  1",
    ]


def test_no_rows_no_lines():
    assert columns([]) == []


def test_the_indent_can_be_chosen():
    assert columns([["06", "x"]], indent="    ") == ["    06  x"]


@given(st.integers(1, 4).flatmap(lambda count: st.lists(st.lists(CELL, min_size=count, max_size=count), min_size=1)))
def test_columns_begin_at_the_same_place_in_every_line(rows):
    lines = columns(rows)
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row, line in zip(rows, lines):
        padded = line.ljust(sum(widths) + 2 * len(widths))
        starts = [2 + sum(widths[:index]) + 2 * index for index in range(len(row))]
        assert [padded[start : start + len(cell)] for start, cell in zip(starts, row)] == row
        assert line == line.rstrip()


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (412034, "412 kB"),
        (412034101, "412 MB"),
        (41_000_000_000, "41 GB"),
        (5_200_000_000_000, "5.2 TB"),
    ],
)
def test_sizes(number, text):
    assert size(number) == text


@given(st.integers(0, 10**14))
@example(999_999)
def test_a_size_has_three_digits_at_most(number):
    assert re.fullmatch(r"[0-9]{1,3}(\.[0-9])? (B|kB|MB|GB|TB)", size(number))


def test_room_that_is_not_enough_does_not_look_like_enough():
    assert size(1_600_000_000) != size(2_400_000_000)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.02, "20 ms"),
        (0.184, "0.2 s"),
        (3.14, "3.1 s"),
        (51.2, "51 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (11400, "3 h 10 min"),
        (100000, "27 h 46 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        ("2026-11-22T10:02:15.120311Z", "2026-11-22 10:02:15"),
        ("2026-11-22T10:02:15+00:00", "2026-11-22 10:02:15"),
        ("2026-11-22T10:02:15", "2026-11-22 10:02:15"),
        (None, "-"),
        ("", "-"),
    ],
)
def test_moments(timestamp, text):
    assert moment(timestamp) == text


@pytest.mark.parametrize("timestamp", ["2026-11-22T11:02:15.120311+01:00", "2026-11-22T04:32:15-05:30"])
def test_a_moment_is_shown_in_utc_whatever_zone_the_server_is_in(timestamp):
    assert moment(timestamp) == "2026-11-22 10:02:15"


def test_a_session_is_one_line_with_the_head_of_its_query():
    assert session(samples.session()) == (
        'pid 4121 report (metabase, idle in transaction) "SELECT count(*) FROM members WHERE joined_at > now() - inter"'
    )


def test_a_session_that_hides_what_it_does():
    hidden = samples.session(app="", state=None, query=None)
    assert session(hidden) == "pid 4121 report (no name, hidden)"
    assert session(samples.session(app=None, query="")) == "pid 4121 report (no name, idle in transaction)"
