# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Read one migration file: its sections, directives, statements, checksum, and whatever is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ansible_collections.habitat.runbook.plugins.module_utils.canonical import canonical
from ansible_collections.habitat.runbook.plugins.module_utils.commands import (
    closes_transaction,
    needs_no_transaction,
    opens_transaction,
    transaction_control,
)
from ansible_collections.habitat.runbook.plugins.module_utils.directives import Directives, read_directives
from ansible_collections.habitat.runbook.plugins.module_utils.down_section import Down, read_down
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import (
    Statement,
    standard_strings_behind,
)
from ansible_collections.habitat.runbook.plugins.module_utils.sections import MARKERS, Section, Sections, read_sections

__all__ = ["Down", "Migration", "Problem", "Source", "needs_no_transaction", "read_migration"]

_REFUSED_CHARACTERS = {
    "\0": "a NUL byte, which PostgreSQL cannot store, stands here; remove it",
    "\r": "a carriage return without a newline stands here; end lines with LF, and in a string write E'\\r'",
}
_ONE_TRANSACTION = (
    "a migration is one transaction, or BEGIN first and COMMIT last; remove it, or add -- migrate: transaction=false"
)
_VERIFY_RUNS = "which runs inside the migration's transaction"
_ADD_DOWN = f'add {MARKERS["down"]}, or -- migrate: irreversible="why"'


@dataclass(frozen=True)
class Problem:
    """Something wrong in a file, ``line`` 0 standing for the whole file or folder; str() is what people see."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


@dataclass(frozen=True)
class Migration:
    """One migration.

    ``version`` is its number as text, zeros kept; ``file`` the path to show to people. ``mode`` is
    "transaction" (all in one), "steps" (something in it cannot run in a transaction) or "as_written"
    (``transaction=false``). ``begin`` opens the transaction: BEGIN, or the file's own text. ``up`` comes
    without the file's own enclosing BEGIN and COMMIT in mode "transaction". Timeouts are texts as in
    the directive ("5s") or None. ``warnings`` are texts that begin with the file (and line).
    """

    version: str
    name: str
    file: str
    checksum: str
    mode: str
    begin: str
    up: tuple[Statement, ...]
    verify: tuple[Statement, ...]
    down: Down
    lock_timeout: str | None
    statement_timeout: str | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A file as found: ``file`` is the path to show to people, ``content`` its bytes."""

    file: str
    content: bytes


class _Unreadable(Exception):
    def __init__(self, source: Source, line: int, message: str) -> None:
        self.problem = Problem(source.file, line, message)


def read_migration(
    version: str, name: str, source: Source, down_source: Source | None
) -> tuple[Migration | None, list[Problem]]:
    """The migration in ``source`` and its ``NN_name.down.sql``; or None and all that is wrong with it."""
    try:
        sections = read_sections(_text(source))
        down_file = read_sections(_text(down_source), "down") if down_source else None
    except _Unreadable as unreadable:
        return None, [unreadable.problem]
    settings = read_directives(sections.directives)
    faults = sections.problems + settings.problems
    faults += _down_faults(sections, settings, down_source is not None)
    problems = [Problem(source.file, line, text) for line, text in faults]
    if down_source and down_file:
        problems += [Problem(down_source.file, line, text) for line, text in _down_file_faults(down_file)]
    if problems:
        return None, sorted(problems, key=lambda problem: (problem.file, problem.line))
    up, verify = sections.by_kind["up"], sections.by_kind.get("verify")
    plan = _plan(up.statements, settings.transaction)
    faults = plan.faults + _verify_faults(verify)
    if faults:
        return None, [Problem(source.file, line, text) for line, text in faults]
    down, warning = _down((down_file or sections).by_kind.get("down"), settings, (down_source or source).file)
    warnings = [str(Problem(source.file, line, text)) for line, text in sections.warnings]
    migration = Migration(
        version=version,
        name=name,
        file=source.file,
        checksum=_checksum(up.statements, settings.transaction),
        mode=plan.mode,
        begin=plan.begin,
        up=plan.statements,
        verify=verify.statements if verify else (),
        down=down,
        lock_timeout=settings.lock_timeout,
        statement_timeout=settings.statement_timeout,
        warnings=(*warnings, *warning),
    )
    return migration, []


