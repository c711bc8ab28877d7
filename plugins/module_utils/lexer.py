# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Split SQL text into the statements that ``psql -f`` would send.

Source: ``src/fe_utils/psqlscan.l`` and ``src/bin/psql/mainloop.c`` of PostgreSQL 17. Deliberate
differences: psql's meta-commands are refused; what psql sends although it is unfinished (an open
quote or parenthesis at the end of the file) is an error; and as the server does, but psql does not
(it reads line by line), an escape string that goes on in the next line stays an escape string and
``SET standard_conforming_strings`` counts from the next statement, not from the next line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ansible_collections.habitat.runbook.plugins.module_utils import lexis
from ansible_collections.habitat.runbook.plugins.module_utils.canonical import canonical, tokens
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement


class SqlError(ValueError):
    """SQL that cannot be split: where (``line`` and ``column``, 1-based) and why (``message``, one sentence)."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.column = column
        self.message = message


AtComment = Callable[[int], bool]
"""Called with the position of every ``--`` comment outside of a statement's quotes; True ends the input there."""

_GAP = lexis.matcher(rf"[{lexis.BLANKS};]*(--[^\n\r]*|/\*|\\)?")
_COMMAND = lexis.matcher(r"\\(?:[A-Za-z_]+|[^\n])?")
_DUMP_KEY = re.compile(r"\\(?:un)?restrict(?:[ \t][^\n]*)?(?![^\n])")
_REST_OF_LINE = re.compile(r"[ \t\f\v]*(?:--[^\n]*)?(?:\n|\Z)")
_END_OF_DATA = re.compile(r"^\\\.(?:\n|\Z)", re.MULTILINE)
# Words that begin a statement after which reading may go on differently.
_FIRST_WORD = re.compile(r"(copy|set|reset|discard)(?!" + lexis.CONT + ")", re.IGNORECASE | re.ASCII)
_SETTING = re.compile(
    r"set (?:(?:session|local) )?\"?standard_conforming_strings\"? ?(?:=|to) ?'?(\w+)'?"
    r"|reset (?:all|\"?standard_conforming_strings\"?)|discard all",
    re.IGNORECASE | re.ASCII,
)
_OPENED = {
    lexis.NAME: 'this " opens a quoted name that is never closed; add the closing "',
    lexis.DOLLAR: "this {0} opens a dollar-quoted text that is never closed; add the closing {0}",
    lexis.BLOCK: "this /* opens a comment that is never closed; add the closing */",
}
_STRING_OPENED = "this ' opens a string that is never closed; add the closing '"


def split(sql: str, first_line: int = 1) -> Iterator[Statement]:
    """Yield the statements of ``sql`` in order; ``first_line`` is the number of its first line.

    Line ends must be LF. Empty statements are left out. Raises SqlError, at the place where the
    trouble begins, for whatever is left open at the end, for psql meta-commands (``\\restrict`` and
    ``\\unrestrict``, which pg_dump writes, are skipped) and for NUL bytes.
    """
    return scan(sql, 0, first_line)


def scan(sql: str, start: int, first_line: int, at_comment: AtComment | None = None) -> Iterator[Statement]:
    """As :func:`split`, from ``start`` (where line ``first_line`` begins) until ``at_comment`` says stop."""
    scanner = _Scanner(sql, start, first_line, at_comment)
    line, line_start, counted = first_line, start, start
    position = scanner.gap(start)
    while position < len(sql):
        end, behind = scanner.statement(position)
        newlines = sql.count("\n", counted, position)
        if newlines:
            line += newlines
            line_start = sql.rfind("\n", counted, position) + 1
        counted = position
        text = sql[position:end]
        data = None
        if _FIRST_WORD.match(text):
            if is_copy_from_stdin(text, scanner.standard):
                data, behind = scanner.copy_data(behind)
            scanner.standard = standard_strings_behind(text, scanner.standard)
        yield Statement(text, line, position - line_start + 1, data)
        position = scanner.gap(behind)


