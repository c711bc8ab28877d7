# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A failed statement as data: where it stands in which file, what the server said, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement

_STATEMENT_SHOWN = 400

_ADVICE = {
    "25001": "this cannot run in a transaction: put `-- migrate: transaction=false` at the top of the file",
    "2D000": "a COMMIT inside DO or a procedure needs `-- migrate: transaction=false` at the top of the file",
    "55P03": "another session holds the lock: end it (status.yml names long transactions) and run this again",
    "55P04": "a new enum value is usable after its commit only: put its use into the next migration",
    "57014": "raise statement_timeout for this file (`-- migrate: statement_timeout=30min`) or split it, "
    "unless somebody cancelled it",
    "42501": "the migrating role lacks a right: grant it, or run this statement once as a superuser",
}
"""What to do by SQLSTATE (PostgreSQL documentation, appendix A) where the server's own HINT says nothing."""


@dataclass
class Failure:
    """Why a migration failed. ``state`` is what it left behind: rolled_back, partial or unknown."""

    version: str
    file: str
    line: int
    column: int
    statement: str
    message: str
    state: str
    sqlstate: str | None = None
    detail: str | None = None
    hint: str | None = None
    context: str | None = None
    advice: str | None = None
    done: int | None = None
    total: int | None = None


def from_error(version: str, file: str, statement: Statement | None, error: psycopg.Error, state: str) -> Failure:
    """Turn psycopg's error into a Failure; a position in the statement becomes a line and column of the file."""
    diag = error.diag
    line, column = position(statement, diag.statement_position)
    return Failure(
        version=version,
        file=file,
        line=line,
        column=column,
        statement=shorten(statement.text) if statement else "",
        message=diag.message_primary or _lost(error),
        state=state,
        sqlstate=diag.sqlstate,
        detail=diag.message_detail,
        hint=diag.message_hint,
        context=diag.context,
        advice=None if diag.message_hint else _ADVICE.get(diag.sqlstate or ""),
    )


def _lost(error: psycopg.Error) -> str:
    """An error without a diagnosis comes from the client's side: there is no server to ask any more."""
    reason = " ".join(str(error).split())
    return f"the connection to the server was lost{': ' if reason else ''}{reason}"


def position(statement: Statement | None, character: str | int | None) -> tuple[int, int]:
    """Line and column in the file (1-based) of a 1-based character position in the statement's text."""
    if statement is None:
        return 1, 1
    if not character:
        return statement.line, statement.column
    before = statement.text[: int(character) - 1]
    lines = before.count("\n")
    if not lines:
        return statement.line, statement.column + len(before)
    return statement.line + lines, len(before) - before.rfind("\n")


def shorten(text: str) -> str:
    """A statement for the screen and the report: its beginning, never a megabyte of VALUES."""
    return text if len(text) <= _STATEMENT_SHOWN else text[:_STATEMENT_SHOWN].rstrip() + " ..."
