# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Apply what is pending of a staged plan.

COMMIT is never sent in the same message as work: what a migration did is known before it is made permanent.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Optional

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import history, ledger
from ansible_collections.habitat.runbook.plugins.module_utils.bundle import Stream, read_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.failure import Failure, from_error
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.lock_session import end_sessions
from ansible_collections.habitat.runbook.plugins.module_utils.schema_watch import WATCHED, SchemaWatch
from ansible_collections.habitat.runbook.plugins.module_utils.steps import apply_steps
from ansible_collections.habitat.runbook.plugins.module_utils.transaction import (
    Note,
    applied,
    apply_in_transaction,
    unnoted,
)
from ansible_collections.habitat.runbook.plugins.module_utils.wire import StatementFailed

_RECONNECT_SECONDS = 30
_RETRY_SECONDS = 0.2

Connect = Callable[[], psycopg.Connection]
Ask = Callable[[psycopg.Connection], Optional[dict]]


@dataclass
class Outcome:
    """What a run of the engine did: versions applied in order, and the failure that ended it, if any."""

    applied: list[dict] = field(default_factory=list)
    failure: Failure | None = None

    def as_data(self) -> dict:
        return {"applied": self.applied, "failure": asdict(self.failure) if self.failure else None}


def apply(
    connection: psycopg.Connection,
    reconnect: Connect,
    bundle: str,
    versions: Iterable[str],
    who: Run,
    note: Note = unnoted,
) -> Outcome:
    """Apply the given versions of the staged plan, in order, and stop at the first failure.

    connection: in autocommit mode, with the run's settings. reconnect: makes another one, or raises
    psycopg.OperationalError; it is called only to find out what became of a COMMIT during which the connection was
    lost. note: is told of every COMMIT. The caller compared the plan and holds the run lock.
    """
    wanted = set(versions)
    outcome = Outcome()
    begun: set[str] | None = None
    watch: SchemaWatch | None = None
    for head, stream in read_bundle(bundle):
        if head["version"] not in wanted:
            continue
        try:
            if begun is None:
                begun, watch = _prepare(connection, len(wanted), who)
            result = _apply_one(connection, dict(head, begun=head["version"] in begun), stream, who, watch, note)
        except (psycopg.Error, StatementFailed) as error:
            result = _around(connection, head, error)
        if isinstance(result, Failure) and result.state == "partial" and connection.broken:
            connection, result = _read_done(reconnect, head, result, who) or (connection, result)
        if isinstance(result, Failure) and result.state == "unknown":
            connection.close()
            connection, result = find_out(reconnect, who, result, _applied_by(head, who)) or (connection, result)
        if isinstance(result, Failure):
            outcome.failure = result
            record_failure(connection, head, result, who)
            break
        outcome.applied.append(result)
    connection.close()
    return outcome


def baseline(connection: psycopg.Connection, heads: list[dict], versions: Iterable[str], who: Run) -> None:
    """Record versions as already there, without running them, all or none."""
    wanted = set(versions)
    ledger.ensure_ledger(connection, who)
    with connection.transaction():
        for head in heads:
            if head["version"] in wanted:
                connection.execute(ledger.RECORD, ledger.record(head, history.BASELINE, 0, who))


def record_failure(connection: psycopg.Connection, head: dict, failed: Failure, who: Run) -> None:
    """Put a failure into the history if the server can still be asked; the failure itself matters more."""
    with contextlib.suppress(psycopg.Error):
        told = history.values(
            history.FAIL, who, head["version"], head["name"], 0, failed.message, {"state": failed.state}
        )
        connection.execute(history.INSERT, told)


def _prepare(connection: psycopg.Connection, count: int, who: Run) -> tuple[set[str], SchemaWatch | None]:
    """The migrations an earlier run began, and a watch over the schema, without which it goes on all the same."""
    ledger.ensure_ledger(connection, who)
    begun = {row["version"] for row in ledger.read_progress(connection)}
    if count <= WATCHED:
        with contextlib.suppress(psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
            return begun, SchemaWatch(connection)
    return begun, None


def _around(connection: psycopg.Connection, head: dict, error: psycopg.Error | StatementFailed) -> Failure:
    """The Failure of what went wrong around a migration's own statements, where nothing is committed."""
    cause = error.error if isinstance(error, StatementFailed) else error
    with contextlib.suppress(psycopg.Error):
        connection.rollback()
    whole = head["mode"] == "transaction"
    found = from_error(head["version"], head["file"], None, cause, "rolled_back" if whole else "partial")
    found.done, found.total = (None, None) if whole else (0, head["statements"])
    return found


def _read_done(
    reconnect: Connect, head: dict, found: Failure, who: Run
) -> tuple[psycopg.Connection, dict | Failure] | None:
    """How far a migration has come whose connection was lost: to its end, which may have been committed, or not.

    None when the server could not be asked in time.
    """
    settled = None
    # A server that goes away once more, or has no ledger yet, leaves it at what is known.
    with contextlib.suppress(psycopg.Error):
        settled = find_out(reconnect, who, found, _applied_by(head, who))
        if settled and settled[1] is found:
            rows = {row["version"]: row["done"] for row in ledger.read_progress(settled[0])}
            found.done = rows.get(head["version"], 0)
    found.state = "partial"
    return settled


def _apply_one(
    connection: psycopg.Connection, head: dict, stream: Stream, who: Run, watch: SchemaWatch | None, note: Note
) -> dict | Failure:
    if head["mode"] == "transaction":
        return apply_in_transaction(connection, head, stream, who, watch, note)
    return apply_steps(connection, head, stream, who, watch)


def _applied_by(head: dict, who: Run) -> Ask:
    def ask(connection: psycopg.Connection) -> dict | None:
        query = f"SELECT duration_ms FROM {ledger.TABLE} WHERE version = %s AND run_id = %s"  # noqa: S608
        row = connection.execute(query, [head["version"], who.run_id]).fetchone()
        return applied(head, row[0]) if row else None

    return ask


def find_out(reconnect: Connect, who: Run, lost: Failure, ask: Ask) -> tuple[psycopg.Connection, dict | Failure] | None:
    """After a COMMIT without an answer: wait until the old session is gone, then believe what ``ask`` reads.

    ask: returns what to report when the transaction was committed, else None. None when the server could not be asked
    in time; the failure stays unknown then.
    """
    deadline = time.monotonic() + _RECONNECT_SECONDS
    while True:
        try:
            connection = reconnect()
            break
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                return None
            time.sleep(_RETRY_SECONDS)
    if not _old_session_gone(connection, who, deadline):
        return connection, lost
    committed = ask(connection)
    if committed is not None:
        return connection, committed
    lost.state = "rolled_back"
    return connection, lost


def _old_session_gone(connection: psycopg.Connection, who: Run, deadline: float) -> bool:
    while end_sessions(connection, who.run_id):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
