# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Cut the text of a migration at its marker lines: ``-- Up migration``, ``-- Down migration``, ``-- Verify``."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ansible_collections.habitat.runbook.plugins.module_utils.lexer import SqlError, scan
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement

MARKERS = {"up": "-- Up migration", "down": "-- Down migration", "verify": "-- Verify"}

_FLAGS = re.IGNORECASE | re.ASCII | re.MULTILINE
_MARKER = re.compile(r"--[ \t]*(?:(up|down)[ \t]+migration|(verify))[ \t]*(?:\([^()\n]*\))?[ \t]*$", _FLAGS)
_MARKER_LINE = re.compile(rf"^[ \t]*{_MARKER.pattern}", _FLAGS)
_LIKE_A_MARKER = re.compile(
    r"--[-=*# \t]*(?:(?:migration|migrate|section)[ \t]+)?(up|down|rollback|roll back|undo|revert)"
    r"(?:[ \t]+(?:migrations?|section|script))?[-=*# \t:.]*(?:\([^()\n]*\))?[-=*# \t:.]*$",
    _FLAGS,
)
_DIRECTIVE = re.compile(r"--[ \t]*migrate:[ \t]*([^\n]*)", _FLAGS)
_FOREIGN = (
    (re.compile(r"--[ \t]*(migrate:(?:up|down))(?![^\s])", _FLAGS), "dbmate"),
    (re.compile(r"--[ \t]*(\+goose[ \t]+[a-z]+(?:[ \t]+[a-z]+)?)", _FLAGS), "goose"),
    (re.compile(r"-{2,}[ \t]*(create above / drop below)", _FLAGS), "tern"),
)
_INSTEAD = {
    "migrate:up": f"write {MARKERS['up']}",
    "migrate:down": f"write {MARKERS['down']}",
    "+goose up": f"write {MARKERS['up']}",
    "+goose down": f"write {MARKERS['down']}",
    "+goose no transaction": "write -- migrate: transaction=false",
    "create above / drop below": f"write {MARKERS['down']}",
}


@dataclass(frozen=True)
class Section:
    """A stretch of a migration's text: ``text`` begins with line ``line`` of the file, the one behind the marker.

    ``statements`` is what the text holds; when it cannot be split, ``error`` says why and they are empty.
    """

    line: int
    text: str
    statements: tuple[Statement, ...]
    error: SqlError | None = None


@dataclass
class Sections:
    """The sections of one file by kind ("header", "up", "down", "verify") and what was noticed on the way.

    ``directives`` are the texts behind ``-- migrate:``; they, ``problems`` and ``warnings`` come as (line, text).
    A file without an Up marker has its up in front of the first marker and no header.
    """

    by_kind: dict[str, Section] = field(default_factory=dict)
    directives: list[tuple[int, str]] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)
    warnings: list[tuple[int, str]] = field(default_factory=list)


def read_sections(sql: str, kind: str = "header") -> Sections:
    """Find the sections of a file's text, which begins as ``kind``: "header", or "down" for a down file.

    Reading ends at the first thing that makes no sense.
    """
    found = Sections()
    start, line = 0, 1
    while True:
        notes = _Notes(sql, start, line, kind)
        section = _read_section(sql, start, line, notes)
        found.by_kind[kind] = section
        found.directives += notes.directives
        found.problems += notes.problems
        found.warnings += notes.warnings
        if section.error:
            _report_error(found, kind, section, section.error)
            break
        if notes.marker is None:
            _check_copy_end(found, section)
            break
        line += sql.count("\n", start, notes.marker_end) + 1
        kind, start = notes.marker, notes.marker_end + 1
        if kind in found.by_kind and not (notes.section_start == 0 and not section.statements):
            found.problems.append((line - 1, f"a second {MARKERS[kind]} line; a file has one section of a kind"))
            break
    _settle_header(found)
    return found


