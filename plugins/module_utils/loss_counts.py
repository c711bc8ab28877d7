# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How many rows a down migration would drop or change, and which tables and columns there are.

Everything is read in read-only transactions that take ACCESS SHARE locks, wait for no lock longer than 200 ms and are
rolled back at once, so nobody waits for a count longer than for one table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import history, identity, ledger
from ansible_collections.habitat.runbook.plugins.module_utils.losses import Loss
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import qualified, quoted
from psycopg.rows import class_row, tuple_row

_LOCK_WAIT_MS = 200
_COUNT_MS = 5000

_AT_RUN = "how many is known only when it runs"
_WHICH = "search_path is changed before it; write the schema in front of the name"
_LOCKED = "another session has it locked"
_UNREADABLE = "this role may not read all of its rows"
_SLOW = "counting took too long"

# row_security = off: where policies would hide rows, the count is an error instead of a smaller number.
_SETTINGS = f"""
SET TRANSACTION READ ONLY;
SET LOCAL lock_timeout = {_LOCK_WAIT_MS};
SET LOCAL row_security = off;
SET LOCAL client_encoding = 'UTF8'"""

# A name as SQL text, resolved as the server would; to_regclass is NULL for what is not there.
_BY_NAME = "SELECT oid FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass(%s)"

_IN_SCHEMA = """
SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = (pg_catalog.parse_ident(%s))[1]::name AND c.relkind IN ('r', 'p') AND NOT EXISTS (
  SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
  WHERE i.inhrelid = c.oid AND p.relnamespace = c.relnamespace)
ORDER BY c.relname"""

_IN_EXTENSION = """
SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_depend d ON d.objid = c.oid
JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e'
  AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass
  AND e.extname = (pg_catalog.parse_ident(%s))[1]::name AND c.relkind IN ('r', 'p')
ORDER BY c.relname"""

_DESCENDANTS = """
WITH RECURSIVE family (oid) AS (
  SELECT %s::pg_catalog.oid
  UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN family f ON f.oid = i.inhparent)"""

# The tables TRUNCATE ... CASCADE empties besides: those whose foreign keys lead to the ones it names, and so on
# (heap_truncate_find_FKs in heap.c). Partitions have foreign keys of their own, other descendants are spared.
_REFERENCING = f"""{_DESCENDANTS},
found (oid) AS (
  SELECT oid FROM family WHERE NOT %s OR oid = %s::pg_catalog.oid
  UNION SELECT k.conrelid FROM found f JOIN pg_catalog.pg_constraint k ON k.confrelid = f.oid WHERE k.contype = 'f')
SELECT c.oid, c.relkind = 'r' AS only FROM found JOIN pg_catalog.pg_class c USING (oid)
WHERE c.oid NOT IN (SELECT oid FROM family) AND NOT EXISTS (
  SELECT FROM pg_catalog.pg_inherits i JOIN found p ON p.oid = i.inhparent
  WHERE i.inhrelid = c.oid AND c.relispartition)
ORDER BY c.relname"""  # noqa: S608 (parts are constants of this file)

# The table itself comes first. reltuples is -1 as long as nobody ran ANALYZE.
_FAMILY = f"""{_DESCENDANTS}
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, a.attnum AS number, a.attname AS column,
       c.reltuples::bigint AS estimate
FROM family JOIN pg_catalog.pg_class c USING (oid) JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  AND a.attname = (pg_catalog.parse_ident(%s))[1]::name
WHERE c.relkind IN ('r', 'p')
ORDER BY c.oid <> %s::pg_catalog.oid, n.nspname, c.relname"""  # noqa: S608 (parts are constants of this file)

_RELATIONS = """
SELECT c.oid, n.nspname AS schema, c.relname AS name, a.attnum AS number, a.attname AS column
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
  SELECT 0 AS attnum, NULL::name AS attname
  UNION ALL SELECT attnum, attname FROM pg_catalog.pg_attribute
  WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) a
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND pg_catalog.concat(n.nspname, '.', c.relname) <> ALL (%s::text[])
ORDER BY n.nspname, c.relname, a.attnum"""


