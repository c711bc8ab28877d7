# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The text of a schema as pg_dump writes it, brought to a form that is the same before and after a restore."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

# What pg_dump writes by itself, and what differs between its versions. Settings stand before the first object only;
# default_tablespace and default_table_access_method are none of these: they say where the next table goes.
_COMMENT = re.compile(
    rb"(--|-- (Name|Data for Name|PostgreSQL database dump|Dumped from|Dumped by|Dependencies|TOC entry)\b.*|"
    rb"\\(un)?restrict .*|)\Z"
)
_SETTING = re.compile(
    rb"SELECT pg_catalog\.set_config\('search_path', '', false\);\Z|"
    rb"SET (statement_timeout|lock_timeout|idle_in_transaction_session_timeout|transaction_timeout|client_encoding|"
    rb"standard_conforming_strings|check_function_bodies|xmloption|client_min_messages|row_security) = "
)

# A restore stores what PostgreSQL makes of an expression's printed form, and prints two of them differently then: lists
# of varchar values, "(ARRAY['a'::character varying])::text[]", have the cast on each element afterwards, and of
# "((a AND b) AND c)", which BETWEEN leads to, the inner parentheses are gone (gram.y, makeAndExpr and makeOrExpr).
_TYPE = rb'[\w"][\w ."]*?'
_ELEMENT = rb"(?:E?'(?:[^']|'')*'::" + _TYPE + rb'(?:\([0-9,]+\))?|(?:"[^"]*"|[\w.])+)'
_ELEMENTS = _ELEMENT + rb"(?:, " + _ELEMENT + rb")*"
_CAST_ARRAY = re.compile(rb"(\()?ARRAY\[(" + _ELEMENTS + rb")\](?(1)\))::(" + _TYPE + rb")\[\]")
_SPLIT = re.compile(_ELEMENT + rb"(?=, |\Z)")
# What may hold parentheses that are none comes first; a doubled quote is two literals side by side.
_TOKEN = re.compile(
    rb"(\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$).*?\1|'[^']*'|\"[^\"]*\"|--[^\n]*|(?P<word>[()]|\b(?:AND|OR)\b)",
    re.DOTALL,
)
# Seen with 15.20 of Debian: the server keeps a number of its own in the options of the columns of tables and views, and
# the clients before that release dump it as if somebody had set it.
_OWN_NUMBER = re.compile(
    rb"^ALTER [^\n]* SET \(pg_attver=[0-9]+\);\n|(?<=\()pg_attver=[0-9]+, |, pg_attver=[0-9]+", re.MULTILINE
)
_NEXT_WORD = re.compile(rb"\)\s+(AND|OR)\b")


def schema_digest(lines: Iterable[bytes]) -> str:
    """sha256 (hex) of the lines of a ``pg_dump --schema-only``, without what is no part of the schema.

    It is the same before and after a restore, see ``canonical``.
    """
    return hashlib.sha256(canonical(lines)).hexdigest()


def canonical(lines: Iterable[bytes]) -> bytes:
    """The schema in a ``pg_dump --schema-only``, with what a restore writes differently in one form."""
    kept, started = [], False
    for line in lines:
        text = line.rstrip(b"\r\n")
        if _COMMENT.match(text) or (not started and _SETTING.match(text)):
            continue
        started = True
        kept.append(text + b"\n")
    return _CAST_ARRAY.sub(_cast_elements, _flattened(_OWN_NUMBER.sub(b"", b"".join(kept))))


def _cast_elements(found: re.Match[bytes]) -> bytes:
    wrapped, elements, kind = found.groups()
    form = b"(%s)::%s" if wrapped else b"%s::%s"
    return b"ARRAY[" + b", ".join(form % (element, kind) for element in _SPLIT.findall(elements)) + b"]"


def _flattened(text: bytes) -> bytes:
    """Without the parentheses around the first operand of an AND that is one itself, and the same of OR."""
    superfluous: list[int] = []
    groups: list[tuple[int, set[bytes]]] = []
    for token in _TOKEN.finditer(text):
        word, at = token["word"], token.start()
        if word == b"(":
            groups.append((at, set()))
        elif word == b")" and groups:
            opened, words = groups.pop()
            follows = _NEXT_WORD.match(text, at)
            if follows and words == {follows[1]} and text[opened - 1 : opened] == b"(":
                superfluous += (opened, at)
        elif word and word != b")" and groups:
            groups[-1][1].add(word)
    cuts = sorted(superfluous)
    return b"".join(text[a:b] for a, b in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(text)]))
