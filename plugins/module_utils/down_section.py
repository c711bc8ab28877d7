# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How to take a migration back: the executable form of its down section, or why there is none.

Nothing that is not SQL may ever be executed. SQL that stands in the section as SQL is taken as it is,
and comments stay comments. A section of nothing but comments is taken as commented-out SQL only if,
with one ``-- `` stripped from each line, it can be split, every statement begins as a PostgreSQL
command does (see synopsis.py) and every statement, the last one too, ends with ``;``. One line of prose
that is not still a comment after stripping fails that, and the whole section counts as no down.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ansible_collections.habitat.runbook.plugins.module_utils.commands import (
    closes_transaction,
    is_plain_begin,
    needs_no_transaction,
    opens_transaction,
    transaction_control,
)
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import SqlError, split
from ansible_collections.habitat.runbook.plugins.module_utils.sections import Section
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement
from ansible_collections.habitat.runbook.plugins.module_utils.synopsis import reads_as_sql

_COMMENTED = re.compile(r"^[ \t]*-- ?", re.MULTILINE)
_SHOWN = 40


@dataclass(frozen=True)
class Down:
    """How a migration is taken back.

    ``state``: "ok" (``sql`` can be executed), "none", "irreversible" (declared) or "broken" (there is a
    section, but it cannot be used). ``sql`` is "" unless ok; ``reason`` says in one clause why it is not.
    ``file`` and ``line`` are where ``sql`` begins; its statements are as many lines apart as they are there.
    """

    state: str
    sql: str
    reason: str
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)


def read_down(section: Section | None) -> tuple[Down, int]:
    """The down of a migration, and for a broken one the line of what is wrong (else the section's, or 0)."""
    if section is None:
        return Down("none", "", "no down section"), 0
    try:
        if section.error:
            raise section.error
        sql, line = _executable(section.statements or _uncomment(section))
    except SqlError as error:
        return Down("broken", "", error.message), error.line
    if not sql:
        return Down("none", "", "the down section is empty"), section.line
    return Down("ok", sql, "", line=line), section.line


def _uncomment(section: Section) -> tuple[Statement, ...]:
    text = _COMMENTED.sub("", section.text)
    statements = tuple(split(text, section.line))
    for statement in statements:
        if not reads_as_sql(statement):
            shown = " ".join(statement.text.split())
            shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
            message = f'the commented text is not SQL ("{shown}"); comment prose twice (-- --), or correct it'
            raise SqlError(statement.line, statement.column, message)
    # A word behind the last statement becomes part of it unless a ; stands between.
    if statements and len(list(split(f"{text}\nselect", section.line))) == len(statements):
        last = statements[-1]
        raise SqlError(last.line, last.column, "the commented SQL does not end with ;, so it may be prose; add the ;")
    return statements


def _executable(statements: Sequence[Statement]) -> tuple[str, int]:
    """The text to run, and the line of its beginning."""
    own_transaction = len(statements) > 1 and opens_transaction(statements[0]) and closes_transaction(statements[-1])
    if own_transaction:
        _check_own_transaction(statements)
        statements = statements[1:-1]
    for statement in statements:
        command = transaction_control(statement)
        if command:
            message = f"{command} cannot stand in a down section, which runs in a transaction of its own; remove it"
            raise SqlError(statement.line, statement.column, message)
    text, line = "", statements[0].line if statements else 0
    for statement in statements:
        gap = statement.line - line - text.count("\n")
        # What stands behind a COPY block has to begin a line.
        between = "\n" * gap or ("\n" if text.endswith("\\.") else " ")
        text += (between if text else "") + _written(statement)
    return text, line


def _check_own_transaction(statements: Sequence[Statement]) -> None:
    begin = statements[0]
    if not is_plain_begin(begin):
        message = f'"{begin.text}" has options, which a down section cannot have; write BEGIN'
        raise SqlError(begin.line, begin.column, message)
    for statement in statements:
        if needs_no_transaction(statement):
            message = "this statement cannot run between BEGIN and COMMIT; remove these two"
            raise SqlError(statement.line, statement.column, message)


def _written(statement: Statement) -> str:
    if statement.copy_data is None:
        return statement.text + ";"
    data = statement.copy_data
    if data and not data.endswith("\n"):
        data += "\n"
    return f"{statement.text};\n{data}\\."
