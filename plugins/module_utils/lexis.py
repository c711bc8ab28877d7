# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The lexical rules of SQL as psql knows them: one regular expression that jumps from event to event.

Source of every rule: ``src/fe_utils/psqlscan.l`` of PostgreSQL 17 (a copy of the server's own
``scan.l`` plus what psql needs to find the end of a statement). Rule names in comments are names
of that file.
"""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Callable
from typing import cast

BLANKS = " \t\n\r\f\v"
"""{space}. Never use ``str.strip()`` or ``\\s`` on SQL: they know Unicode blanks, which to PostgreSQL are letters."""


def _but(ascii_characters: str) -> str:
    """A class of everything but these: a class with ranges of Unicode would take Python milliseconds to compile."""
    return f"[^{re.escape(ascii_characters)}]"


_ASCII = "".join(map(chr, range(128)))
_LETTERS = string.ascii_letters + "_"
# {ident_start} and {ident_cont}: every character beyond ASCII is a letter. {dolq_cont} is {ident_cont} without the $.
START = _but("".join(one for one in _ASCII if one not in _LETTERS))
_TAG = _but("".join(one for one in _ASCII if one not in _LETTERS + string.digits))
CONT = _but("".join(one for one in _ASCII if one not in _LETTERS + string.digits + "$"))
_WORD = f"{START}{CONT}*"
# integer_junk, numeric_junk, real_junk: letters that directly follow a number belong to it. realfail: so does the sign
# in `1e-`, even if a comment seems to begin there. `1..10` is two numbers.
_FRACTION = r"(?:\.(?!\.)[0-9]*)?"
_NUMBER = (
    rf"[0-9]+(?:(?:_[0-9]+)*{_FRACTION}[eE][-+](?:[0-9]+(?:{_WORD})?)?"
    rf"|{_FRACTION}(?:{_WORD})?)"
)
_PARAMETER = rf"\$[0-9]+(?:{_WORD})?"
_VARIABLE = f"::|:{_TAG}*"
_EVENTFUL = _LETTERS + string.digits + "'\"$();\\:/-"

# A cap on repetitions keeps the memory of the regular expression engine flat on huge statements.
_CAP = 200

SEMICOLON, OPEN, CLOSE, ESCAPE_STRING, BIT_STRING, STRING, NAME, DOLLAR, COMMENT, BLOCK, BACKSLASH, TOKEN = range(1, 13)
"""Numbers of the groups in the patterns below; ``match.lastindex`` is one of them, or None for plain text.