_OIDS = {"schema": _IN_SCHEMA, "extension": _IN_EXTENSION}
_WHAT = {
    "table": "table {0}",
    "schema": "table {0}",
    "extension": "table {0}",
    "column": "column {0}.{1}",
    "type": "type of column {0}.{1}",
    "truncate": "all rows of {0}",
    "rows": "rows deleted from {0}",
    "update": "rows changed in {0}",
    "unknown": "{2}",
}


class _Table(NamedTuple):
    """A table as the catalog has it; ``number`` and ``column`` are None where the asked column does not exist."""

    oid: int
    schema: str
    name: str
    kind: str
    number: int | None
    column: str | None
    estimate: int

    @property
    def sql(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"

    @property
    def entry(self) -> str:
        return _entry(self.oid, self.schema, self.name, None, None)

    @property
    def column_entry(self) -> str:
        return _entry(self.oid, self.schema, self.name, self.number, self.column)


def relations(connection: psycopg.Connection) -> list[str]:
    """Every user table and column, as ``losses.dropped_unannounced`` compares them; the ledger's own are left out.

    An entry is an identity (OID of the table, behind it ``.`` and the number of the column), a blank, and the name
    (``schema.table`` or ``schema.table.column``, quoted as ``manifest.qualified`` does). Sees what the transaction
    that may be open has done so far, and leaves it as it is.
    """
    own = [ledger.TABLE, ledger.PROGRESS, history.TABLE, identity.TABLE]
    with _reading(connection):
        rows = connection.cursor(row_factory=tuple_row).execute(_RELATIONS, [own]).fetchall()
    return [_entry(*row) for row in rows]


def count_losses(connection: psycopg.Connection, losses: Iterable[Loss], count_ms: int = _COUNT_MS) -> list[dict]:
    """How many rows each loss is, in order: ``{kind, what, rows, line, estimated, note, announces}``.

    ``what`` is readable ("table public.members"); ``rows`` None when it cannot be known, ``note`` says why then ("" is
    the rule). ``estimated``: ``rows`` is the planner's estimate, as one count took longer than ``count_ms``
    milliseconds. ``announces`` are the entries of ``relations`` that go with it. A column's rows are those where it is
    not null. Partitions and inheriting tables are included. What does not exist, and what holds no rows of its own
    (views, foreign tables), is left out; a schema or extension becomes its tables, and so do the tables that TRUNCATE
    ... CASCADE reaches. Names are resolved with the search_path of the session as it is now. Raises psycopg.Error only
    when the connection is lost.
    """
    found: list[dict] = []
    for loss in losses:
        if loss.kind == "unknown" or not loss.certain:
            found.append(_unresolved(loss, _AT_RUN if loss.kind == "unknown" else _WHICH))
            continue
        try:
            oids = _oids(connection, loss)
        except psycopg.Error as error:
            found.append(_unresolved(loss, _reason(connection, error)))
            continue
        entries = [entry for one, oid in oids if (entry := _count(connection, one, oid, count_ms))]
        if loss.kind in ("rows", "update") and not entries:
            entries = [_unresolved(loss, _AT_RUN)]
        for entry in entries:
            _add(found, entry)
    return found


def _add(found: list[dict], entry: dict) -> None:
    """Add an entry; a table that is emptied twice, by name or by CASCADE, stands there once, with the larger count."""
    for number, earlier in enumerate(found):
        if earlier["kind"] == entry["kind"] == "truncate" and earlier["what"] == entry["what"]:
            if earlier["rows"] is not None and (entry["rows"] is None or entry["rows"] > earlier["rows"]):
                found[number] = entry
            return
    found.append(entry)


@contextmanager
def _reading(connection: psycopg.Connection) -> Iterator[None]:
    """A read-only transaction that is rolled back, its settings too; a savepoint where a transaction is open."""
    with connection.transaction(force_rollback=True):
        connection.execute(_SETTINGS)
        yield


def _entry(oid: int, schema: str, name: str, number: int | None, column: str | None) -> str:
    if not number or column is None:
        return f"{oid} {qualified(schema, name)}"
    # The second half of "x.column" is the column, quoted where it has to be.
    return f"{oid}.{number} {qualified(schema, name)}.{_plain(column)}"


def _plain(column: str) -> str:
    return qualified("x", column)[2:]


def _oids(connection: psycopg.Connection, loss: Loss) -> list[tuple[Loss, int]]:
    """The tables a loss is about, each with what happens to it."""
    with _reading(connection):
        cursor = connection.cursor(row_factory=tuple_row)
        found = [(loss, row[0]) for row in cursor.execute(_OIDS.get(loss.kind, _BY_NAME), [loss.table])]
        if found and loss.kind == "truncate" and loss.cascade:
            oid = found[0][1]
            reached = cursor.execute(_REFERENCING, [oid, loss.only, oid])
            found += [(replace(loss, only=only), other) for other, only in reached]
        return found


def _count(connection: psycopg.Connection, loss: Loss, oid: int, count_ms: int) -> dict | None:
    """The entry of one table, or None when there is nothing to lose."""
    family: list[_Table] = []
    rows, note = None, ""
    try:
        with _reading(connection):
            cursor = connection.cursor(row_factory=class_row(_Table))
            family = cursor.execute(_FAMILY, [oid, loss.column or "x", oid]).fetchall()
            if not family or (loss.column and family[0].column is None):
                return None
            if loss.kind in ("rows", "update"):
                note = _AT_RUN
            else:
                rows = _rows(connection, loss, family[0], count_ms)
    except psycopg.Error as error:
        note = _reason(connection, error)
        if not family:
            return _unresolved(loss, note)
    if loss.only:
        family = family[:1]
    if note == _SLOW:
        rows = _estimate(family)
    return _described(loss, family, rows, note)


def _rows(connection: psycopg.Connection, loss: Loss, table: _Table, count_ms: int) -> int:
    connection.execute(f"SET LOCAL statement_timeout = {count_ms:d}".encode())
    column = "*" if table.column is None or not loss.column else f"x.{quoted(table.column)}"
    query = f"SELECT pg_catalog.count({column}) FROM {'ONLY ' if loss.only else ''}{table.sql} AS x"  # noqa: S608
    row = connection.cursor(row_factory=tuple_row).execute(query.encode()).fetchone()
    return row[0] if row else 0


def _estimate(family: list[_Table]) -> int | None:
    """Rows as the planner knows them; None when a table was never analyzed, or none at all: it was slow to count."""
    known = [table.estimate for table in family if table.kind == "r"]
    return sum(known) or None if min(known, default=-1) >= 0 else None


def _reason(connection: psycopg.Connection, error: psycopg.Error) -> str:
    """Why something cannot be counted; raises the error when the connection is lost."""
    if connection.closed:
        raise error
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return _LOCKED
    if isinstance(error, psycopg.errors.QueryCanceled):
        return _SLOW
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return _UNREADABLE
    return " ".join((error.diag.message_primary or str(error)).split())


def _unresolved(loss: Loss, note: str) -> dict[str, Any]:
    what = _WHAT[loss.kind].format(loss.table, loss.column, loss.command)
    return _as_entry(loss, what, None, note, [])


def _described(loss: Loss, family: list[_Table], rows: int | None, note: str) -> dict[str, Any]:
    first = family[0]
    what = _WHAT[loss.kind].format(qualified(first.schema, first.name), _plain(first.column or ""), "")
    announces: list[str] = []
    if loss.kind in ("table", "schema", "extension"):
        announces = [table.entry for table in family]
    elif loss.kind == "column":
        announces = [table.column_entry for table in family if table.number]
    return _as_entry(loss, what, rows, note, announces)


def _as_entry(loss: Loss, what: str, rows: int | None, note: str, announces: list[str]) -> dict[str, Any]:
    return {
        "kind": loss.kind,
        "what": what,
        "rows": rows,
        "line": loss.line,
        "estimated": note == _SLOW and rows is not None,
        "note": note,
        "announces": announces,
    }
