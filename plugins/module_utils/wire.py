# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Send many statements over one connection in few round trips.

libpq's pipeline mode carries one statement per message, so the server sees what psql would send, statement by
statement, without waiting for an answer in between (PostgreSQL documentation, "Pipeline Mode"). A COPY cannot run in
a pipeline and goes alone. Batches are bounded, so client and server memory stay flat however long the file is.
"""

from __future__ import annotations

import select
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement
from psycopg import pq

_BATCH_STATEMENTS = 400
_BATCH_BYTES = 128 * 1024
_COPY_CHUNK = 64 * 1024
_COPY_WORD = "copy"
_ROWS_WANTED = ("verify", "record")
_BAD = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE)


@dataclass(frozen=True)
class Item:
    """One message: a statement of a migration, or one of ours with parameters.

    ``origin`` is the statement an error is reported for, ``role`` what it is: "up", "verify", "own",
    or "record" for one of ours whose first row is wanted.
    ``sync`` closes the implicit transaction before the next item, which DISCARD ALL needs.
    """

    sql: str
    role: str = "own"
    origin: Statement | None = None
    parameters: tuple[str | int | None, ...] = ()
    sync: bool = False


class Answer(NamedTuple):
    """What came back for one item: rows, and the first one as text."""

    item: Item
    rows: int
    first_row: dict[str, str | None]
    tag: str


class StatementFailed(Exception):
    """One item failed; ``item`` says which, ``error`` is psycopg's error, ``lost`` that the connection is gone."""

    def __init__(self, item: Item, error: psycopg.Error, lost: bool) -> None:
        super().__init__(str(error))
        self.item = item
        self.error = error
        self.lost = lost


def run(connection: psycopg.Connection, items: Iterable[Item]) -> Iterator[Answer]:
    """Run the items in order and yield an answer for each.

    Raises StatementFailed at the first one that fails; nothing behind it is executed in the same transaction.
    The connection must be in autocommit mode: BEGIN and COMMIT are items like any other.
    """
    for batch in _batches(items):
        if batch[0].origin is not None and _is_copy(batch[0]):
            yield _run_alone(connection, batch[0])
        else:
            yield from _run_batch(connection, batch)


def run_one(connection: psycopg.Connection, item: Item) -> Answer:
    """Run one item by itself, outside a pipeline, so that it is no part of an implicit transaction."""
    return _run_alone(connection, item)


def _is_copy(item: Item) -> bool:
    return item.sql[:5].lower().startswith(_COPY_WORD) and not item.sql[4:5].isalnum()


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        if item.origin is not None and _is_copy(item):
            if batch:
                yield batch
            yield [item]
            batch, size = [], 0
            continue
        batch.append(item)
        size += len(item.sql)
        if len(batch) >= _BATCH_STATEMENTS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _numbered(sql: str, parameters: tuple) -> str:
    parts = sql.split("%s")
    return parts[0] + "".join(f"${number}{part}" for number, part in enumerate(parts[1:], 1)) if parameters else sql


def _run_batch(connection: psycopg.Connection, batch: list[Item]) -> list[Answer]:
    pgconn = connection.pgconn
    answers: list[Answer] = []
    failed: tuple[Item, pq.abc.PGresult] | None = None
    try:
        pgconn.enter_pipeline_mode()
        for item in batch:
            values = [None if value is None else str(value).encode() for value in item.parameters]
            pgconn.send_query_params(_numbered(item.sql, item.parameters).encode(), values or None)
            if item.sync:
                pgconn.pipeline_sync()
        pgconn.pipeline_sync()
        _flush(pgconn)
        for item in batch:
            result = _next_result(pgconn)
            if result.status in _BAD and failed is None:
                failed = (item, result)
            elif result.status != pq.ExecStatus.PIPELINE_ABORTED:
                answers.append(_answer(item, result))
            _end_of_item(pgconn)
            if item.sync:
                _expect_sync(pgconn)
        _expect_sync(pgconn)
        pgconn.exit_pipeline_mode()
    except psycopg.Error as error:
        raise StatementFailed(failed[0] if failed else batch[len(answers)], error, lost=True) from error
    if failed:
        item, result = failed
        raise StatementFailed(item, psycopg.errors.error_from_result(result, connection.info.encoding), lost=False)
    return answers


def _flush(pgconn: pq.abc.PGconn) -> None:
    """Send everything while reading what arrives: with both sides only writing, both would wait for ever."""
    while pgconn.flush():
        readable, _, _ = select.select([pgconn.socket], [pgconn.socket], [])
        if readable:
            pgconn.consume_input()


def _result(pgconn: pq.abc.PGconn) -> pq.abc.PGresult | None:
    while pgconn.is_busy():
        select.select([pgconn.socket], [], [])
        pgconn.consume_input()
    return pgconn.get_result()


def _next_result(pgconn: pq.abc.PGconn) -> pq.abc.PGresult:
    result = _result(pgconn)
    if result is None:
        raise psycopg.OperationalError("the server closed the connection")
    return result


def _end_of_item(pgconn: pq.abc.PGconn) -> None:
    while _result(pgconn) is not None:
        pass


def _expect_sync(pgconn: pq.abc.PGconn) -> None:
    result = _next_result(pgconn)
    if result.status != pq.ExecStatus.PIPELINE_SYNC:
        raise psycopg.OperationalError(f"the server answered {pq.ExecStatus(result.status).name} to a sync")


def _answer(item: Item, result: pq.abc.PGresult) -> Answer:
    tag = (result.command_status or b"").decode()
    if item.role not in _ROWS_WANTED or not result.ntuples:
        return Answer(item, result.ntuples, {}, tag)
    names = [(result.fname(column) or b"").decode() for column in range(result.nfields)]
    values = [result.get_value(0, column) for column in range(result.nfields)]
    row = {name: None if value is None else bytes(value).decode() for name, value in zip(names, values)}
    return Answer(item, result.ntuples, row, tag)


def _run_alone(connection: psycopg.Connection, item: Item) -> Answer:
    pgconn = connection.pgconn
    try:
        if item.parameters:
            values = [None if value is None else str(value).encode() for value in item.parameters]
            result = pgconn.exec_params(_numbered(item.sql, item.parameters).encode(), values)
        else:
            result = pgconn.exec_(item.sql.encode())
        if result.status == pq.ExecStatus.COPY_IN:
            result = _copy_in(pgconn, (item.origin.copy_data if item.origin else None) or "")
        elif result.status == pq.ExecStatus.COPY_OUT:
            result = _copy_out(pgconn)
    except psycopg.Error as error:
        raise StatementFailed(item, error, lost=True) from error
    if result.status in _BAD:
        lost = pgconn.status != pq.ConnStatus.OK
        raise StatementFailed(item, psycopg.errors.error_from_result(result, connection.info.encoding), lost)
    return _answer(item, result)


def _copy_in(pgconn: pq.abc.PGconn, data: str) -> pq.abc.PGresult:
    pgconn.nonblocking = 0
    for start in range(0, len(data), _COPY_CHUNK):
        pgconn.put_copy_data(data[start : start + _COPY_CHUNK].encode())
    pgconn.put_copy_end()
    pgconn.nonblocking = 1
    result = _next_result(pgconn)
    _end_of_item(pgconn)
    return result


def _copy_out(pgconn: pq.abc.PGconn) -> pq.abc.PGresult:
    """Read and forget the rows, as psql would only print them."""
    while pgconn.get_copy_data(0)[0] > 0:
        pass
    result = _next_result(pgconn)
    _end_of_item(pgconn)
    return result
