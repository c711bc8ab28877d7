# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Rows of one table in two databases, merged by key as streams: memory does not grow with the table.

Rows go by as key and digest. The values are only fetched of those that differ, some at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.salvage_plan import Common, Order
from ansible_collections.habitat.runbook.plugins.module_utils.salvage_statements import (
    Writer,
    digest_sql,
    name_sql,
    one_line,
    row_sql,
)
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import query
from psycopg.adapt import Loader
from psycopg.rows import tuple_row

if TYPE_CHECKING:
    import psycopg

INSERT, UPDATE, DELETE = "insert", "update", "delete"

_FETCHED = 2000
_ROWS_AT_ONCE = 500
_BYTES_AT_ONCE = 4 * 1024 * 1024

_DIGEST = """
SELECT pg_catalog.count(*) AS rows,
       coalesce(pg_catalog.sum(pg_catalog.hashtextextended({row}, 0)), 0)::text AS digest
FROM {table} AS x"""


class _Raw(Loader):
    """Text as the bytes the server sends: what goes into a file need not be text here."""

    def load(self, data: Any) -> bytes:
        return bytes(data)


@dataclass(frozen=True)
class Difference:
    """A row that differs: ``kept`` and ``base`` are its digests, None where it is not there; ``size`` in bytes."""

    key: tuple[bytes, ...]
    kept: bytes | None
    base: bytes | None
    size: int


@dataclass(frozen=True)
class Line:
    """One statement: for which table, of which kind, and a query that has a row when there is nothing left to do."""

    table: str
    kind: str
    done: bytes
    statement: bytes


def digest(connection: psycopg.Connection, table: Common) -> dict[str, Any]:
    """Rows and digest of the columns that are compared, as ``{"rows", "digest"}``."""
    names = [column.name for column in table.columns]
    return query(connection, _DIGEST.format(row=row_sql(names), table=table.shape.sql))[0]


def lines(kept: psycopg.Connection, base: psycopg.Connection, table: Common, order: Order) -> Iterator[Line]:
    """The statements for a table, in the order of its keys. Both connections are in ``salvage_catalog.looking``."""
    writer = Writer(table, order)
    key = table.key.columns if table.key else ()
    everything = [column.name for column in table.columns]
    for some in _batches(_differences(_stream(kept, table, key), _stream(base, table, key))):
        new = _fetch(kept, table, [one.key for one in some if one.kept is not None], everything)
        former = _fetch(base, table, [one.key for one in some if one.kept is not None and one.base], everything)
        gone = _fetch(base, table, [one.key for one in some if one.kept is None], list(key))
        if len(new) + len(gone) < len(some):
            raise BackupError(f"rows of table {table.shape.key} cannot be found by their key")
        for one in some:
            yield _line(writer, table.shape.key, one, new.get(one.key), former.get(one.key) or gone.get(one.key))


def _line(writer: Writer, table: str, one: Difference, row: Any, former: Any) -> Line:
    """``row`` and ``former``: the literals of the row in the kept database and in the other one, where it is there."""
    if one.kept is None:
        return Line(table, DELETE, writer.gone(former), writer.delete(former, one.base or b""))
    there = writer.there(row, one.kept)
    if one.base is None:
        return Line(table, INSERT, there, writer.insert(row))
    return Line(table, UPDATE, there, writer.update(row, former, one.base))


def count_differences(kept: psycopg.Connection, base: psycopg.Connection, table: Common) -> dict[str, int]:
    """Of a table without a key: how many rows are only in the kept database, and only in the other one."""
    only = {"kept": 0, "base": 0}
    for one in _differences(_stream(kept, table, ()), _stream(base, table, ())):
        only["base" if one.kept is None else "kept"] += 1
    return only


def _stream(
    connection: psycopg.Connection, table: Common, key: Iterable[str]
) -> Iterator[tuple[tuple[bytes, ...], bytes, int]]:
    """Key, digest and size of every row by key, compared as bytes; without a key the digest is it."""
    names = [column.name for column in table.columns]
    texts = [f"x.{name_sql(name)}::text" for name in key] or [digest_sql(names)]
    wanted = [*texts, digest_sql(names), f"octet_length({row_sql(names)})"]
    # The same order in every encoding and under every collation.
    ordered = ", ".join(f"convert_to({text}, 'UTF8')" for text in texts)
    text = f"SELECT {', '.join(wanted)} FROM {table.shape.sql} AS x ORDER BY {ordered}"  # noqa: S608
    with connection.cursor(name="salvage", row_factory=tuple_row) as cursor:
        cursor.adapters.register_loader("text", _Raw)
        cursor.itersize = _FETCHED
        cursor.execute(text.encode())
        for *values, size in cursor:
            yield tuple(values[:-1]), values[-1], size


def _differences(kept: Iterator[Any], base: Iterator[Any]) -> Iterator[Difference]:
    """Merge two streams; with keys that occur several times every row counts once."""
    ours: Any = next(kept, None)
    theirs: Any = next(base, None)
    while ours or theirs:
        if theirs is None or (ours and ours[0] < theirs[0]):
            yield Difference(ours[0], ours[1], None, ours[2])
            ours = next(kept, None)
        elif ours is None or theirs[0] < ours[0]:
            yield Difference(theirs[0], None, theirs[1], theirs[2])
            theirs = next(base, None)
        else:
            if ours[1] != theirs[1]:
                yield Difference(ours[0], ours[1], theirs[1], ours[2] + theirs[2])
            ours, theirs = next(kept, None), next(base, None)


def _batches(found: Iterator[Difference]) -> Iterator[list[Difference]]:
    some: list[Difference] = []
    size = 0
    for one in found:
        some.append(one)
        size += one.size
        if len(some) >= _ROWS_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _fetch(
    connection: psycopg.Connection, table: Common, keys: list[tuple[bytes, ...]], names: list[str]
) -> dict[tuple[bytes, ...], dict[str, bytes]]:
    """Literals of these columns of the rows with these keys."""
    if not keys or table.key is None:
        return {}
    types = {column.name: column.type for column in table.columns}
    own = table.key.columns
    texts = [f"x.{name_sql(name)}::text" for name in own]
    literals = [f"quote_nullable(x.{name_sql(name)}::text)" for name in names]
    same = " AND ".join(
        f"x.{name_sql(name)} {operator} u.k{number}::{types[name]}"
        for number, (name, operator) in enumerate(zip(own, table.key.operators))
    )
    aliases = ", ".join(f"k{number}" for number in range(len(own)))
    text = (
        f"SELECT {', '.join([*texts, *literals])} FROM unnest(PARAMETERS) AS u({aliases}) "  # noqa: S608
        f"JOIN {table.shape.sql} AS x ON {same}"
    )
    # A % in a name is none of ours.
    text = text.replace("%", "%%").replace("PARAMETERS", ", ".join(["%s::text[]"] * len(own)), 1)
    parameters = [[one[number].decode() for one in keys] for number in range(len(own))]
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.adapters.register_loader("text", _Raw)
        found = cursor.execute(text.encode(), parameters, prepare=False).fetchall()
    width = len(own)
    return {row[:width]: dict(zip(names, map(one_line, row[width:]))) for row in found}
