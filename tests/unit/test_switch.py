"""The dead-man's switch: when a run is over, and that nothing else ends it."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.guard import Switch
from hypothesis import given
from hypothesis import strategies as st

SILENCE, PATIENCE, WINDOW = 15.0, 60.0, 1800.0
TICKS = st.floats(0, 2.5)


def switch() -> Switch:
    return Switch(SILENCE, PATIENCE, WINDOW)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.none() | st.floats(0, WINDOW))))
def test_it_never_fires_while_a_step_lives(ticks):
    one = switch()
    assert [why for seconds, window in ticks if (why := one.tick(seconds, True, window))] == []


@given(st.lists(st.floats(0.01, 2.5), min_size=1), st.booleans())
def test_it_fires_with_the_first_tick_after_the_limit_and_not_before(ticks, stopped):
    one, quiet = switch(), 0.0
    limit, window = (SILENCE, 1.0) if stopped else (PATIENCE, None)
    for seconds in ticks:
        quiet += seconds
        fired = one.tick(seconds, False, window)
        assert bool(fired) == (quiet > limit)
        if fired:
            assert fired == f"no step showed a sign of life for {limit:.0f} s"


@pytest.mark.parametrize(("window", "limit"), [(1.0, SILENCE), (None, PATIENCE)])
@given(st.lists(TICKS, max_size=200))
def test_a_silent_run_ends_whatever_the_pace(window, limit, ticks):
    one, passed = switch(), 0.0
    fired = ""
    for seconds in [*ticks, *[2.5] * 40]:
        fired, passed = one.tick(seconds, False, window), passed + seconds
        if fired:
            break
    assert fired
    assert passed <= limit + 2.5


def test_every_sign_of_life_starts_the_count_again():
    one = switch()
    for _ in range(20):
        assert one.tick(2, False, 1.0) == ""
        assert one.tick(2, True, 1.0) == ""
    assert one.quiet == 0


def test_patience_is_for_as_long_as_no_service_is_stopped():
    one = switch()
    for _ in range(10):
        assert one.tick(2, False, None) == ""
    assert one.tick(0.1, False, 0.1), "20 s of silence are too many now"


@pytest.mark.parametrize(("load", "limit"), [(0.2, PATIENCE), (1, PATIENCE), (2, 2 * PATIENCE), (12, 12 * PATIENCE)])
def test_a_busy_machine_gets_longer_while_no_service_is_stopped(load, limit):
    one, passed = switch(), 0.0
    while not one.tick(0.5, False, None, load):
        passed += 0.5
    assert passed == pytest.approx(limit, abs=0.5)


@pytest.mark.parametrize(("load", "limit"), [(0.2, SILENCE), (4, SILENCE), (12, 3 * SILENCE), (99, 4 * SILENCE)])
def test_while_services_are_stopped_only_a_crowded_machine_gets_longer(load, limit):
    one, passed = switch(), 0.0
    while not one.tick(0.5, False, 1.0, load):
        passed += 0.5
    assert passed == pytest.approx(limit, abs=0.5)


@pytest.mark.parametrize("seconds", [4, 60, 3600, 1e9])
def test_a_machine_that_stood_still_has_not_lost_its_run(seconds):
    one = switch()
    assert one.tick(seconds, False, 1.0) == ""
    assert one.tick(0.1, True, 1.0) == ""
    assert one.quiet == 0


@pytest.mark.parametrize("alive", [True, False])
def test_the_window_has_an_end_however_much_alive_the_run_is(alive):
    one = switch()
    assert one.tick(0.1, alive, WINDOW) == ""
    assert one.tick(0.1, alive, WINDOW + 0.1) == "the services were stopped for longer than 1800 s"


def test_services_that_are_up_have_no_window():
    one = switch()
    assert one.tick(0.1, True, None) == ""
    assert one.warning(None) is False


@given(st.lists(st.none() | st.floats(0, 2 * WINDOW)))
def test_it_warns_once_with_the_first_look_after_half_of_the_window(windows):
    one = switch()
    warned = [one.warning(window) for window in windows]
    late = [window is not None and window >= WINDOW / 2 for window in windows]
    assert warned.count(True) == int(any(late))
    assert not any(late) or warned.index(True) == late.index(True)
