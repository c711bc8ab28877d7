"""Services under Supervisor: a stand-in for its interface that behaves as its documentation says."""

from __future__ import annotations

from xmlrpc.client import Fault

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.services import (
    ServiceError,
    read_services,
    start_services,
    stop_services,
)


class Supervisor:
    """What the functions use of Supervisor's interface; every order is kept."""

    def __init__(self, **states: str) -> None:
        self.states = {name.replace("__", ":"): state for name, state in states.items()}
        self.orders: list[str] = []

    def getAllProcessInfo(self) -> list[dict[str, str]]:
        split = {name: name.split(":") if ":" in name else [name, name] for name in self.states}
        return [{"group": group, "name": one, "statename": self.states[name]} for name, (group, one) in split.items()]

    def stopProcess(self, name: str) -> None:
        if self.states[name] not in ("RUNNING", "STARTING", "BACKOFF"):
            raise Fault(70, "NOT_RUNNING: " + name)
        self.orders.append("stop " + name)
        self.states[name] = "STOPPED"

    def startProcess(self, name: str) -> None:
        if self.states[name] == "FATAL":
            raise Fault(50, "SPAWN_ERROR: " + name)
        self.orders.append("start " + name)
        self.states[name] = "RUNNING"


def habitat(**changes: str) -> Supervisor:
    states = {
        "postgres": "RUNNING",
        "habitat__api1": "RUNNING",
        "habitat__api2": "RUNNING",
        "habitat__worker": "RUNNING",
    }
    return Supervisor(**{**states, **changes})


def test_only_what_is_named_is_looked_at():
    found = read_services(habitat(habitat__worker="STOPPED"), ["habitat:"])
    assert found == {"running": ["habitat:api1", "habitat:api2"], "stopped": ["habitat:worker"]}
    assert read_services(habitat(), ["habitat:api1"]) == {"running": ["habitat:api1"], "stopped": []}


@pytest.mark.parametrize(
    ("state", "runs"),
    [("RUNNING", True), ("STARTING", True), ("BACKOFF", True), ("STOPPED", False), ("EXITED", False), ("FATAL", False)],
)
def test_what_supervisor_will_start_again_by_itself_counts_as_running(state, runs):
    assert bool(read_services(habitat(habitat__api1=state), ["habitat:api1"])["running"]) is runs


@pytest.mark.parametrize("name", ["habitat:wroker", "habita:", "habitat", "api1"])
def test_a_service_that_supervisor_does_not_know_is_an_error(name):
    with pytest.raises(ServiceError, match=f"does not know {name}, it knows postgres, habitat:api1"):
        read_services(habitat(), ["habitat:api1", name])


def test_stopping_and_starting_leave_alone_what_is_as_wanted():
    supervisor = habitat(habitat__api2="STOPPED")
    assert stop_services(supervisor, ["habitat:api1", "habitat:api2"]) == ["habitat:api1"]
    assert stop_services(supervisor, ["habitat:api1", "habitat:api2"]) == []
    assert start_services(supervisor, ["habitat:api1"]) == ["habitat:api1"]
    assert start_services(supervisor, ["habitat:api1"]) == []
    assert supervisor.orders == ["stop habitat:api1", "start habitat:api1"]


def test_a_service_that_does_not_start_is_named():
    with pytest.raises(ServiceError, match="habitat:api1 does not start: SPAWN_ERROR"):
        start_services(habitat(habitat__api1="FATAL"), ["habitat:api1"])


def test_what_ended_by_itself_meanwhile_is_no_error():
    class Racing(Supervisor):
        def stopProcess(self, name: str) -> None:
            raise Fault(70, "NOT_RUNNING: " + name)

    assert stop_services(Racing(worker="RUNNING"), ["worker"]) == ["worker"]


def test_nothing_named_is_nothing_done():
    assert stop_services(habitat(), []) == []
