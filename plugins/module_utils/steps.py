# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Apply one migration that cannot be one transaction: step by step, each step on record.

In mode "steps" neighbouring statements that can run in a transaction share one, together with the record; in mode
"as_written" every statement is sent as it stands and the file's own BEGIN and COMMIT count. A later run goes on
behind the last recorded statement when those before it are unchanged.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Iterator

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import failure, indexes, ledger
from ansible_collections.habitat.runbook.plugins.module_utils.bundle import Stream
from ansible_collections.habitat.runbook.plugins.module_utils.commands import needs_no_transaction
from ansible_collections.habitat.runbook.plugins.module_utils.failure import Failure
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.schema_watch import SchemaWatch
from ansible_collections.habitat.runbook.plugins.module_utils.state import feed
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement
from ansible_collections.habitat.runbook.plugins.module_utils.transaction import (
    VerifyFailed,
    applied,
    check_verify,
    ledger_items,
    own_role,
    timeouts,
    verify_failure,
)
from ansible_collections.habitat.runbook.plugins.module_utils.wire import Item, StatementFailed, run, run_one
from psycopg import pq

_SETTING = re.compile(r"(set\s+(?!local\b|constraints\b|transaction\b)|select\s+(pg_catalog\.)?set_config\s*\()", re.I)


class _Progress:
    """Writes how far a migration has come; what it knows survives in the database only."""

    def __init__(self, connection: psycopg.Connection, head: dict, run_id: str) -> None:
        self.connection = connection
        self.head = head
        self.run_id = run_id
        row = connection.execute(f"SELECT done FROM {ledger.PROGRESS} WHERE version = %s", [head["version"]])  # noqa: S608
        found = row.fetchone()
        self.resumed = found is not None
        self.done = found[0] if found else 0
        self._digest = hashlib.sha256()

    def advance(self, statements: list[Statement]) -> list[Item]:
        """Items that record these statements as done, for the transaction they ran in or one of their own."""
        for statement in statements:
            feed(self._digest, statement)
        return [*own_role(), Item(ledger.SET_PROGRESS, parameters=self._values(self.done + len(statements)))]

    def skip(self, statement: Statement) -> None:
        """Take a statement an earlier run executed into the digest."""
        feed(self._digest, statement)

    def _values(self, done: int) -> tuple:
        head = self.head
        return (head["version"], head["name"], done, head["statements"], self._digest.hexdigest(), self.run_id)


def apply_steps(
    connection: psycopg.Connection, head: dict, stream: Stream, who: Run, watch: SchemaWatch | None = None
) -> dict | Failure:
    """Apply the rest of one migration; returns what to report of it, or a Failure with state "partial k/n".

    watch: records in the history what the migration changed, unless an earlier run began it.
    """
    started = time.monotonic()
    run_one(connection, Item("DISCARD ALL"))
    progress = _Progress(connection, head, who.run_id)
    invalid_before = indexes.invalid(connection)
    statement: Statement | None = None
    try:
        _begin(connection, head, progress)
        for group in _groups(_remaining(connection, stream, progress), head["mode"]):
            statement = group[0]
            _run_group(connection, head, group, progress)
        _finish(connection, head, stream, who, int((time.monotonic() - started) * 1000), watch, progress.resumed)
    except StatementFailed as failed:
        origin = failed.item.origin or statement
        found = failure.from_error(head["version"], head["file"], origin, failed.error, "partial")
        return _record_failure(connection, head, progress, found, invalid_before, failed.lost)
    except VerifyFailed as failed:
        found = verify_failure(head, failed, "partial")
        return _record_failure(connection, head, progress, found, invalid_before, lost=False)
    return applied(head, int((time.monotonic() - started) * 1000))


def _begin(connection: psycopg.Connection, head: dict, progress: _Progress) -> None:
    for item in timeouts(head, "SET"):
        run_one(connection, item)
    if not progress.resumed:
        _record(connection, progress.advance([]))


