# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The services that write: which of them run, and stopping and starting exactly those, whoever manages them. Pure.

A kind of manager (Supervisor, Docker Compose, systemd) is a class that keeps the contract Manager; what is the same
for all of them is here.
"""

from __future__ import annotations

import re
from typing import Protocol

from ansible_collections.habitat.runbook.plugins.module_utils.table import printable

UP = "up"
AGAIN = "again"
"""Ended, and started again by its manager this moment or the next: it counts as running."""
DOWN = "down"

PATIENCE = 900.0
"""Seconds a stop or start may take: services have timeouts of their own, and this one only ends what hangs."""

LINE = 300
"""Characters of a log's line that are returned."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_FOUND = {UP: "it still runs", AGAIN: "it ends again and again", DOWN: "it does not run"}


class ServiceError(Exception):
    """Something about the services that ends the run; the text says what to do."""


class Manager(Protocol):
    """What a kind of service manager can do. Every method raises ServiceError when the manager does not answer."""

    logs_kept: int
    """How many logs it keeps of each service: two when stdout and stderr are apart."""

    def states(self, names: list[str]) -> dict[str, str]:
        """Full names of all services that ``names`` mean, each with UP, AGAIN or DOWN.

        Full names are names, too. Raises ServiceError for a name that means nothing: leaving it out would leave a
        writer running.
        """

    def stop(self, names: list[str]) -> str:
        """Stop services by their full names, wait for their end and return what went wrong, or an empty text."""

    def start(self, names: list[str]) -> str:
        """Start services by their full names and return what went wrong, or an empty text."""

    def log(self, name: str, lines: int, own: bool = False, since: float | None = None) -> str:
        """The last lines of each log of a service; a sentence in brackets for what cannot be read.

        own: without what the manager itself writes into it; since: only what is newer than this, in seconds since the
        epoch, where the manager keeps times.
        """

    def command_for_log(self, name: str) -> str:
        """What an operator types to see that log."""

    def command_to_start(self, names: list[str]) -> str:
        """What an operator types on the host to start these services by their full names."""


def read_services(manager: Manager, names: list[str]) -> dict[str, list[str]]:
    """Which services run and which do not, by their full names: ``{"running": [...], "stopped": [...]}``.

    Raises ServiceError for a name that the manager does not know.
    """
    states = manager.states(names) if names else {}
    return {
        "running": [name for name, state in states.items() if state != DOWN],
        "stopped": [name for name, state in states.items() if state == DOWN],
    }


def stop_services(manager: Manager, names: list[str], check: bool = False) -> dict[str, list[str]]:
    """Stop those that run and see that they stand still; returns what read_services found before.

    check: change nothing. Raises ServiceError, which names those that did not stop.
    """
    found = read_services(manager, names)
    if found["running"] and not check:
        complaint = manager.stop(found["running"])
        _see(manager, found["running"], DOWN, "stop", complaint)
    return found


def start_services(manager: Manager, names: list[str], check: bool = False) -> dict[str, list[str]]:
    """Start those that do not run and see that they do; returns what read_services found before.

    check: change nothing. Raises ServiceError, which names those that did not start; the others are started.
    """
    found = read_services(manager, names)
    if found["stopped"] and not check:
        complaint = manager.start(found["stopped"])
        _see(manager, found["stopped"], UP, "start", complaint)
    return found


def read_logs(
    manager: Manager, found: dict[str, list[str]], lines: int, since: float | None = None
) -> dict[str, list[str]]:
    """The last lines of the log of each service that read_services found, by its full name; empty for no lines."""
    names = found["running"] + found["stopped"] if lines > 0 else []
    return {name: last_lines(manager.log(name, lines, since=since), manager.logs_kept * lines) for name in names}


def _see(manager: Manager, names: list[str], wanted: str, verb: str, complaint: str) -> None:
    states = manager.states(names)
    wrong = [name for name, state in states.items() if state != wanted]
    if not wrong:
        return
    first = wrong[0]
    found = f"{_FOUND[states[first]]} ({_one_line(complaint)})" if complaint else _FOUND[states[first]]
    last = [line for line in last_lines(manager.log(first, 5, own=True), 5) if line.strip()][-1:]
    said = f"; the log of {first} ends with: {last[0].strip()}" if last else ""
    raise ServiceError(
        f"{', '.join(wrong)} did not {verb}: {found}{said}; see more of it with: {manager.command_for_log(first)}"
    )


def last_lines(text: str, lines: int) -> list[str]:
    """The last lines of a log as they can be shown anywhere: without colours and control characters, cut to LINE."""
    found = _COLOUR.sub("", text).splitlines()
    return [printable(line.expandtabs())[:LINE] for line in found[-lines:]] if lines > 0 else []


def _one_line(text: str) -> str:
    return printable(" ".join(text.split()))
