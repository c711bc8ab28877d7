"""Durations as PostgreSQL writes them, and the options every session begins with."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.connect import milliseconds, session_name, session_options
from hypothesis import given
from hypothesis import strategies as st

UNITS = {"": 1, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("250", 250), ("500ms", 500), ("5s", 5000), ("10min", 600_000), ("1h", 3_600_000), ("2d", 172_800_000)],
)
def test_durations(text, expected):
    assert milliseconds(text) == expected


@given(st.integers(0, 24), st.sampled_from(sorted(UNITS)))
def test_a_number_and_its_unit(number, unit):
    assert milliseconds(f"{number}{unit}") == number * UNITS[unit]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1s",
        "5 s",
        "5S",
        "5sec",
        "1.5s",
        "5s ",
        "5s\n",
        "٥s",
        "5s -c log_statement=all",
        "1e3",
        "1min30s",
        "9" * 10,
    ],
)
def test_no_durations(text):
    with pytest.raises(ValueError, match="is no duration: write 500ms, 5s, 10min, 1h, or 0 for none"):
        milliseconds(text)


def test_longer_than_postgresql_can_count_is_no_duration():
    # lock_timeout and statement_timeout are int4 milliseconds, 24.8 days at most.
    assert milliseconds("24d") == 2_073_600_000
    with pytest.raises(ValueError, match="25d"):
        milliseconds("25d")


def test_the_options_of_a_session():
    assert session_options("5s", "10min") == (
        "-c lock_timeout=5s -c statement_timeout=10min"
        " -c idle_in_transaction_session_timeout=60s -c client_connection_check_interval=500ms"
        " -c standard_conforming_strings=on"
    )


@pytest.mark.parametrize("timeouts", [("5s -c role=postgres", "1s"), ("1s", "1s -c role=postgres"), ("", "1s")])
def test_no_option_can_be_smuggled_in(timeouts):
    with pytest.raises(ValueError, match="is no duration"):
        session_options(*timeouts)


def test_sessions_are_found_by_the_name_of_their_run():
    assert session_name("20261122t100211z-k3f") == "runbook/20261122t100211z-k3f"
