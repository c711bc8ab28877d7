# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The file that brings rows back: its lines, and playing them, one transaction from BEGIN to COMMIT.

A statement is one line. A comment before it says how to see that it is not needed any more; psql skips it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.salvage_plan import Order
from ansible_collections.habitat.runbook.plugins.module_utils.salvage_rows import Line
from ansible_collections.habitat.runbook.plugins.module_utils.salvage_statements import loosening, text_sql
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import reading_settings

if TYPE_CHECKING:
    from pathlib import Path

_DONE = b"--? "
_MARK = b"-- {"
_ROWS, _REST = b'-- {"rows": "begin"}', b'-- {"rows": "end"}'
_AT_ONCE = 200
_BYTES_AT_ONCE = 1024 * 1024

# Data that does not fit: of another type, or not allowed beside what is there.
_DOES_NOT_FIT = ("22", "23")

# What is off is kept in a setting of the transaction, so that no right to make a table is needed.
_OFF = """DO $do$ DECLARE t json; BEGIN
 PERFORM set_config('habitat.triggers', (SELECT coalesce(json_agg(json_build_array(n.nspname, c.relname, t.tgname,
 CASE t.tgenabled WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END)), '[]')::text
 FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND pg_has_role(c.relowner, 'USAGE')
 AND (n.nspname, c.relname) IN ({tables})), true);
 FOR t IN SELECT json_array_elements(current_setting('habitat.triggers')::json) LOOP
 EXECUTE format('ALTER TABLE %I.%I DISABLE TRIGGER %I', t ->> 0, t ->> 1, t ->> 2); END LOOP; END $do$;"""
_ON = """DO $do$ DECLARE t json; BEGIN
 FOR t IN SELECT json_array_elements(current_setting('habitat.triggers')::json) LOOP
 EXECUTE format('ALTER TABLE %I.%I %s TRIGGER %I', t ->> 0, t ->> 1, t ->> 3, t ->> 2); END LOOP; END $do$;"""


@dataclass
class Played:
    """What playing a file did, by table: ``applied``, ``there`` (done before) and ``left`` (the row is another)."""

    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    sequences: int = 0

    def count(self, table: str, what: str) -> None:
        self.tables.setdefault(table, {"applied": 0, "there": 0, "left": 0})[what] += 1

    def total(self, what: str) -> int:
        return sum(one[what] for one in self.tables.values())


