# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""One statement written so that nothing is left in it that cannot change its meaning, and its tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ansible_collections.habitat.runbook.plugins.module_utils import lexis

_NOISE = re.compile(rf"[{lexis.BLANKS}]+|--[^\n\r]*|/\*")
# A statement that holds none of these is canonical already; looking for them is far cheaper than lexing.
_SIGNS_OF_NOISE = ("\n", "  ", "--", "/*", "\t", "\r", "\f", "\v")


def canonical(text: str, standard: bool = True) -> str:
    """``text`` (one whole statement) with every stretch of comments and blanks written as one space.

    Quoted text stays as it is. Between two strings a stretch that holds a newline stays a newline,
    since only then PostgreSQL joins the strings into one ({quotecontinue} in psqlscan.l).
    ``standard`` is the standard_conforming_strings in force.
    """
    if not any(sign in text for sign in _SIGNS_OF_NOISE):
        return text
    next_event = lexis.events(standard=standard, gaps=True)
    pieces, copied, position = [], 0, 0
    while position < len(text):
        event = next_event(text, position)
        kind, position = event.lastindex, event.end()
        if kind in (lexis.TOKEN, lexis.COMMENT, lexis.BLOCK):
            start = event.start(kind)
            position, blank = _end_of_noise(text, start)
            pieces += [text[copied:start], blank]
            copied = position
        elif kind in lexis.STRINGS:
            for start, end in lexis.string_parts(text, event):
                if start > position:
                    pieces += [text[copied:position], "\n"]
                    copied = start
                position = end
        elif kind in lexis.QUOTED:
            position = lexis.end_of_quoted(text, event)
    pieces.append(text[copied:])
    return "".join(pieces).strip(lexis.BLANKS)


def _end_of_noise(text: str, position: int) -> tuple[int, str]:
    """Position behind the comments and blanks that begin at ``position``, and what stands for them."""
    start, newline, block = position, False, False
    while piece := _NOISE.match(text, position):
        position = piece.end()
        if piece.group() == "/*":
            block = True
            position = lexis.end_of_block(text, position)
        newline = newline or "\n" in piece.group() or "\r" in piece.group()
    between_strings = text[start - 1 : start] == "'" == text[position : position + 1]
    return position, "\n" if newline and between_strings and not block else " "


def tokens(text: str, standard: bool = True) -> Iterator[str]:
    """The tokens of one whole statement: words in lower case, quoted ones as written, no comments or blanks.

    Operators come one character at a time; that is enough to recognise commands.
    """
    next_token = lexis.single_tokens(standard=standard)
    position = 0
    while position < len(text):
        match = next_token(text, position)
        start, kind = position, match.lastindex
        quoted = kind in lexis.QUOTED
        position = lexis.end_of_quoted(text, match) if quoted or kind == lexis.BLOCK else match.end()
        if quoted:
            yield text[start:position]
        elif kind not in (lexis.COMMENT, lexis.BLOCK) and text[start] not in lexis.BLANKS:
            yield text[start:position].lower()
