# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Read the tokens of one statement from left to right: words, signs and names as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ansible_collections.habitat.runbook.plugins.module_utils import lexis
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement


class NotUnderstood(Exception):
    """A statement that is built otherwise than the manual says."""


class Token(NamedTuple):
    """``text`` as written, ``word`` in lower case (ASCII only, as PostgreSQL folds) or "" when it is no plain word."""

    text: str
    word: str
    line: int
    is_name: bool


END = Token("", "", 0, False)
_PLAIN_WORD = re.compile(rf"{lexis.START}{lexis.CONT}*")
_UPPER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


class Reader:
    """Where reading of one statement has come to.

    ``standard`` is the standard_conforming_strings in force; ``cascade``: the statement's last word is CASCADE.
    """

    def __init__(self, statement: Statement, standard: bool) -> None:
        self.statement = statement
        self.tokens = list(_tokens(statement, standard))
        self.position = 0
        self.cascade = bool(self.tokens) and self.tokens[-1].word == "cascade"

    def peek(self, ahead: int = 0) -> Token:
        place = self.position + ahead
        return self.tokens[place] if place < len(self.tokens) else END

    def skip(self, *words: str) -> bool:
        """Step over these words or signs if they come next."""
        fits = all((self.peek(n).word or self.peek(n).text) == word for n, word in enumerate(words))
        self.position += len(words) if fits else 0
        return fits

    def name(self) -> tuple[str, int]:
        """A name, perhaps with others and dots before it, as SQL text, and its line; U&"..." without its escapes.

        Raises NotUnderstood when something else stands here.
        """
        line, parts = self.peek().line, [self._part()]
        while self.skip("."):
            parts.append(self._part())
        return ".".join(parts), line

    def _part(self) -> str:
        token = self.peek()
        if not token.is_name:
            raise NotUnderstood
        self.position += 1
        if token.text[:2].lower() != "u&":
            return token.text
        escape = "\\"
        if self.skip("uescape"):
            escape = self.peek().text[1:-1]
            self.position += 1
        return _unescaped(token.text[2:], escape)

    def names(self) -> Iterator[tuple[str, int]]:
        """Names with commas between them."""
        yield self.name()
        while self.skip(","):
            yield self.name()

    def end(self) -> None:
        """Make sure that nothing is left but CASCADE or RESTRICT; raises NotUnderstood."""
        if not self.skip("cascade"):
            self.skip("restrict")
        if self.peek() is not END:
            raise NotUnderstood

    def skip_action(self) -> None:
        """Go to the comma that ends an action of ALTER TABLE, or to the end."""
        depth = 0
        while (token := self.peek()) is not END and (depth or token.text != ","):
            depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0)
            self.position += 1


def _tokens(statement: Statement, standard: bool) -> Iterator[Token]:
    """As ``canonical.tokens``, with every token's line and its text as written."""
    text, position, line, counted = statement.text, 0, statement.line, 0
    next_token = lexis.single_tokens(standard=standard)
    while position < len(text):
        match = next_token(text, position)
        start, kind = position, match.lastindex
        opens = kind in lexis.QUOTED or kind == lexis.BLOCK
        position = lexis.end_of_quoted(text, match) if opens else match.end()
        if kind in (lexis.COMMENT, lexis.BLOCK) or text[start] in lexis.BLANKS:
            continue
        line += text.count("\n", counted, start)
        counted = start
        written = text[start:position]
        plain = not kind and bool(_PLAIN_WORD.match(written))
        yield Token(written, written.translate(_UPPER) if plain else "", line, plain or kind == lexis.NAME)


def _unescaped(quoted: str, escape: str) -> str:
    """The name U&"..." without its escapes, as an ordinary quoted name (section 4.1.2.3 of the manual)."""
    if len(escape) != 1:
        raise NotUnderstood
    one = re.escape(escape)
    pattern = rf"{one}(?:({one})|\+([0-9A-Fa-f]{{6}})|([0-9A-Fa-f]{{4}}))"
    plain = re.sub(pattern, lambda found: found[1] or _character(found[2] or found[3]), quoted[1:-1])
    return f'"{plain}"'


def _character(code: str) -> str:
    number = int(code, 16)
    # Halves of a surrogate pair are left to PostgreSQL.
    if 0xD800 <= number <= 0xDFFF or number > 0x10FFFF:
        raise NotUnderstood
    return '""' if chr(number) == '"' else chr(number)
