# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a step that changes the database has around it: the run lock, the fence, and the writers gone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import fence, lock_session
from ansible_collections.habitat.runbook.plugins.module_utils.comparison import Refusal
from ansible_collections.habitat.runbook.plugins.module_utils.fence_record import open_fence
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import step_of
from ansible_collections.habitat.runbook.plugins.module_utils.table import count, session
from ansible_collections.habitat.runbook.plugins.module_utils.writers import wait_until_gone

_POLL_SECONDS = 0.02


@dataclass
class Window:
    """How a step stands: why it must not begin (None: it may), the fence's record, the sessions of others.

    ``stays_closed`` is set by a step after which nobody may write until another step has put things right; ``told``
    becomes part of the journal.
    """

    refusal: Refusal | None = None
    fence: dict[str, Any] | None = None
    other_sessions: list[dict[str, Any]] = field(default_factory=list)
    stays_closed: bool = False
    told: dict[str, Any] = field(default_factory=dict)


@contextlib.contextmanager
def window(
    connection: psycopg.Connection,
    reconnect: Callable[[], psycopg.Connection],
    parameters: dict[str, Any],
    phase: str,
    **details: Any,
) -> Iterator[Window]:
    """Keep the application out while the block runs, and show the guard that a step is at work.

    parameters: login_db, run_id, run_dir (None: a module used without a run, which has neither lock nor fence),
    writer_roles, drain and fence_by_right (see fence.close). ``connection`` may be closed in the block. When the fence
    cannot be opened any more the guard does it.
    """
    run_dir, found = parameters["run_dir"], Window()
    with step_of(run_dir, phase, **details) as found.told:
        try:
            if run_dir:
                found.fence, found.refusal = _close(connection, parameters)
            # After the fence is closed: the guard is who opens it if we do not.
            found.refusal = found.refusal or lock_missing(connection, parameters)
            if not found.refusal:
                found.refusal, found.other_sessions = _left_by_writers(connection, parameters)
            yield found
        finally:
            if run_dir:
                _leave(reconnect, parameters, found.stays_closed)


def _leave(reconnect: Callable[[], psycopg.Connection], parameters: dict[str, Any], stays_closed: bool) -> None:
    """Open the fence unless it has to stay closed, for which somebody must be there who opens it later."""
    try:
        with reconnect() as again:
            if not stays_closed or lock_missing(again, parameters):
                open_fence(again, Path(parameters["run_dir"]))
    except (psycopg.Error, OSError):
        # A server that takes no connection at this moment may still answer to the guard's.
        if not stays_closed:
            fence.ask_guard(parameters["run_dir"])


def _close(connection: psycopg.Connection, parameters: dict[str, Any]) -> tuple[dict[str, Any] | None, Refusal | None]:
    """Close the fence and wait until those have come in who were let in just before: its record, or why not."""
    drain, again = parameters["drain"], "then run the same command again"
    try:
        record = fence.close(
            connection, parameters["run_dir"], parameters["writer_roles"], by_right=parameters["fence_by_right"]
        )
        deadline, late = time.monotonic() + drain, fence.logins(connection)
        while late := late & fence.logins(connection):
            if time.monotonic() > deadline:
                found = f"pid {', '.join(map(str, sorted(late)))}"
                what = f"{count(len(late), 'session')} still logging in after {drain:.0f} s"
                return None, Refusal(what, found, f"end them, {again}")
            time.sleep(_POLL_SECONDS)
    except psycopg.Error as error:
        what = "the application cannot be kept out of the database"
        return None, Refusal(what, " ".join(str(error).split()), f"put that right, {again}")
    return record, None


def lock_missing(connection: psycopg.Connection, parameters: dict[str, Any]) -> Refusal | None:
    """Every step of a run works only while the run's own lock is held."""
    if not parameters["run_dir"]:
        return None
    holder = lock_session.held_by(connection, parameters["login_db"])
    if holder and holder["run_id"] == parameters["run_id"]:
        return None
    found = f"held by run {holder['run_id']}" if holder else "nobody holds it"
    return Refusal("this run does not hold the run lock", found, "start again with the same command")


def _left_by_writers(
    connection: psycopg.Connection, parameters: dict[str, Any]
) -> tuple[Refusal | None, list[dict[str, Any]]]:
    """Wait until the stopped services have left the database: a refusal if they do not, and the sessions of others."""
    fenced = bool(parameters["run_dir"])
    writers, others = wait_until_gone(connection, parameters["writer_roles"], parameters["drain"], end_idle=fenced)
    if not writers:
        return None, others
    shown = "; ".join(session(one) for one in writers[:3])
    what = f"{count(len(writers), 'session')} of the stopped services still connected after {parameters['drain']:.0f} s"
    return Refusal(what, shown, "end them, then run the same command again"), others