class Remains:
    """The statements that an import left alone, in a file beside it that is only there when there are any.

    ``written`` is its name then.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(f"{path.name.removesuffix('.sql')}.left.sql")
        self._file: IO[bytes] | None = None
        self._last = ("", "")
        self.written: str | None = None

    def __enter__(self) -> Remains:
        self._path.unlink(missing_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._file:
            self._file.close()

    def add(self, one: Line) -> None:
        """Write one statement down."""
        if self._file is None:
            self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
            self.written = str(self._path)
        self._last = write_lines(self._file, [one], self._last)


def beginning(connection: psycopg.Connection, order: Order, tables: Iterable[tuple[str, str]]) -> list[bytes]:
    """The lines from BEGIN to the first row; ``tables``: schema and name of those whose rows are touched."""
    settings = [f"{line.strip()};" for line in reading_settings(connection).split(";") if line.strip()]
    names = ", ".join(f"({text_sql(schema)}, {text_sql(name)})" for schema, name in tables) or "(NULL, NULL)"
    found = [b"BEGIN;", *(line.encode() for line in settings), b"SET LOCAL standard_conforming_strings = on;"]
    found.append(_line_of(_OFF.replace("{tables}", names)))
    found += [loosening(one) for one in order.loosened]
    return [*found, *([b"SET CONSTRAINTS ALL DEFERRED;"] if order.deferred else []), _ROWS]


def ending(order: Order, sequences: list[bytes]) -> list[bytes]:
    """The lines from the last row to COMMIT."""
    back = [loosening(one, back=True) for one in order.loosened]
    return [_REST, *sequences, b"SET CONSTRAINTS ALL IMMEDIATE;", _line_of(_ON), *back, b"COMMIT;"]


def _line_of(text: str) -> bytes:
    return " ".join(text.split("\n")).encode()


def write_lines(handle: IO[bytes], lines: Iterable[Line], last: tuple[str, str] = ("", "")) -> tuple[str, str]:
    """Write statements with what belongs to them; ``last`` and the result: table and kind that stand before."""
    for one in lines:
        if (one.table, one.kind) != last:
            last = one.table, one.kind
            handle.write(f"-- {json.dumps({one.kind: one.table})}\n".encode())
        handle.write(b"%s%s\n%s\n" % (_DONE, one.done, one.statement))
    return last


def read_lines(handle: Iterable[bytes]) -> Iterator[Line]:
    """The statements that ``write_lines`` wrote."""
    kind, table, done = "", "", b""
    for raw in handle:
        text = raw.rstrip(b"\n")
        if text.startswith(_DONE):
            done = text[len(_DONE) :]
        elif text.startswith(_MARK):
            ((kind, table),) = json.loads(text[len(b"-- ") :]).items()
        elif text:
            yield Line(table, kind, done, text)


def arrange(connection: psycopg.Connection, first: list[bytes], draft: IO[bytes], spool: Any) -> tuple[Any, list[Any]]:
    """Bring the statements into an order in which each finds what it needs, by trying them; nothing is left of it.

    ``connection``: to a copy in the state for which they are made. ``first``: see ``beginning``. ``spool`` makes an
    empty temporary file. Returns a file of them in that order, and why the last ones in it found no place, each as
    ``(table, reason)``.
    """
    good, stuck = spool(), []
    last = ("", "")
    _execute(connection, first)
    try:
        while True:
            draft.seek(0)
            later, tried, put_off, later_last = spool(), 0, 0, ("", "")
            reasons: list[tuple[str, str]] = []
            for some in _batches(read_lines(draft)):
                for one, outcome in zip(some, _attempt(connection, some)):
                    tried += 1
                    if outcome == 1:
                        last = write_lines(good, [one], last)
                    else:
                        put_off += 1
                        later_last = write_lines(later, [one], later_last)
                        if len(reasons) < _AT_ONCE:
                            reasons.append((one.table, outcome if isinstance(outcome, str) else ""))
            if not put_off:
                break
            if put_off == tried:
                later.seek(0)
                write_lines(good, read_lines(later), last)
                stuck = reasons
                break
            draft = later
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK")
    good.seek(0)
    return good, stuck


def play(connection: psycopg.Connection, path: Path, left: Callable[[Line], None] | None = None) -> Played:
    """Import a file as psql does, in one transaction; an error undoes all of it and is raised.

    With ``left`` a statement that does not fit what is there is handed to it and is no error, and what had no effect is
    looked at: whether it was not needed, or the row is another by now.
    """
    done = Played()
    try:
        with path.open("rb") as file:
            _play(connection, file, done, left)
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK")
    return done


def _play(connection: psycopg.Connection, file: IO[bytes], done: Played, left: Callable[[Line], None] | None) -> None:
    _execute(connection, _until(file, _ROWS))
    for some in _batches(read_lines(_until(file, _REST))):
        outcomes = _attempt(connection, some, strict=left is None)
        idle = [one for one, outcome in zip(some, outcomes) if outcome == 0]
        needless = dict(zip(map(id, idle), _effects(connection, [one.done + b";" for one in idle]))) if left else {}
        for one, outcome in zip(some, outcomes):
            what = "applied" if outcome == 1 else "there" if needless.get(id(one)) else "left"
            done.count(one.table, what)
            if what == "left" and left:
                left(one)
    for text in file:
        if not text.startswith((b"--", b"\\")):
            moved = _effects(connection, [text])
            done.sequences += moved[0] if text.startswith(b"SELECT setval") else 0


def _until(file: IO[bytes], mark: bytes) -> Iterator[bytes]:
    for text in file:
        if text.rstrip(b"\n") == mark:
            return
        yield text


def _execute(connection: psycopg.Connection, texts: Iterable[bytes]) -> None:
    for text in texts:
        if text.strip() and not text.startswith((b"--", b"\\")):
            connection.execute(text)


def _batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    some: list[Line] = []
    size = 0
    for one in lines:
        some.append(one)
        size += len(one.statement)
        if len(some) >= _AT_ONCE or size >= _BYTES_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _attempt(connection: psycopg.Connection, some: list[Line], strict: bool = False) -> list[int | str]:
    """Rows that each statement touched; a sentence where one does not fit, unless ``strict``."""
    statements = [one.statement for one in some]
    if strict:
        return list(_effects(connection, statements))
    try:
        return list(_effects(connection, [b"SAVEPOINT salvage;", *statements, b"RELEASE salvage;"])[1:-1])
    except psycopg.Error as error:
        if connection.closed or (error.sqlstate or "")[:2] not in _DOES_NOT_FIT:
            raise
        connection.execute("ROLLBACK TO salvage; RELEASE salvage")
        if len(some) == 1:
            return [" ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))]
    half = len(some) // 2
    return [*_attempt(connection, some[:half]), *_attempt(connection, some[half:])]


def _effects(connection: psycopg.Connection, statements: list[bytes]) -> list[int]:
    """Send statements together; rows that each touched or returned."""
    if not statements:
        return []
    with connection.cursor() as cursor:
        # Without parameters it is one message, and nothing in it is a placeholder.
        cursor.execute(b"\n".join(statements))
        found = [max(cursor.rowcount, 0)]
        while cursor.nextset():
            found.append(max(cursor.rowcount, 0))
    return found
