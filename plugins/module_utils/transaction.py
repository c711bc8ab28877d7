# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Apply one migration as one transaction that holds its SQL and its ledger row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import failure, history, ledger
from ansible_collections.habitat.runbook.plugins.module_utils.bundle import Stream
from ansible_collections.habitat.runbook.plugins.module_utils.failure import Failure
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import DONE, INTENT
from ansible_collections.habitat.runbook.plugins.module_utils.schema_watch import SchemaWatch
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement
from ansible_collections.habitat.runbook.plugins.module_utils.wire import Answer, Item, StatementFailed, run, run_one

Note = Callable[[str, str, "str | None"], None]
"""Is told of a COMMIT: run_folder.INTENT or DONE, the version, and the transaction's xid. May raise OSError for INTENT:
then there is no COMMIT."""

_DISK_FULL = "53100"


def unnoted(event: str, version: str, xid: str | None) -> None:
    """What is told when nobody keeps a journal."""


class VerifyFailed(Exception):
    """A query of the Verify section returned a row."""

    def __init__(self, statement: Statement, row: dict[str, str | None]) -> None:
        shown = ", ".join(f"{name}={value}" for name, value in row.items())
        super().__init__(f"a Verify query must return no row, this one returned ({shown})")
        self.statement = statement


def apply_in_transaction(
    connection: psycopg.Connection,
    head: dict,
    stream: Stream,
    who: Run,
    watch: SchemaWatch | None = None,
    note: Note = unnoted,
) -> dict | Failure:
    """Apply one migration whole or not at all; returns what to report of it, or the Failure.

    watch: records in the history what the migration changed in the schema. note: is told before COMMIT is sent, and
    after its answer. A failure's state is "unknown" when the
    connection was lost while COMMIT was under way.
    """
    commit = Item("COMMIT")
    milliseconds, xid = 0, None
    try:
        for answer in _answers(connection, head, stream, who, watch):
            check_verify(answer)
            milliseconds = duration(answer, milliseconds)
            xid = answer.first_row["xid"] if answer.item.role == "record" else xid
        note(INTENT, head["version"], xid)
        if run_one(connection, commit).tag != "COMMIT":
            raise StatementFailed(commit, psycopg.errors.InFailedSqlTransaction("it was rolled back"), lost=False)
    except StatementFailed as failed:
        if not failed.lost:
            run_one(connection, Item("ROLLBACK"))
        state = "unknown" if failed.lost and failed.item is commit else "rolled_back"
        return failure.from_error(head["version"], head["file"], failed.item.origin, failed.error, state)
    except VerifyFailed as failed:
        run_one(connection, Item("ROLLBACK"))
        return verify_failure(head, failed, "rolled_back")
    except OSError as error:
        run_one(connection, Item("ROLLBACK"))
        text = f"the run's journal cannot be written ({error.strerror}); make room on its disk"
        return Failure(head["version"], head["file"], 1, 1, "", text, "rolled_back", sqlstate=_DISK_FULL)
    note(DONE, head["version"], xid)
    return applied(head, milliseconds)


def _answers(
    connection: psycopg.Connection, head: dict, stream: Stream, who: Run, watch: SchemaWatch | None
) -> Iterator[Answer]:
    if watch is None:
        yield from run(connection, chain(_items(head, stream), ledger_items(head, who)))
        return
    yield from run(connection, _items(head, stream))
    yield from run(connection, ledger_items(head, who, detail=watch.look(connection)))


def _items(head: dict, stream: Stream) -> Iterator[Item]:
    yield Item("DISCARD ALL", sync=True)
    yield Item(head["begin"])
    yield from timeouts(head, "SET LOCAL")
    changes_role = False
    for role, statement in stream():
        changes_role = changes_role or may_change_role(statement)
        yield Item(statement.text, role, statement)
    yield from own_role() if changes_role else []


def timeouts(head: dict, command: str) -> Iterator[Item]:
    """The file's own timeouts; they end with its transaction, or with the next DISCARD ALL."""
    for name in ("lock_timeout", "statement_timeout"):
        if head[name] is not None:
            yield Item(f"{command} {name} = '{head[name]}'")


def may_change_role(statement: Statement) -> bool:
    """Whether a statement could leave another role behind: its words say so, in whatever way it is done.

    A statement that hides them (a function made earlier) makes the ledger's insert fail and is rolled back.
    """
    text = statement.text.lower()
    return "role" in text or "authorization" in text


def own_role() -> list[Item]:
    """Be the role that connected again until the transaction ends, whatever role the file SET."""
    return [Item("SET LOCAL SESSION AUTHORIZATION DEFAULT"), Item("SET LOCAL ROLE NONE")]


def ledger_items(
    head: dict, who: Run, milliseconds: int | None = None, detail: dict[str, Any] | None = None
) -> list[Item]:
    """Record the migration in the transaction that is open; its duration is the transaction's unless given.

    A head with a true ``begun`` belongs to a migration that an earlier run began step by step.
    """
    values = ledger.record(head, history.APPLY, milliseconds, who, detail)
    items = [Item(ledger.RECORD, "record", parameters=values)]
    if head.get("begun") or head["mode"] != "transaction":
        items.append(Item(ledger.CLEAR_PROGRESS, parameters=(head["version"],)))
    return items


def duration(answer: Answer, so_far: int) -> int:
    """The duration_ms the ledger row was written with, once it was."""
    return int(answer.first_row["duration_ms"] or 0) if answer.item.role == "record" else so_far


def check_verify(answer: Answer) -> None:
    """Raise VerifyFailed when a Verify query returned a row."""
    if answer.item.role == "verify" and answer.rows and answer.item.origin:
        raise VerifyFailed(answer.item.origin, answer.first_row)


def verify_failure(head: dict, failed: VerifyFailed, state: str) -> Failure:
    """The Failure of a Verify query that returned a row."""
    at = failed.statement
    text = failure.shorten(at.text)
    return Failure(head["version"], head["file"], at.line, at.column, text, str(failed), state)


def applied(head: dict, milliseconds: int) -> dict:
    """What is reported of an applied migration."""
    wanted = {name: head[name] for name in ("version", "name", "file", "mode", "statements")}
    return dict(wanted, duration_ms=milliseconds)
