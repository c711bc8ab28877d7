# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Run down migrations: each one a transaction that holds its SQL, its ledger row's end and its entry in the history.

Before COMMIT two things are looked at. Nothing may be gone that was not announced, since rows go with it; and the
schema must be what it was before the migration was applied, where that is on record. Else it is rolled back.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import failure, history, ledger
from ansible_collections.habitat.runbook.plugins.module_utils.catalog import undone
from ansible_collections.habitat.runbook.plugins.module_utils.engine import Ask, Connect, find_out, record_failure
from ansible_collections.habitat.runbook.plugins.module_utils.failure import Failure
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import split
from ansible_collections.habitat.runbook.plugins.module_utils.loss_counts import relations
from ansible_collections.habitat.runbook.plugins.module_utils.losses import dropped_unannounced
from ansible_collections.habitat.runbook.plugins.module_utils.revert_plan import Revert
from ansible_collections.habitat.runbook.plugins.module_utils.schema_watch import WATCHED, SchemaWatch
from ansible_collections.habitat.runbook.plugins.module_utils.transaction import may_change_role, own_role, timeouts
from ansible_collections.habitat.runbook.plugins.module_utils.wire import Item, StatementFailed, run, run_one

_SHOWN = 5
_FORGET = f"DELETE FROM {ledger.TABLE} WHERE version = %s RETURNING version"  # noqa: S608 (constants of ledger.py)


class NotUndone(Exception):
    """The down migration does not leave what it should; the text says in what way."""


@dataclass
class Outcome:
    """What was reverted, newest first, and the failure that ended it, if any.

    ``remarks``: lines about what is not as before but does no harm, and about what could not be compared.
    """

    reverted: list[dict] = field(default_factory=list)
    failure: Failure | None = None
    remarks: list[str] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        return {**vars(self), "failure": asdict(self.failure) if self.failure else None}


def revert(
    connection: psycopg.Connection,
    reconnect: Connect,
    reverts: Iterable[Revert],
    announced: list[dict] | None,
    who: Run,
) -> Outcome:
    """Run the downs in this order and stop at the first failure.

    connection, reconnect: see engine.apply. announced: the losses the operator was shown (loss_counts.count_losses), or
    None when any loss was accepted.
    """
    todo = list(reverts)
    outcome = Outcome()
    ledger.ensure_ledger(connection, who)
    watch = SchemaWatch(connection) if len(todo) <= WATCHED else None
    for one in todo:
        try:
            result = _revert_one(connection, one, announced, who, watch, outcome.remarks)
        except psycopg.Error as error:
            with contextlib.suppress(psycopg.Error):
                connection.rollback()
            result = failure.from_error(one.version, one.file, None, error, "rolled_back")
        if isinstance(result, Failure) and result.state == "unknown":
            connection.close()
            connection, result = find_out(reconnect, who, result, _gone(one)) or (connection, result)
        if isinstance(result, Failure):
            outcome.failure = result
            record_failure(connection, {"version": one.version, "name": one.name}, result, who)
            break
        outcome.reverted.append(result)
    connection.close()
    return outcome


def _revert_one(
    connection: psycopg.Connection,
    one: Revert,
    announced: list[dict] | None,
    who: Run,
    watch: SchemaWatch | None,
    remarks: list[str],
) -> dict | Failure:
    commit, started = Item("COMMIT"), time.monotonic()
    try:
        recorded, run_id = _begin(connection, one)
        had = relations(connection)
        _drain(connection, _items(one))
        if announced is not None:
            _refuse_loss(dropped_unannounced(had, relations(connection), announced))
        detail = watch.look(connection) if watch else None
        said = _compare(one, recorded, watch)
        _drain(connection, _record(one, run_id, who, detail))
        run_one(connection, commit)
    except StatementFailed as failed:
        if not failed.lost:
            run_one(connection, Item("ROLLBACK"))
        state = "unknown" if failed.lost and failed.item is commit else "rolled_back"
        return failure.from_error(one.version, one.file, failed.item.origin, failed.error, state)
    except NotUndone as problem:
        run_one(connection, Item("ROLLBACK"))
        return Failure(one.version, one.file, 1, 1, "", str(problem), "rolled_back")
    remarks += said
    return _reverted(one, int((time.monotonic() - started) * 1000))


def _begin(connection: psycopg.Connection, one: Revert) -> tuple[dict[str, Any] | None, str | None]:
    """Open the transaction; what the migration changed as it was recorded, and the run that applied it."""
    run_one(connection, Item("DISCARD ALL"))
    run_one(connection, Item("BEGIN"))
    for item in timeouts(vars(one), "SET LOCAL"):
        run_one(connection, item)
    query = f"SELECT run_id FROM {ledger.TABLE} WHERE version = %s"  # noqa: S608
    row = connection.execute(query, [one.version]).fetchone()
    run_id = row[0] if row else None
    return history.changes_of(connection, one.version, run_id), run_id


def _items(one: Revert) -> Iterator[Item]:
    statements = list(split(one.text, one.line))
    for statement in statements:
        yield Item(statement.text, "up", statement)
    if any(may_change_role(statement) for statement in statements):
        yield from own_role()


def _refuse_loss(gone: list[str]) -> None:
    if gone:
        shown = ", ".join(gone[:_SHOWN]) + (f" and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else "")
        raise NotUndone(f"it also drops {shown}, which could not be seen beforehand; add -e accept_data_loss=true")


def _compare(one: Revert, recorded: dict[str, Any] | None, watch: SchemaWatch | None) -> list[str]:
    """Lines to remark. Raises NotUndone when the schema is not what it was before the migration."""
    if watch is None or recorded is None:
        why = "this run takes back too many" if recorded else "none was recorded when it was applied"
        return [f"{one.version}: the schema was not compared, {why}"]
    matters, order = undone(recorded["changes"], watch.before, watch.digests)
    if matters:
        shown = "; ".join(matters[:_SHOWN]) + (f"; and {len(matters) - _SHOWN} more" if len(matters) > _SHOWN else "")
        raise NotUndone(f"its down does not bring the schema back: {shown}")
    return [f"{one.version}: {line}" for line in order]


def _record(one: Revert, run_id: str | None, who: Run, detail: dict[str, Any] | None) -> list[Item]:
    told = {**(detail or {}), "applied_in": run_id, "source": one.source}
    entry = history.values(history.REVERT, who, one.version, one.name, detail=told)
    return [Item(_FORGET, parameters=(one.version,)), Item(history.INSERT, parameters=entry)]


def _gone(one: Revert) -> Ask:
    def ask(connection: psycopg.Connection) -> dict | None:
        query = f"SELECT 1 FROM {ledger.TABLE} WHERE version = %s"  # noqa: S608
        return None if connection.execute(query, [one.version]).fetchone() else _reverted(one, 0)

    return ask


def _reverted(one: Revert, milliseconds: int) -> dict[str, Any]:
    return {"version": one.version, "name": one.name, "source": one.source, "duration_ms": milliseconds}


def _drain(connection: psycopg.Connection, items: Iterable[Item]) -> None:
    for _ in run(connection, items):
        pass
