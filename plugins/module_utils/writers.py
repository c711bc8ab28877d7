# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""See that the stopped services have really left the database, and name everybody else who is still there."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.checks import read_sessions

_POLL_SECONDS = 0.02


def wait_until_gone(
    connection: psycopg.Connection, roles: list[str], seconds: float, *, end_idle: bool = False
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Wait until no session of the writers' roles is left, for at most ``seconds``.

    ``end_idle`` ends those that are idle, which lose nothing by it; one that is at work is let finish.
    Returns the writers' sessions that are still there (none when all went well) and the sessions of others.
    """
    deadline = time.monotonic() + seconds
    while True:
        sessions = read_sessions(connection)
        writers = [one for one in sessions if one["role"] in roles]
        if not writers or time.monotonic() > deadline:
            return writers, [one for one in sessions if one["role"] not in roles]
        if end_idle:
            _end(connection, [one["pid"] for one in writers if one["state"] == "idle"])
        time.sleep(_POLL_SECONDS)


def _end(connection: psycopg.Connection, pids: list[int]) -> None:
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT pg_catalog.pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [pids])
