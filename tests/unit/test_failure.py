"""Where a failed statement stands in its file, and how much of it is shown."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import failure
from ansible_collections.habitat.runbook.plugins.module_utils.failure import from_error, position, shorten
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import split
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors

FILE = "\n\n  INSERT INTO members (name)\n  VALUES ('Zoë'),\n         (nobody);\n"


def statement(sql: str = FILE) -> Statement:
    (found,) = split(sql)
    return found


@pytest.mark.parametrize(
    ("word", "line", "column"),
    [("INSERT", 3, 3), ("members", 3, 15), ("VALUES", 4, 3), ("'Zoë'", 4, 11), ("nobody", 5, 11)],
)
def test_a_position_is_that_of_the_word_in_the_file(word, line, column):
    found = statement()
    assert position(found, found.text.index(word) + 1) == (line, column)
    assert FILE.splitlines()[line - 1][column - 1 :].startswith(word)


def test_a_position_counts_characters_not_bytes():
    assert position(statement("SELECT 'žluťoučký 🐎', nobody"), "23") == (1, 23)


def test_a_position_as_the_server_sends_it_is_text():
    assert position(statement(), "1") == (3, 3)


@pytest.mark.parametrize("nowhere", [None, "", 0])
def test_without_a_position_the_statement_itself_is_named(nowhere):
    assert position(statement(), nowhere) == (3, 3)


def test_without_a_statement_the_file_itself_is_named():
    assert position(None, "7") == (1, 1)


def test_lines_that_end_in_cr_lf():
    found = statement("\r\nSELECT\r\n  nobody;\r\n")
    assert position(found, found.text.index("nobody") + 1) == (3, 3)


@given(st.text("ab é🐎\n", min_size=1, max_size=60), st.integers(1, 9), st.integers(1, 9), st.data())
def test_counting_characters_gives_the_same(text, line, column, data):
    at = data.draw(st.integers(1, len(text)))
    for character in text[: at - 1]:
        line, column = (line + 1, 1) if character == "\n" else (line, column + 1)
    first = Statement(text, *_start(text, at, line, column))
    assert position(first, at) == (line, column)


def _start(text: str, at: int, line: int, column: int) -> tuple[int, int]:
    """Where a text begins of which character ``at`` stands at a line and column."""
    newlines = text[: at - 1].count("\n")
    return (line - newlines, 1 if newlines else column - at + 1)


def test_short_statements_are_shown_whole():
    assert shorten("SELECT 1") == "SELECT 1"
    assert shorten("x" * 400) == "x" * 400


@pytest.mark.parametrize("text", ["x" * 401, "INSERT INTO t VALUES " + "('🐎'),\n" * 1_000_000, "a" + " " * 1000])
def test_long_statements_are_cut(text):
    shown = shorten(text)
    assert shown.endswith(" ...")
    assert text.startswith(shown[:-4])
    assert len(shown) <= 404


def test_advice_is_about_errors_that_exist():
    assert all(errors.lookup(sqlstate) for sqlstate in failure._ADVICE)


def test_a_lost_connection_still_says_what_happened():
    found = from_error("07", "schema/07_x.sql", statement(), errors.OperationalError(""), "unknown")
    assert (found.message, found.sqlstate) == ("the connection to the server was lost", None)
    assert (found.line, found.column, found.state) == (3, 3, "unknown")
