# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The services that write, under Supervisor: which run, and stopping and starting exactly those.

``orders`` is the ``supervisor`` part of Supervisor's XML-RPC interface (http://supervisord.org/api.html).
Processes are named one by one: what Supervisor does for a whole group it notices up to a second late.
"""

from __future__ import annotations

from typing import Any
from xmlrpc.client import Fault

# A process in BACKOFF gets started again by Supervisor any moment, also while it should stand still.
RUNNING = ("RUNNING", "STARTING", "BACKOFF")


class ServiceError(Exception):
    """Something about the services that ends the run; the text says what to do."""


def read_services(orders: Any, names: list[str]) -> dict[str, list[str]]:
    """Which processes run and which do not, as ``{"running": [...], "stopped": [...]}``.

    names: processes (``worker``, ``group:process``) or whole groups (``group:``). Raises ServiceError for a name that
    Supervisor does not know: leaving it out would leave a writer running.
    """
    states = {_full_name(one): one["statename"] for one in orders.getAllProcessInfo()}
    for name in names:
        if not any(_belongs(known, name) for known in states):
            known = ", ".join(states) or "nothing"
            raise ServiceError(f"Supervisor does not know {name}, it knows {known}: correct habitat_services")
    ours = [known for known in states if any(_belongs(known, name) for name in names)]
    return {
        "running": [name for name in ours if states[name] in RUNNING],
        "stopped": [name for name in ours if states[name] not in RUNNING],
    }


def stop_services(orders: Any, names: list[str]) -> list[str]:
    """Stop those that run and wait for their end; returns which were stopped."""
    running = read_services(orders, names)["running"]
    for name in running:
        _order(orders.stopProcess, name, "stop", "NOT_RUNNING")
    return running


def start_services(orders: Any, names: list[str]) -> list[str]:
    """Start those that do not run; returns which were started."""
    stopped = read_services(orders, names)["stopped"]
    for name in stopped:
        _order(orders.startProcess, name, "start", "ALREADY_STARTED")
    return stopped


def _order(call: Any, name: str, verb: str, harmless: str) -> None:
    try:
        call(name)
    except Fault as fault:
        if not fault.faultString.startswith(harmless):
            raise ServiceError(f"{name} does not {verb}: {fault.faultString}; look at its log") from None


def _full_name(one: dict[str, Any]) -> str:
    return one["name"] if one["group"] == one["name"] else f"{one['group']}:{one['name']}"


def _belongs(known: str, name: str) -> bool:
    return known.startswith(name) if name.endswith(":") else known == name