class _Scanner:
    """Where gaps, statements and COPY data end in one text; ``standard`` is standard_conforming_strings."""

    def __init__(self, sql: str, start: int, first_line: int, at_comment: AtComment | None) -> None:
        self.sql, self.start, self.first_line = sql, start, first_line
        self.at_comment = at_comment or (lambda position: False)
        self.standard = True
        nul = sql.find("\0", start)
        if nul >= 0:
            raise self.error(nul, "a NUL byte, which PostgreSQL cannot store, stands here; remove it")

    def error(self, position: int, message: str) -> SqlError:
        line = self.first_line + self.sql.count("\n", self.start, position)
        line_start = max(self.sql.rfind("\n", self.start, position) + 1, self.start)
        return SqlError(line, position - line_start + 1, message)

    def gap(self, position: int) -> int:
        """Position of the next statement's first token; the text's length when there is none."""
        while True:
            match = _GAP(self.sql, position)
            opener, at, position = match.group(1), match.start(1), match.end()
            if opener is None:
                return position
            if opener == "\\":
                position = self.end_of_dump_key(at)
            elif opener == "/*":
                position = self.end_of_quoted(lexis.events(standard=True)(self.sql, at))
            elif self.at_comment(at):
                return len(self.sql)

    def end_of_dump_key(self, position: int) -> int:
        key = _DUMP_KEY.match(self.sql, position)
        if not key:
            raise self.meta_command(position)
        return key.end()

    def meta_command(self, position: int) -> SqlError:
        name = _COMMAND(self.sql, position).group().rstrip(lexis.BLANKS)
        if name == "\\.":
            return self.error(position, "\\. ends COPY data, but no COPY ... FROM stdin stands before it; remove it")
        return self.error(position, f"psql's {name} is not SQL and cannot run in a migration; write it as SQL")

    def end_of_quoted(self, event: re.Match[str]) -> int:
        end = lexis.end_of_quoted(self.sql, event)
        if not end:
            kind = event.lastindex or 0
            message = _OPENED.get(kind, _STRING_OPENED).format(event.group(kind))
            raise self.error(event.start(kind), message)
        return end

    def statement(self, position: int) -> tuple[int, int]:
        """Position behind the last token of the statement that begins here, and position behind its ``;``."""
        sql, reading = self.sql, _Reading(position, len(self.sql))
        creates = sql[position : position + 6].lower() == "create"
        next_event = lexis.events(standard=self.standard, words=creates)
        while True:
            event = next_event(sql, position)
            kind = event.lastindex
            if kind == lexis.OPEN:
                reading.parentheses.append(event.end() - 1)
            elif kind == lexis.CLOSE:
                if reading.parentheses:
                    reading.parentheses.pop()
            elif kind == lexis.SEMICOLON:
                if not reading.parentheses and not reading.blocks:
                    return reading.last_token(sql, event.end() - 1), event.end()
            elif kind is not None:
                position = self.other_event(event, kind, reading)
                continue
            elif event.end() == position:
                self.check_closed(reading)
                return reading.last_token(sql, reading.end), len(sql)
            position = event.end()

    def other_event(self, event: re.Match[str], kind: int, reading: _Reading) -> int:
        """Position behind what begins with ``event``; the text's length when the input ends here."""
        start = event.start(kind)
        if kind == lexis.TOKEN:
            reading.add_word(event.group(kind), start)
            return event.end()
        if kind == lexis.BACKSLASH:
            raise self.meta_command(start)
        if kind == lexis.COMMENT:
            if self.at_comment(start):
                reading.end = start
                return len(self.sql)
            reading.add_comment(self.sql, start, event.end())
            return event.end()
        end = self.end_of_quoted(event)
        if kind == lexis.BLOCK:
            reading.add_comment(self.sql, start, end)
        return end

    def check_closed(self, reading: _Reading) -> None:
        if reading.parentheses:
            raise self.error(reading.parentheses[-1], "this ( is never closed; add the closing )")
        if reading.blocks:
            raise self.error(reading.blocks[-1], "this routine body has no END; add END; behind its last statement")

    def copy_data(self, position: int) -> tuple[str, int]:
        """The data behind a COPY that ends at ``position``, and the position behind the data."""
        rest = _REST_OF_LINE.match(self.sql, position)
        if not rest:
            message = "COPY's data begins on the line behind it; move what follows the ; to a line behind the data"
            raise self.error(position, message)
        end = _END_OF_DATA.search(self.sql, rest.end())
        if not end:
            return self.sql[rest.end() :], len(self.sql)
        return self.sql[rest.end() : end.start()], end.end()


class _Reading:
    """A statement that is being read: what is open in it (positions), its first words, the comments at its end."""

    __slots__ = ("blocks", "comments_end", "comments_start", "end", "head", "parentheses", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.parentheses: list[int] = []
        self.blocks: list[int] = []
        self.head: list[str] = []
        self.comments_start = self.comments_end = -1

    def add_word(self, word: str, position: int) -> None:
        """psql's way of telling that a ``;`` stands in a BEGIN ATOMIC ... END body ({identifier} in psqlscan.l)."""
        word = word.lower()
        if len(self.head) < 4:
            self.head.append(word)
        kind = self.head[3:] if self.head[1:3] == ["or", "replace"] else self.head[1:2]
        if self.parentheses or kind not in (["function"], ["procedure"]):
            return
        if word == "begin" or (word == "case" and self.blocks):
            self.blocks.append(position)
        elif word == "end" and self.blocks:
            self.blocks.pop()

    def add_comment(self, sql: str, start: int, end: int) -> None:
        if self.comments_start < 0 or sql[self.comments_end : start].strip(lexis.BLANKS):
            self.comments_start = start
        self.comments_end = end

    def last_token(self, sql: str, end: int) -> int:
        """Position behind the statement's last token when the statement, perhaps with comments, ends at ``end``."""
        if self.comments_start >= 0 and not sql[self.comments_end : end].strip(lexis.BLANKS):
            end = self.comments_start
        while sql[end - 1] in lexis.BLANKS:
            end -= 1
        return end


def is_copy_from_stdin(text: str, standard: bool = True) -> bool:
    """Whether the statement ``text`` reads its data from the lines behind it; FROM STDOUT does so too (gram.y)."""
    first = _FIRST_WORD.match(text)
    if not first or first.group(1).lower() != "copy":
        return False
    depth, previous = 0, ""
    for token in tokens(text, standard):
        if depth == 0 and previous == "from" and token in ("stdin", "stdout"):
            return True
        depth += {"(": 1, ")": -1}.get(token, 0)
        previous = token
    return False


def standard_strings_behind(text: str, standard: bool) -> bool:
    """What standard_conforming_strings is for the statements behind the statement ``text``."""
    setting = _SETTING.fullmatch(canonical(text, standard)) if _FIRST_WORD.match(text) else None
    if not setting:
        return standard
    value = (setting.group(1) or "on").lower()
    return not any(word.startswith(value) for word in ("off", "false", "no", "0"))
