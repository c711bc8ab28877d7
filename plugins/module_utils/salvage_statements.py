# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The statements that bring rows back. Pure.

Statements are bytes and one line each, since a line is what is tried, counted and left alone. Literals are those of
the server; here they only get their type, and their line ends written out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted
from ansible_collections.habitat.runbook.plugins.module_utils.salvage_plan import Common, ForeignKey, Order

NULL = b"NULL"


def name_sql(name: str) -> str:
    """A name as a quoted identifier, on one line and without a $, which could end a quoted block."""
    if _is_plain(name):
        return quoted(name)
    return f"U&{quoted(''.join(_escaped(one, '+', 6) for one in name))}"


def text_sql(text: str) -> str:
    """A text as a literal, in the same way."""
    doubled = text.replace("'", "''")
    if _is_plain(text) and "\\" not in text:
        return f"'{doubled}'"
    return f"E'{''.join(_escaped(one, 'U', 8) for one in doubled)}'"


def _is_plain(text: str) -> bool:
    return text.isprintable() and "$" not in text


def _escaped(one: str, mark: str, digits: int) -> str:
    return one if _is_plain(one) and one != "\\" else f"\\{mark}{ord(one):0{digits}x}"


def one_line(literal: bytes) -> bytes:
    """A literal of the server without line ends in it."""
    if b"\n" not in literal and b"\r" not in literal:
        return literal
    # Without an E in front there is no backslash in it: quote_literal() would have put it there.
    escaped = literal.replace(b"\r", b"\\r").replace(b"\n", b"\\n")
    return escaped if literal.startswith(b"E") else b"E" + escaped


Row = Mapping[str, bytes]
"""Literals of a row by the names of its columns."""