def _text(source: Source) -> str:
    """The file as text: UTF-8, without byte order mark, line ends LF, so that what is run is what is hashed."""
    content = source.content
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Unreadable(source, 1, "the file is UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _Unreadable(
            source, line, f"byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    for character, message in _REFUSED_CHARACTERS.items():
        position = text.find(character)
        if position >= 0:
            raise _Unreadable(source, text.count("\n", 0, position) + 1, message)
    return text


class _Plan(NamedTuple):
    """How the up section runs; ``faults`` are (line, message)."""

    mode: str
    begin: str
    statements: tuple[Statement, ...]
    faults: list[tuple[int, str]]


def _plan(statements: tuple[Statement, ...], transaction: bool | None) -> _Plan:
    if transaction is False:
        return _Plan("as_written", "BEGIN", statements, [])
    own = len(statements) > 1 and opens_transaction(statements[0]) and closes_transaction(statements[-1])
    begin = canonical(statements[0].text) if own else "BEGIN"
    inner = statements[1:-1] if own else statements
    faults = [
        (statement.line, f"{transaction_control(statement)} cannot stand here: {_ONE_TRANSACTION}")
        for statement in inner
        if transaction_control(statement)
    ]
    alone = [statement for statement in inner if needs_no_transaction(statement)]
    if own or transaction:
        why = "the file's own BEGIN ... COMMIT" if own else "-- migrate: transaction=true"
        faults += [(one.line, f"{_shown(one)} cannot run in a transaction; remove it or {why}") for one in alone]
    return _Plan("steps" if alone else "transaction", begin, inner, sorted(faults))


def _shown(statement: Statement) -> str:
    words = canonical(statement.text).split(" ")
    return " ".join(words[:4]) + (" ..." if len(words) > 4 else "")


def _verify_faults(verify: Section | None) -> list[tuple[int, str]]:
    faults = []
    for statement in verify.statements if verify else ():
        command = transaction_control(statement)
        if command or needs_no_transaction(statement):
            message = f"{command or _shown(statement)} cannot stand in the verify section, {_VERIFY_RUNS}; remove it"
            faults.append((statement.line, message))
    return faults


def _down_faults(sections: Sections, settings: Directives, separate: bool) -> list[tuple[int, str]]:
    section = sections.by_kind.get("down")
    if section and separate:
        return [(section.line - 1, "the file has a down section and a .down.sql file beside it; keep one of the two")]
    if settings.irreversible is None or not (section or separate):
        return []
    line = section.line - 1 if section else 0
    return [(line, "irreversible is declared, yet there is a down; remove one of the two")]


def _down_file_faults(sections: Sections) -> list[tuple[int, str]]:
    extra = [
        (section.line - 1, f"a down file has no {MARKERS[kind]} section; move it to the migration's file")
        for kind, section in sections.by_kind.items()
        if kind != "down"
    ]
    return sections.problems + extra


def _down(section: Section | None, settings: Directives, file: str) -> tuple[Down, list[str]]:
    if settings.irreversible is not None:
        return Down("irreversible", "", settings.irreversible), []
    down, line = read_down(section)
    if down.state == "ok":
        return replace(down, file=file), []
    what = (
        f"the down section cannot be used: {down.reason}" if down.state == "broken" else f"{down.reason}; {_ADD_DOWN}"
    )
    return down, [str(Problem(file, line, what))]


def _checksum(statements: Sequence[Statement], transaction: bool | None) -> str:
    """SHA-256 of what the up section means: its canonical statements, its COPY data, whether it is one transaction."""
    digest = hashlib.sha256(b"as written\0" if transaction is False else b"transaction\0")
    standard = True
    for statement in statements:
        digest.update(f"{canonical(statement.text, standard)}\0{statement.copy_data or ''}\0".encode())
        standard = standard_strings_behind(statement.text, standard)
    return digest.hexdigest()
