# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What rows a down migration would drop or change, as far as its text tells.

Pure: the statements' tokens are read, ``loss_counts`` asks PostgreSQL how many rows that is. What is not understood is
a loss of kind "unknown"; triggers, rules and functions called elsewhere than in a query are not looked into, which is
why the tables and columns before and after the down are compared as well (``dropped_unannounced``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ansible_collections.habitat.runbook.plugins.module_utils.canonical import canonical
from ansible_collections.habitat.runbook.plugins.module_utils.commands import first_word
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import standard_strings_behind
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement
from ansible_collections.habitat.runbook.plugins.module_utils.token_reader import END, NotUnderstood, Reader, Token


@dataclass(frozen=True)
class Loss:
    """Something a statement would drop or change.

    ``kind``: "table", "column", "truncate", "schema" (with all in it), "extension" (with its own tables), "rows"
    (DELETE), "update", "type" (of a column: values may change), "unknown" (``command`` says what it is).
    ``table`` is SQL text as in the file, quotes included: the table, schema or extension; "" for unknown ones.
    ``column`` likewise, or None. ``line`` is that of the name in the text, from 1. ``certain``: the text says which
    table is meant. ``only``: not the tables that inherit from it. ``cascade``: the statement says CASCADE.
    """

    kind: str
    table: str
    column: str | None
    line: int
    certain: bool = True
    only: bool = False
    cascade: bool = False
    command: str = ""


# Entries of loss_counts.relations, and the last name of several with dots between.
_IDENTIFIED = re.compile(r"([0-9]+(?:\.[0-9]+)?) (.*)", re.DOTALL)
_LAST_PART = re.compile(r'\.(?:"(?:[^"]|"")*"|[^".]+)\Z')

_COMMAND_SHOWN = 40
_QUOTED = re.compile(r'"[^"]*"')
_SET_SCHEMA = re.compile(r"set (?:session |local )?schema\b")

# Dropping one of these with CASCADE can take columns with it.
_HELD_BY_COLUMNS = frozenset(("type", "domain", "collation", "language", "procedural", "operator", "access"))
_ANYTHING = frozenset(("do", "call", "execute"))
_QUERIES = frozenset(("select", "with", "values", "table", "explain", ""))
_CHANGES = frozenset((*_QUERIES, "insert", "update", "delete", "merge", "copy"))
_CHANGE = re.compile(r"delete|update|merge", re.IGNORECASE)
_BEFORE_UPDATE = frozenset(("(", ")", "", "analyze", "analyse", "verbose"))
# Words before a ( that make no call, words before a word that make its ( none, and calls that lose nothing.
_NO_CALLS = """
all and any array as between by case cast check distinct else end except exists explain fetch filter first from
group having in interval intersect into is join lateral like limit materialized next not offset on only or order
over partition recursive returning row select set sets some table then union using values when where window with
within cube rollup grouping analyze verbose format"""
_BEFORE_NO_CALLS = frozenset(("as", "with", "recursive", "into", "::"))
_HARMLESS = """
abs array_agg array_length avg bool_and bool_or cardinality ceil clock_timestamp coalesce concat concat_ws count
current_database current_schema current_setting currval date_trunc extract floor format gen_random_uuid
generate_series greatest has_schema_privilege has_table_privilege json_agg json_build_object jsonb_agg
jsonb_build_object lastval least left length lower max md5 min nextval now nullif pg_advisory_lock
pg_advisory_unlock pg_advisory_xact_lock pg_get_serial_sequence pg_notify pg_sleep quote_ident quote_literal
quote_nullable replace right round row_number set_config setval string_agg substring sum to_char to_date to_json
to_jsonb to_regclass to_regproc to_regtype to_timestamp trim unnest upper version"""
_LOSES_NOTHING = frozenset(f"{_NO_CALLS} {_HARMLESS}".split())


def find_losses(statements: Iterable[Statement]) -> list[Loss]:
    """What these statements would drop or change, in order. The statements are one text's, as ``lexer.split`` has it.

    A name without a schema behind a statement that changes search_path is not ``certain``.
    """
    found: list[Loss] = []
    standard, moved = True, False
    for statement in statements:
        for loss in _losses_of(statement, standard):
            found.append(replace(loss, certain=False) if moved and not _is_sure(loss) else loss)
        standard = standard_strings_behind(statement.text, standard)
        moved = moved or _moves_search_path(statement)
    return found


def would_lose(counted: list[dict]) -> bool:
    """Whether rows would go or change, or may: an entry of ``loss_counts.count_losses`` has rows None or above 0."""
    return any(entry["rows"] is None or entry["rows"] > 0 for entry in counted)


def dropped_unannounced(before: list[str], after: list[str], announced: list[dict]) -> list[str]:
    """Names of the tables and columns that are gone though nobody announced it; columns of a lost table are not named.

    before, after: ``loss_counts.relations`` of the same database, before and after the down, in the same transaction
    or not. announced: what ``loss_counts.count_losses`` returned for it (key ``announces``). An entry is told by its
    identity, so a rename is no loss and a table that was made anew under the same name is one; entries that are
    nothing but a name are told by it. Losses of kind "unknown" announce nothing.
    """
    there = {_identity(entry) for entry in after}
    told = {
        way for loss in announced for entry in loss.get("announces") or () for way in (_identity(entry), _name(entry))
    }
    lost = {_identity(entry): _name(entry) for entry in before if _identity(entry) not in there}
    lost = {identity: name for identity, name in lost.items() if told.isdisjoint(_announced_by(identity, name))}
    return [name for identity, name in lost.items() if _table_of(identity) not in lost]


def _announced_by(identity: str, name: str) -> set[str]:
    """What announces an entry: its identity, its name, and those of its table."""
    return {identity, name, _table_of(identity), _table_of(name)} - {""}


def _identity(entry: str) -> str:
    found = _IDENTIFIED.fullmatch(entry)
    return found[1] if found else entry


def _name(entry: str) -> str:
    found = _IDENTIFIED.fullmatch(entry)
    return found[2] if found else entry


def _table_of(identity: str) -> str:
    """The table of a column by its identity; a table's own identity leads to nothing that is in a list."""
    return _LAST_PART.sub("", identity) if _LAST_PART.search(identity) else ""


def _is_sure(loss: Loss) -> bool:
    """Whether the name means the same with every search_path."""
    return loss.kind in ("schema", "extension") or "." in _QUOTED.sub("", loss.table)


def _moves_search_path(statement: Statement) -> bool:
    word = first_word(statement)
    if word not in ("set", "reset", "select", "with"):
        return word == "discard"
    text = canonical(statement.text).lower()
    return "search_path" in text or text == "reset all" or bool(_SET_SCHEMA.match(text))


def _losses_of(statement: Statement, standard: bool) -> Iterator[Loss]:
    word = first_word(statement)
    if word in _ANYTHING:
        yield _unknown(statement, statement.line)
        return
    schema_change = {"drop": _drop, "alter": _alter, "truncate": _truncate}.get(word)
    if schema_change:
        reader = Reader(statement, standard)
        try:
            yield from list(schema_change(reader))
        except NotUnderstood:
            yield _unknown(statement, statement.line)
    elif word in _QUERIES or (word in _CHANGES and _CHANGE.search(statement.text)):
        reader = Reader(statement, standard)
        yield from _changed_rows(reader)
        if word in _QUERIES and _calls_something(reader.tokens):
            yield _unknown(statement, statement.line)


def _unknown(statement: Statement, line: int) -> Loss:
    words = " ".join(statement.text[: 4 * _COMMAND_SHOWN].split())
    shown = words if len(words) <= _COMMAND_SHOWN else words[:_COMMAND_SHOWN] + "..."
    return Loss("unknown", "", None, line, certain=False, command=shown)


def _drop(reader: Reader) -> Iterator[Loss]:
    reader.skip("drop")
    kind = reader.peek().word
    if kind in ("table", "schema", "extension"):
        reader.position += 1
        reader.skip("if", "exists")
        for name, line in reader.names():
            if kind != "schema" or reader.cascade:
                yield Loss(kind, name, None, line, cascade=reader.cascade)
        reader.end()
    if kind == "owned" or (reader.cascade and kind in (*_HELD_BY_COLUMNS, "extension")):
        yield _unknown(reader.statement, reader.statement.line)


def _truncate(reader: Reader) -> Iterator[Loss]:
    reader.skip("truncate")
    reader.skip("table")
    while True:
        # "only" is reserved: it cannot be the table's name.
        only = reader.skip("only")
        name, line = reader.name()
        reader.skip("*")
        yield Loss("truncate", name, None, line, only=only, cascade=reader.cascade)
        if not reader.skip(","):
            break
    if not reader.skip("restart", "identity"):
        reader.skip("continue", "identity")
    reader.end()


def _alter(reader: Reader) -> Iterator[Loss]:
    reader.skip("alter")
    kind = reader.peek().word
    words = [token.word for token in reader.tokens]
    if (kind == "type" and "attribute" in words and ("drop" in words or words.count("type") > 1)) or (
        kind == "extension" and "update" in words
    ):
        yield _unknown(reader.statement, reader.statement.line)
    if kind != "table":
        return
    reader.position += 1
    reader.skip("if", "exists")
    only = reader.skip("only")
    table, _ = reader.name()
    reader.skip("*")
    while True:
        yield from _action(reader, table, only)
        reader.skip_action()
        if not reader.skip(","):
            return


def _action(reader: Reader, table: str, only: bool) -> Iterator[Loss]:
    """What one action of ALTER TABLE loses: DROP of a column, or another type for it."""
    if reader.skip("drop"):
        if reader.skip("constraint"):
            return
        reader.skip("column")
        reader.skip("if", "exists")
        column, line = reader.name()
        yield Loss("column", table, column, line, only=only, cascade=reader.peek().word == "cascade")
    elif reader.skip("alter"):
        reader.skip("column")
        column, line = reader.name()
        if reader.skip("type") or reader.skip("set", "data", "type"):
            yield Loss("type", table, column, line, only=only)


def _changed_rows(reader: Reader) -> Iterator[Loss]:
    """DELETE, UPDATE, MERGE and INSERT ... ON CONFLICT DO UPDATE, on their own or inside of WITH."""
    table, line, previous = "", 0, END
    while (token := reader.peek()) is not END:
        target = _target_begins(reader, previous)
        if target:
            try:
                table, line = reader.name()
            except NotUnderstood:
                yield _unknown(reader.statement, token.line)
                return
        if target in ("rows", "update"):
            yield Loss(target, table, None, line)
        elif previous.word in ("then", "do") and token.word in ("delete", "update"):
            yield Loss("rows" if token.word == "delete" else "update", table, None, line)
        previous = token
        reader.position += 0 if target else 1


def _target_begins(reader: Reader, previous: Token) -> str:
    """Step over the words before the name of a table that is written to; what happens to its rows, or "".

    "target" stands for INSERT and MERGE: what they change comes later.
    """
    before, found = previous.word or previous.text, ""
    if reader.skip("delete", "from"):
        found = "rows"
    elif reader.skip("insert", "into") or reader.skip("merge", "into"):
        found = "target"
    elif before in _BEFORE_UPDATE and reader.peek(1).is_name and reader.skip("update"):
        found = "update"
    if found:
        reader.skip("only")
    return found


def _calls_something(tokens: list[Token]) -> bool:
    """Whether a query calls a function that is not known to lose nothing."""
    before = END
    for number, (token, following) in enumerate(zip(tokens, tokens[1:])):
        if following.text == "(" and token.is_name and (before.word or before.text) not in _BEFORE_NO_CALLS:
            schema = tokens[number - 2].word if before.text == "." and number > 1 else "pg_catalog"
            if schema != "pg_catalog" or token.word not in _LOSES_NOTHING:
                return True
        before = token
    return False
