# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Services under Supervisor, through its XML-RPC interface (http://supervisord.org/api.html).

Processes are named one by one: what Supervisor does for a whole group it notices up to a second late.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError
from xmlrpc.client import Error, Fault, ServerProxy, Transport

from ansible_collections.habitat.runbook.plugins.module_utils.services import AGAIN, DOWN, LINE, UP, ServiceError

_UNIX = "unix://"

# A process in BACKOFF gets started again by Supervisor any moment, also while it should stand still. startProcess
# returns when one is RUNNING, so that one found STARTING afterwards has ended and is tried again.
_CONDITION = {"RUNNING": UP, "STOPPING": UP, "STARTING": AGAIN, "BACKOFF": AGAIN}


class _UnixTransport(Transport):
    """XML-RPC over a Unix socket. Supervisor's own transport would load all of Supervisor, 0.12 s in the window."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def make_connection(self, host: Any) -> HTTPConnection:
        connection = HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(self.path)
        return connection


def _interface(url: str) -> Any:
    if url.startswith(_UNIX):
        return ServerProxy("http://localhost/RPC2", transport=_UnixTransport(url[len(_UNIX) :])).supervisor
    return ServerProxy(f"{url.rstrip('/')}/RPC2").supervisor


class SupervisorServices:
    """Processes (``worker``, ``group:process``) and whole groups (``group:``) of the Supervisor at an address."""

    logs_kept = 2

    def __init__(self, server_url: str) -> None:
        self._url = server_url
        self._orders = _interface(server_url)

    def states(self, names: list[str]) -> dict[str, str]:
        """See services.Manager."""
        try:
            with self._answering():
                processes = self._orders.getAllProcessInfo()
        except Fault as fault:
            # It goes down, or is about to start anew.
            raise ServiceError(f"Supervisor at {self._url} says {fault.faultString}: wait until it is up") from None
        states = {_full_name(one): condition(one["statename"]) for one in processes}
        for name in names:
            if not any(_belongs(known, name) for known in states):
                there = ", ".join(states) or "nothing"
                raise ServiceError(f"Supervisor does not know {name}, it knows {there}: correct habitat_services")
        return {known: states[known] for known in states if any(_belongs(known, name) for name in names)}

    def stop(self, names: list[str]) -> str:
        """See services.Manager."""
        return self._ordered(self._orders.stopProcess, names, "NOT_RUNNING")

    def start(self, names: list[str]) -> str:
        """See services.Manager."""
        return self._ordered(self._orders.startProcess, names, "ALREADY_STARTED")

    def _ordered(self, order: Callable[[str], Any], names: list[str], harmless: str) -> str:
        faults = []
        for name in names:
            try:
                with self._answering():
                    order(name)
            except Fault as fault:
                if not fault.faultString.startswith(harmless):
                    faults.append(fault.faultString)
        return ", ".join(faults)

    def log(self, name: str, lines: int, own: bool = False, since: float | None = None) -> str:
        """See services.Manager: what it wrote to stdout, then what it wrote to stderr; Supervisor keeps no times."""
        parts = [self._tail(name, channel, lines * LINE) for channel in ("Stdout", "Stderr")]
        return "\n".join("\n".join(part.splitlines()[-lines:]) for part in parts if part)

    def _tail(self, name: str, channel: str, size: int) -> str:
        try:
            return getattr(self._orders, f"tailProcess{channel}Log")(name, 0, size)[0]
        except (OSError, HTTPException, Error, ExpatError) as error:
            # The interface cannot carry control characters, nor text that is not UTF-8 where it is cut.
            return self._tail_of_file(name, channel, size) or f"({channel.lower()}: not to be read, {error})"

    def _tail_of_file(self, name: str, channel: str, size: int) -> str:
        if not self._url.startswith(_UNIX):
            return ""
        try:
            file = self._orders.getProcessInfo(name)[f"{channel.lower()}_logfile"]
            with Path(file).open("rb") as log:
                log.seek(max(0, Path(file).stat().st_size - size))
                return log.read(size).decode(errors="replace")
        except (OSError, HTTPException, Error):
            return ""

    def command_for_log(self, name: str) -> str:
        """See services.Manager."""
        return f"supervisorctl -s {self._url} tail {name}"

    def command_to_start(self, names: list[str]) -> str:
        """See services.Manager."""
        return " ".join([f"supervisorctl -s {self._url} start", *names])

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except Fault:
            raise
        except (OSError, HTTPException, Error) as error:
            raise ServiceError(
                f"Supervisor does not answer at {self._url}: {error}; start it, then run the same command again"
            ) from None


def condition(statename: str) -> str:
    """UP, AGAIN or DOWN for a state of Supervisor (http://supervisord.org/subprocess.html#process-states)."""
    return _CONDITION.get(statename, DOWN)


def _full_name(one: dict[str, Any]) -> str:
    return one["name"] if one["group"] == one["name"] else f"{one['group']}:{one['name']}"


def _belongs(known: str, name: str) -> bool:
    return known.startswith(name) if name.endswith(":") else known == name