class Writer:
    """Makes the statements of one table.

    Every statement has a condition, so it does nothing when it was done already or when the row is another by now.
    """

    def __init__(self, table: Common, order: Order) -> None:
        if table.key is None:
            raise ValueError(f"{table.shape.key} has no key")
        self._table, self._key = table, table.key
        self._types = {column.name: column.type for column in table.columns}
        self._sql = table.shape.sql
        names = set(table.shape.lineage)
        self._up = [one for one in order.guarded if one.child in names]
        self._down = [one for one in (*order.guarded, *order.deferred) if one.parent in names]
        # At the end, when it is checked, its rows have gone as well; what ON DELETE does is done at once.
        self._down = [one for one in self._down if one in order.guarded or one.acts]

    def insert(self, row: Row) -> bytes:
        """Insert a row, unless there is one in its place or its parent is not there."""
        names = ", ".join(name_sql(name) for name in self._types).encode()
        values = b", ".join(self._value(name, row[name]) for name in self._types)
        wanted = self._parents(self._up, row)
        if not self._key.immediate:
            wanted.append(b"NOT EXISTS (SELECT FROM %s AS x WHERE %s)" % (self._sql.encode(), self._is(row)))
        # ONLY is no part of INSERT.
        into = self._sql.removeprefix("ONLY ").encode()
        head = b"INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE " % (into, names)
        what = b"SELECT %s WHERE %s" % (values, b" AND ".join(wanted)) if wanted else b"VALUES (%s)" % values
        return head + what + b" ON CONFLICT DO NOTHING;"

    def update(self, row: Row, former: Row, digest: bytes) -> bytes:
        """Give a row its values, as long as it is as it was, which ``digest`` tells."""
        changed = [name for name in self._types if row[name] != former[name]]
        sets = b", ".join(b"%s = %s" % (name_sql(name).encode(), self._value(name, row[name])) for name in changed)
        keys = [one for one in self._up if set(changed).intersection(one.child_columns)]
        wanted = [self._is(row), self._still(digest), *self._parents(keys, row), *self._free(changed, row)]
        return b"UPDATE %s AS x SET %s WHERE %s;" % (self._sql.encode(), sets, b" AND ".join(wanted))

    def delete(self, former: Row, digest: bytes) -> bytes:
        """Delete a row, as long as it is as it was and nobody refers to it."""
        wanted = [self._is(former), self._still(digest), *(self._childless(one) for one in self._down)]
        return b"DELETE FROM %s AS x WHERE %s;" % (self._sql.encode(), b" AND ".join(wanted))

    def there(self, row: Row, digest: bytes) -> bytes:
        """Ask whether the row is there as it is in the kept database."""
        return b"SELECT FROM %s AS x WHERE %s AND %s" % (self._sql.encode(), self._is(row), self._still(digest))

    def gone(self, former: Row) -> bytes:
        """Ask whether no row has this key."""
        return b"SELECT WHERE NOT EXISTS (SELECT FROM %s AS x WHERE %s)" % (self._sql.encode(), self._is(former))

    def _value(self, name: str, literal: bytes) -> bytes:
        return b"%s::%s" % (literal, self._types[name].encode())

    def _is(self, row: Row) -> bytes:
        return b" AND ".join(
            b"x.%s %s %s" % (name_sql(name).encode(), operator.encode(), self._value(name, row[name]))
            for name, operator in zip(self._key.columns, self._key.operators)
        )

    def _still(self, digest: bytes) -> bytes:
        return b"%s = '%s'" % (digest_sql(self._types).encode(), digest)

    def _parents(self, keys: Iterable[ForeignKey], row: Row) -> list[bytes]:
        return [self._parent(one, row) for one in keys if self._refers(one, row)]

    def _refers(self, one: ForeignKey, row: Row) -> bool:
        """Whether the row has a parent by this foreign key, other than itself."""
        if any(row.get(name, NULL) == NULL for name in one.child_columns):
            return False
        itself = [(row[mine], row.get(theirs)) for mine, theirs in zip(one.child_columns, one.parent_columns)]
        return one.parent not in self._table.shape.lineage or any(mine != theirs for mine, theirs in itself)

    def _parent(self, one: ForeignKey, row: Row) -> bytes:
        pairs = zip(one.parent_columns, one.operators, one.child_columns)
        same = b" AND ".join(
            b"p.%s %s %s" % (name_sql(theirs).encode(), operator.encode(), self._value(mine, row[mine]))
            for theirs, operator, mine in pairs
        )
        return b"EXISTS (SELECT FROM %s AS p WHERE %s)" % (one.parent_sql.encode(), same)

    def _childless(self, one: ForeignKey) -> bytes:
        same = " AND ".join(
            f"x.{name_sql(mine)} {operator} c.{name_sql(theirs)}"
            for mine, operator, theirs in zip(one.parent_columns, one.operators, one.child_columns)
        )
        text = f"NOT EXISTS (SELECT FROM {one.child_sql} AS c WHERE {same}"
        if one.parent in self._table.shape.lineage and one.child in self._table.shape.lineage:
            # A row that refers to itself goes with itself.
            text += f" AND NOT ({self._same_row('c')})"
        return f"{text})".encode()

    def _free(self, changed: Sequence[str], row: Row) -> list[bytes]:
        """Conditions that no other row has a value that may be there once only."""
        found = []
        for one in self._table.shape.uniques:
            concerned = set(changed).intersection(one.columns)
            if not concerned or any(row.get(name, NULL) == NULL for name in one.columns):
                continue
            same = b" AND ".join(
                b"c.%s %s %s" % (name_sql(name).encode(), operator.encode(), self._value(name, row[name]))
                for name, operator in zip(one.columns, one.operators)
            )
            other = self._same_row("c").encode()
            found.append(b"NOT EXISTS (SELECT FROM %s AS c WHERE %s AND NOT (%s))" % (self._sql.encode(), same, other))
        return found

    def _same_row(self, alias: str) -> str:
        return " AND ".join(
            f"{alias}.{name_sql(name)} {operator} x.{name_sql(name)}"
            for name, operator in zip(self._key.columns, self._key.operators)
        )


def row_sql(names: Iterable[str]) -> str:
    """A row's text in these columns, as an expression over ``x``."""
    return f"ROW({', '.join(f'x.{name_sql(name)}' for name in names)})::text"


def digest_sql(names: Iterable[str]) -> str:
    """The sha256 of a row's text in these columns, as hexadecimal text."""
    return f"encode(sha256(convert_to({row_sql(names)}, 'UTF8')), 'hex')"


def forward(sequence: str, last: int, upwards: bool) -> bytes:
    """Move a sequence on to where the kept database has it, unless it is there already; ``sequence`` is its SQL."""
    beyond = "<" if upwards else ">"
    condition = f"last_value {beyond} {last:d} OR last_value = {last:d} AND NOT is_called"
    moved = f"SELECT setval(tableoid::regclass, {last:d}, true)"
    return f"{moved} FROM {sequence} WHERE {condition};".encode()


def loosening(one: ForeignKey, back: bool = False) -> bytes:
    """Let a foreign key be checked at the end of the transaction, or, with ``back``, at once again."""
    how = "NOT DEFERRABLE" if back else "DEFERRABLE"
    table = one.child_sql.removeprefix("ONLY ")
    return f"ALTER TABLE {table} ALTER CONSTRAINT {name_sql(one.name)} {how};".encode()
