"""What is the same for all service managers, and how each of them words its states."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import (
    services_compose,
    services_supervisor,
    services_systemd,
)
from ansible_collections.habitat.runbook.plugins.module_utils.services import (
    AGAIN,
    DOWN,
    LINE,
    UP,
    ServiceError,
    last_lines,
    read_logs,
    read_services,
    start_services,
    stop_services,
)


class Shelf:
    """A manager whose services are entries of a dict; what is named in ``stuck`` stays as it is."""

    logs_kept = 1

    def __init__(self, *stuck: str, complaint: str = "", log: str = "", **states: str) -> None:
        self.services = states
        self.stuck = stuck
        self.complaint = complaint
        self.text = log
        self.orders: list[str] = []

    def states(self, names: list[str]) -> dict[str, str]:
        self.orders.append("look")
        return {name: self.services[name] for name in names}

    def _order(self, verb: str, names: list[str], state: str) -> str:
        self.orders.append(f"{verb} {' '.join(names)}")
        self.services.update({name: state for name in names if name not in self.stuck})
        return self.complaint

    def stop(self, names: list[str]) -> str:
        return self._order("stop", names, DOWN)

    def start(self, names: list[str]) -> str:
        return self._order("start", names, UP)

    def log(self, name: str, lines: int, own: bool = False, since: float | None = None) -> str:
        return self.text

    def command_for_log(self, name: str) -> str:
        return f"less {name}.log"

    def command_to_start(self, names: list[str]) -> str:
        return " ".join(["begin", *names])


ALL = ["api", "worker", "loop"]


def shelf(*stuck: str, **more: str) -> Shelf:
    return Shelf(*stuck, **{"api": UP, "worker": DOWN, "loop": AGAIN, **more})


def test_what_is_to_be_started_again_counts_as_running():
    assert read_services(shelf(), ALL) == {"running": ["api", "loop"], "stopped": ["worker"]}


def test_stopping_orders_what_runs_in_one_go_and_looks_afterwards():
    services = shelf()
    assert stop_services(services, ALL) == {"running": ["api", "loop"], "stopped": ["worker"]}
    assert services.orders == ["look", "stop api loop", "look"]
    assert stop_services(services, ALL) == {"running": [], "stopped": ALL}
    assert services.orders[3:] == ["look"]


def test_starting_orders_what_stands_still_and_nothing_else():
    services = shelf()
    assert start_services(services, ["api", "worker"]) == {"running": ["api"], "stopped": ["worker"]}
    assert services.orders == ["look", "start worker", "look"]
    assert start_services(services, ["api", "worker"])["stopped"] == []
    assert services.orders[3:] == ["look"]


def test_check_mode_only_looks():
    services = shelf()
    assert stop_services(services, ALL, check=True)["running"] == ["api", "loop"]
    assert start_services(services, ALL, check=True)["stopped"] == ["worker"]
    assert services.orders == ["look", "look"]


def test_nothing_named_asks_nobody():
    services = shelf()
    assert stop_services(services, []) == {"running": [], "stopped": []}
    assert services.orders == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "api, loop did not stop: it still runs; see more of it with: less api.log"),
        ({"complaint": "no\nrights\x1b "}, "api, loop did not stop: it still runs (no rights\\x1b); see more"),
        ({"log": "one\n\x1b[1mtwo\x1b[0m\n\n"}, "it still runs; the log of api ends with: two; see more"),
    ],
)
def test_what_does_not_stop_is_named_with_the_end_of_its_log(more, message):
    with pytest.raises(ServiceError) as error:
        stop_services(shelf("api", "loop", **more), ALL)
    assert message in str(error.value)


@pytest.mark.parametrize(("state", "words"), [(DOWN, "it does not run"), (AGAIN, "it ends again and again")])
def test_what_does_not_stay_up_is_named(state, words):
    class Falling(Shelf):
        def start(self, names: list[str]) -> str:
            self.services["worker"] = state
            return ""

    with pytest.raises(ServiceError, match=f"^worker did not start: {words}; see more of it with: less worker.log$"):
        start_services(Falling(api=UP, worker=DOWN), ["api", "worker"])


def test_a_complaint_about_what_is_as_ordered_is_no_error():
    services = shelf(complaint="it was gone already")
    assert stop_services(services, ALL)["running"] == ["api", "loop"]


def test_logs_are_those_of_all_that_were_found():
    services = shelf(log="one\ntwo\nthree\n")
    found = read_services(services, ALL)
    assert read_logs(services, found, 2) == {name: ["two", "three"] for name in ALL}
    assert read_logs(services, found, 0) == {}
    services.logs_kept = 2
    assert read_logs(services, found, 1)["api"] == ["two", "three"]


def test_lines_can_be_shown_anywhere():
    assert last_lines("\x1b[1;32mok\x1b[0m\ttab\n\x1b]0;title\x07\n" + "x" * 400, 9) == [
        "ok      tab",
        "\\x1b]0;title\\x07",
        "x" * LINE,
    ]
    assert last_lines("a\r\nb", 1) == ["b"]
    assert last_lines("", 3) == []
    assert last_lines("a", 0) == []


@pytest.mark.parametrize(
    ("statename", "means"),
    [
        ("RUNNING", UP),
        ("STOPPING", UP),
        ("STARTING", AGAIN),
        ("BACKOFF", AGAIN),
        ("STOPPED", DOWN),
        ("EXITED", DOWN),
        ("FATAL", DOWN),
        ("UNKNOWN", DOWN),
    ],
)
def test_states_of_supervisor(statename, means):
    assert services_supervisor.condition(statename) == means


@pytest.mark.parametrize(
    ("state", "means"),
    [
        ("running", UP),
        ("paused", UP),
        ("restarting", AGAIN),
        ("created", DOWN),
        ("exited", DOWN),
        ("dead", DOWN),
        ("removing", DOWN),
    ],
)
def test_states_of_docker(state, means):
    assert services_compose.condition(state) == means


@pytest.mark.parametrize(
    ("active", "sub", "means"),
    [
        ("active", "running", UP),
        ("active", "exited", UP),
        ("reloading", "reload", UP),
        ("activating", "start-pre", UP),
        ("deactivating", "stop-sigterm", UP),
        ("activating", "auto-restart", AGAIN),
        ("activating", "auto-restart-queued", AGAIN),
        ("inactive", "dead", DOWN),
        ("failed", "failed", DOWN),
        ("maintenance", "cleaning", DOWN),
    ],
)
def test_states_of_systemd(active, sub, means):
    assert services_systemd.condition(active, sub) == means


def test_units_are_told_apart_by_empty_lines():
    printed = "Id=a.service\nLoadState=loaded\n\nId=b=c.service\nLoadState=not-found\n"
    assert services_systemd.units(printed) == [
        {"Id": "a.service", "LoadState": "loaded"},
        {"Id": "b=c.service", "LoadState": "not-found"},
    ]
    assert services_systemd.units("") == []