TOKEN is a word where words are events, and a gap (blanks, not a lone space) where gaps are.
"""
STRINGS = frozenset((ESCAPE_STRING, BIT_STRING, STRING))
QUOTED = STRINGS | {NAME, DOLLAR}

Matcher = Callable[[str, int], "re.Match[str]"]
"""``pattern.match`` of a pattern that matches at every position of every text."""


@functools.cache
def matcher(*alternatives: str) -> Matcher:
    """A matcher of the first of the alternatives that fits (empty ones left out)."""
    return cast(Matcher, re.compile("|".join(filter(None, alternatives))).match)


def _groups(standard: bool) -> list[str]:
    return [
        "(;)",
        r"(\()",
        r"(\))",
        "([eE]')" if standard else "([eE]?')",
        "([bBxX]')",
        "((?:[uU]&)?')",
        '((?:[uU]&)?")',
        rf"(\$(?:{START}{_TAG}*)?\$)",
        r"(--[^\n\r]*)",
        r"(/\*)",
        r"(\\)",
    ]


@functools.cache
def events(*, standard: bool, words: bool = False, gaps: bool = False) -> Matcher:
    """A matcher whose every match is a run of plain text and, behind it, the start of one event.

    ``standard`` is ``standard_conforming_strings``; with it off a plain quote starts an escape
    string. With ``words`` every unquoted word is an event, with ``gaps`` every stretch of blanks
    that is not one single space. Must be used from a token's start; matches the empty text at the
    end of input only. Quotes that end where they seem to are plain text, no event.
    """
    eventful = _EVENTFUL + (BLANKS if gaps else "")
    plain = [
        f"[{re.escape(''.join(one for one in _ASCII if one not in eventful))}]+",
        # Not before a quote: E'...' and U&"..." are one token. Its first part stops backtracking.
        "" if words else rf"{_WORD}(?!{CONT}|'|&['\"])",
        _NUMBER,
        "'[^']*'(?!')" if standard else "",
        '"[^"]*"(?!")',
        "-(?!-)",
        r"/(?!\*)",
        _VARIABLE,
        _PARAMETER,
        f" (?![{BLANKS}]|--|/\\*)" if gaps else "",
    ]
    token = f"({_WORD})" if words else f"([{BLANKS}]+)" if gaps else ""
    found = [*_groups(standard), token, _WORD, r"\$"]
    return matcher(f"(?:{'|'.join(filter(None, plain))}){{0,{_CAP}}}(?:{'|'.join(filter(None, found))})?")


@functools.cache
def single_tokens(*, standard: bool) -> Matcher:
    """A matcher of one token (of a quoted one or a block comment: its opening), or of one run of blanks."""
    others = [_WORD, _NUMBER, _PARAMETER, _VARIABLE, f"[{BLANKS}]+", r"[\d\D]"]
    return matcher(*_groups(standard), *others)


_ESCAPED = re.compile(r"\\.|''|'", re.DOTALL)
# {quotecontinue}: the string goes on behind blanks (and line comments) that hold a newline.
_CONTINUED = re.compile(r"(?:[ \t\f\v]|--[^\n\r]*)*[\n\r](?:[ \t\n\r\f\v]|--[^\n\r]*[\n\r])*'")
_BLOCK_EDGE = re.compile(r"/\*|\*/")


def _end_of_doubled(sql: str, position: int, quote: str) -> int:
    while True:
        found = sql.find(quote, position)
        if found < 0 or not sql.startswith(quote, found + 1):
            return found + 1
        position = found + 2


def _end_of_escaped(sql: str, position: int) -> int:
    for match in _ESCAPED.finditer(sql, position):
        if match.group() == "'":
            return match.end()
    return 0


def _end_of_part(sql: str, position: int, kind: int) -> int:
    if kind == ESCAPE_STRING:
        return _end_of_escaped(sql, position)
    if kind == BIT_STRING:
        return sql.find("'", position) + 1
    return _end_of_doubled(sql, position, "'")


def string_parts(sql: str, event: re.Match[str]) -> list[tuple[int, int]]:
    """Start and end of each part of the string ``event`` opens ({quotecontinue} joins them); empty if it never ends."""
    kind = event.lastindex or STRING
    parts, start, position = [], event.start(kind), event.end()
    while True:
        end = _end_of_part(sql, position, kind)
        if not end:
            return []
        parts.append((start, end))
        continued = _CONTINUED.match(sql, end)
        if not continued:
            return parts
        start, position = continued.end() - 1, continued.end()


def end_of_block(sql: str, position: int) -> int:
    """Position behind the block comment whose opening ends at ``position``; 0 if it never ends. They nest."""
    depth = 1
    for edge in _BLOCK_EDGE.finditer(sql, position):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return 0


def end_of_quoted(sql: str, event: re.Match[str]) -> int:
    """Position behind the quoted text or block comment that ``event`` opens; 0 if it never ends."""
    kind, position = event.lastindex, event.end()
    if kind in STRINGS:
        parts = string_parts(sql, event)
        return parts[-1][1] if parts else 0
    if kind == NAME:
        return _end_of_doubled(sql, position, '"')
    if kind == BLOCK:
        return end_of_block(sql, position)
    tag = event.group(DOLLAR)
    found = sql.find(tag, position)
    return found + len(tag) if found >= 0 else 0