def _remaining(connection: psycopg.Connection, stream: Stream, progress: _Progress) -> Iterator[Statement]:
    """Statements that did not run yet; settings made by those that did are made again for this session."""
    statements = (statement for role, statement in stream() if role == "up")
    for number, statement in enumerate(statements):
        if number >= progress.done:
            yield statement
            continue
        progress.skip(statement)
        if _SETTING.match(statement.text):
            run_one(connection, Item(statement.text, "up", statement))


def _groups(statements: Iterable[Statement], mode: str) -> Iterator[list[Statement]]:
    group: list[Statement] = []
    for statement in statements:
        alone = mode == "as_written" or needs_no_transaction(statement)
        if alone and group:
            yield group
            group = []
        if alone:
            yield [statement]
        else:
            group.append(statement)
    if group:
        yield group


def _run_group(connection: psycopg.Connection, head: dict, group: list[Statement], progress: _Progress) -> None:
    first = group[0]
    items = [Item(statement.text, "up", statement) for statement in group]
    if head["mode"] == "steps" and not needs_no_transaction(first):
        _drain(connection, [Item("BEGIN"), *items, *progress.advance(group)])
        run_one(connection, Item("COMMIT", origin=group[-1]))
        progress.done += len(group)
        return
    _run_alone(connection, head, items[0], progress)
    record = progress.advance([first])
    if connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        _record(connection, record)
    progress.done += 1


def _run_alone(connection: psycopg.Connection, head: dict, item: Item, progress: _Progress) -> None:
    index = indexes.built_concurrently(item.sql)
    if index and progress.resumed:
        indexes.drop_if_invalid(connection, index)
    waits = indexes.is_concurrent(item.sql) and head["lock_timeout"] is None
    if waits:
        indexes.wait_for_locks(connection)
    run_one(connection, item)
    if waits:
        run_one(connection, Item("RESET lock_timeout"))
    if index and indexes.is_invalid(connection, index):
        error = psycopg.errors.ObjectNotInPrerequisiteState(
            f"index {index.name} exists but is INVALID: DROP INDEX CONCURRENTLY {index.name}, then migrate.yml again"
        )
        raise StatementFailed(item, error, lost=False)


def _record(connection: psycopg.Connection, items: list[Item]) -> None:
    _drain(connection, [Item("BEGIN"), *items])
    run_one(connection, Item("COMMIT"))


def _finish(
    connection: psycopg.Connection,
    head: dict,
    stream: Stream,
    who: Run,
    milliseconds: int,
    watch: SchemaWatch | None,
    resumed: bool,
) -> None:
    if connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
        error = psycopg.errors.InvalidTransactionState("the file ends inside a transaction it opened: add the COMMIT")
        raise StatementFailed(Item(""), error, lost=False)
    checks = [Item(statement.text, role, statement) for role, statement in stream() if role == "verify"]
    for answer in run(connection, [Item("BEGIN"), *checks, *own_role()]):
        check_verify(answer)
    # Looked at in any case, so that the next migration is not given what this one did.
    seen = watch.look(connection) if watch else None
    _drain(connection, ledger_items(head, who, milliseconds, None if resumed else seen))
    run_one(connection, Item("COMMIT"))


def _drain(connection: psycopg.Connection, items: list[Item]) -> None:
    for _ in run(connection, items):
        pass


def _record_failure(
    connection: psycopg.Connection, head: dict, progress: _Progress, found: Failure, before: set[int], lost: bool
) -> Failure:
    """Leave the database clean (no open transaction, no INVALID index of ours) and the error on record."""
    found.done, found.total = progress.done, head["statements"]
    if lost:
        return found
    if connection.pgconn.transaction_status != pq.TransactionStatus.IDLE:
        run_one(connection, Item("ROLLBACK"))
    run_one(connection, Item("DISCARD ALL"))
    stored = connection.execute(ledger.SET_ERROR + " RETURNING done", [found.message, head["version"]]).fetchone()
    found.done = stored[0] if stored else 0
    indexes.drop_new_invalid(connection, before)
    return found