def _read_section(sql: str, start: int, line: int, notes: _Notes) -> Section:
    try:
        statements = tuple(scan(sql, start, line, notes.at_comment))
    except SqlError as error:
        return Section(line, sql[start:], (), error)
    return Section(line, sql[start : notes.marker_start], statements)


class _Notes:
    """What the comments of one section say; ``marker`` is the kind of the next section, whose marker line ends it."""

    def __init__(self, sql: str, start: int, line: int, kind: str) -> None:
        self.sql, self.section_start, self.line, self.kind = sql, start, line, kind
        self.marker: str | None = None
        self.marker_start = self.marker_end = len(sql)
        self.directives: list[tuple[int, str]] = []
        self.problems: list[tuple[int, str]] = []
        self.warnings: list[tuple[int, str]] = []

    def at_comment(self, position: int) -> bool:
        """Read the comment at ``position``; True when it is a marker line."""
        line_start = self.sql.rfind("\n", 0, position) + 1
        alone = not self.sql[line_start:position].strip(" \t")
        marker = _MARKER.match(self.sql, position)
        if marker and alone:
            self.marker = (marker.group(1) or marker.group(2)).lower()
            self.marker_start, self.marker_end = line_start, marker.end()
            return True
        like = _LIKE_A_MARKER.match(self.sql, position) if self.kind in ("header", "up") else None
        foreign = self._foreign(position)
        directive = _DIRECTIVE.match(self.sql, position)
        if foreign:
            self.problems.append((self._line(position), foreign))
        elif directive:
            self._directive(directive, alone)
        elif like:
            kind = "up" if like.group(1).lower() == "up" else "down"
            text = f"this comment is no marker; if the {kind} section begins here, the line must be {MARKERS[kind]}"
            self.warnings.append((self._line(position), text))
        return False

    def _line(self, position: int) -> int:
        return self.line + self.sql.count("\n", self.section_start, position)

    def _foreign(self, position: int) -> str:
        for pattern, tool in _FOREIGN:
            match = pattern.match(self.sql, position)
            if match:
                words = " ".join(match.group(1).lower().split())
                found = next((text for prefix, text in _INSTEAD.items() if words.startswith(prefix)), "remove it")
                return f"-- {match.group(1)} is {tool}'s marker and means nothing here; {found}"
        return ""

    def _directive(self, match: re.Match[str], alone: bool) -> None:
        line = self._line(match.start())
        if self.kind in ("down", "verify"):
            section = MARKERS[self.kind]
            self.problems.append((line, f"-- migrate: stands behind {section}; it is about the whole file: move it up"))
        elif not alone:
            self.problems.append((line, "-- migrate: stands behind SQL; give it a line of its own"))
        else:
            self.directives.append((line, match.group(1).strip()))


def _report_error(found: Sections, kind: str, section: Section, error: SqlError) -> None:
    """An error is a problem, but in a down section only if it may hide the sections behind it."""
    if kind != "down":
        found.problems.append((error.line, error.message))
        return
    hidden = _MARKER_LINE.search(section.text)
    if hidden:
        line = section.line + section.text.count("\n", 0, hidden.start())
        message = f"{error.message} (first of all: until then nobody can tell whether line {line} is a marker)"
        found.problems.append((error.line, message))


def _check_copy_end(found: Sections, section: Section) -> None:
    last = section.statements[-1] if section.statements else None
    hidden = _MARKER_LINE.search(last.copy_data) if last and last.copy_data else None
    if last and hidden and not section.text.rstrip().endswith("\\."):
        found.problems.append((last.line, "the data of this COPY runs over a marker line; end it with a line \\."))


def _settle_header(found: Sections) -> None:
    """Without an Up marker what stands before the first marker is the up section."""
    header = found.by_kind.get("header")
    if header is None:
        return
    if "up" not in found.by_kind:
        found.by_kind["up"] = found.by_kind.pop("header")
    elif header.statements:
        message = f"SQL stands before the {MARKERS['up']} line; move it behind that line"
        found.problems.append((header.statements[0].line, message))
