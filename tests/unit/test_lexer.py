"""Splitting SQL into statements. What psql really sends is compared in integration/test_statements_equal_psql.py."""

from __future__ import annotations

import re
import time

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import SqlError, split
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement
from hypothesis import given, settings
from hypothesis import strategies as st


def texts(sql: str) -> list[str]:
    return [statement.text for statement in split(sql)]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("", []),
        (" \n\t-- c\n/* c; */ ;;\n;", []),
        ("SELECT 1; SELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT 'a;''b;' ; x", ["SELECT 'a;''b;'", "x"]),
        ("SELECT 'a\\'; x", ["SELECT 'a\\'", "x"]),
        ("SELECT E'a\\';b', e'\\\\'; x", ["SELECT E'a\\';b', e'\\\\'", "x"]),
        ("SELECT date'a\\'; x", ["SELECT date'a\\'", "x"]),
        ("SELECT B'0;', X'f;', N'n;'; x", ["SELECT B'0;', X'f;', N'n;'", "x"]),
        ("SELECT U&'a;\\' UESCAPE '!'; x", ["SELECT U&'a;\\' UESCAPE '!'", "x"]),
        ('SELECT "a;""b;", U&"c;"; x', ['SELECT "a;""b;", U&"c;"', "x"]),
        ("SELECT $$;$$, $t$ $$;$u$ $t$; x", ["SELECT $$;$$, $t$ $$;$u$ $t$", "x"]),
        ("SELECT a$b$c; SELECT é$$; x", ["SELECT a$b$c", "SELECT é$$", "x"]),
        ("SELECT $1$$;$$; x", ["SELECT $1$$;$$", "x"]),
        ("SELECT 1 /* ; /* ; */ ; */ + 2; x", ["SELECT 1 /* ; /* ; */ ; */ + 2", "x"]),
        ("SELECT 1 -- ;\n+ 2; x", ["SELECT 1 -- ;\n+ 2", "x"]),
        ("SELECT 1+/*;*/2, 3*--;\n4; x", ["SELECT 1+/*;*/2, 3*--;\n4", "x"]),
        ("CREATE RULE r AS ON INSERT TO t DO (a; b;); x", ["CREATE RULE r AS ON INSERT TO t DO (a; b;)", "x"]),
        ("SELECT 1)); x", ["SELECT 1))", "x"]),
        ("SELECT [1;2]", ["SELECT [1", "2]"]),
    ],
)
def test_where_statements_end(sql: str, expected: list[str]) -> None:
    assert texts(sql) == expected


@pytest.mark.parametrize(
    "head", ["CREATE FUNCTION f()", "create or replace function f()", "CREATE /*c*/ OR --c\n REPLACE PROCEDURE p()"]
)
def test_a_sql_body_is_one_statement(head: str) -> None:
    body = f"{head} LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT CASE WHEN a THEN b END; END"
    assert texts(f"{body}; SELECT 2;") == [body, "SELECT 2"]


def test_begin_and_case_mean_nothing_outside_of_routines() -> None:
    sql = "CREATE VIEW v AS SELECT CASE WHEN a THEN b END; BEGIN; SELECT 1; END"
    assert texts(sql) == ["CREATE VIEW v AS SELECT CASE WHEN a THEN b END", "BEGIN", "SELECT 1", "END"]


def test_a_string_goes_on_behind_a_newline_as_the_server_reads_it() -> None:
    """psql reads line by line and takes the second part for a plain string; the server decides."""
    assert texts("SELECT E'a'\n -- it's\n 'b\\';c'; x") == ["SELECT E'a'\n -- it's\n 'b\\';c'", "x"]
    assert texts("SELECT E'a' 'b\\'; x") == ["SELECT E'a' 'b\\'", "x"]


def test_standard_conforming_strings_counts_for_what_follows() -> None:
    sql = "SELECT '\\'; SET standard_conforming_strings = off; SELECT 'a\\';b'; RESET ALL; SELECT '\\'; x"
    assert texts(sql)[2:] == ["SELECT 'a\\';b'", "RESET ALL", "SELECT '\\'", "x"]


@pytest.mark.parametrize("value", ["on", "true", "'on'", "1", "yes", "DEFAULT", "ON"])
def test_standard_conforming_strings_on(value: str) -> None:
    sql = f"SET standard_conforming_strings = off; SET LOCAL standard_conforming_strings TO {value}; SELECT '\\'; x"
    assert texts(sql)[2:] == ["SELECT '\\'", "x"]


def test_text_begins_and_ends_with_a_token() -> None:
    sql = "/* a */ -- b\n  SELECT /* c */ 1 -- d\n /* e */ ; -- f\nSELECT 2 -- g\n"
    assert texts(sql) == ["SELECT /* c */ 1", "SELECT 2"]


def test_line_and_column_of_the_first_token() -> None:
    sql = "SELECT 1;\n\n/* ä\n */ SELECT\n2; -- x\n  é;SELECT 4"
    found = [(statement.line, statement.column) for statement in split(sql, first_line=10)]
    assert found == [(10, 1), (13, 5), (15, 3), (15, 5)]


def test_unicode_blanks_are_letters() -> None:
    assert texts("SELECT\u00a01;\u2028x;") == ["SELECT\u00a01", "\u2028x"]


@pytest.mark.parametrize(
    ("sql", "place", "message"),
    [
        ("SELECT 1;\n SELECT 'a''b;\n", (2, 9), "this ' opens a string that is never closed; add the closing '"),
        ("SELECT 'a', E'b\\';", (1, 13), "this ' opens a string that is never closed; add the closing '"),
        ("SELECT 'a'\n'b", (2, 1), "this ' opens a string that is never closed; add the closing '"),
        ('SELECT 1,\n"x', (2, 1), 'this " opens a quoted name that is never closed; add the closing "'),
        ("x;\nDO $a$ $$ ;", (2, 4), "this $a$ opens a dollar-quoted text that is never closed; add the closing $a$"),
        ("\n/* a /* b */", (2, 1), "this /* opens a comment that is never closed; add the closing */"),
        ("SELECT 1 /* a", (1, 10), "this /* opens a comment that is never closed; add the closing */"),
        ("SELECT (1,\n(2);\nSELECT 3;", (1, 8), "this ( is never closed; add the closing )"),
        (
            "CREATE FUNCTION f()\nBEGIN ATOMIC SELECT 1; SELECT 2;",
            (2, 1),
            "this routine body has no END; add END; behind its last statement",
        ),
        ("SELECT 1;\nSELECT\0 2", (2, 7), "a NUL byte, which PostgreSQL cannot store, stands here; remove it"),
    ],
)
def test_what_is_left_open_is_told_where_it_begins(sql: str, place: tuple[int, int], message: str) -> None:
    with pytest.raises(SqlError) as caught:
        texts(sql)
    assert (caught.value.line, caught.value.column) == place
    assert caught.value.message == str(caught.value) == message


@pytest.mark.parametrize(
    ("sql", "line", "name"),
    [
        ("SELECT 1;\n\\connect other\n", 2, "\\connect"),
        ("\\i other.sql", 1, "\\i"),
        ("\\! rm", 1, "\\!"),
        ("SELECT 1\\gexec", 1, "\\gexec"),
        ("SELECT 1 \\; SELECT 2;", 1, "\\;"),
        ("\\copy t FROM 'x'", 1, "\\copy"),
        ("\\", 1, "\\"),
        ("SELECT 1\n\\restrict abc\n", 2, "\\restrict"),
        ("\\restricted abc", 1, "\\restricted"),
    ],
)
def test_meta_commands_are_refused_by_name(sql: str, line: int, name: str) -> None:
    with pytest.raises(SqlError) as caught:
        texts(sql)
    assert caught.value.line == line
    assert caught.value.message == f"psql's {name} is not SQL and cannot run in a migration; write it as SQL"


def test_end_of_data_without_copy() -> None:
    with pytest.raises(SqlError, match=re.escape("\\. ends COPY data, but no COPY ... FROM stdin stands before it")):
        texts("COPY t TO stdout;\n\\.\n")


def test_lines_of_pg_dump_are_skipped() -> None:
    assert texts("\\restrict Key1\nSELECT 1;\n\\unrestrict Key1\n") == ["SELECT 1"]


def test_copy_data_belongs_to_its_statement() -> None:
    sql = "COPY t FROM stdin; -- c\n1\tit's\n\n-- x;\n\\.\nSELECT 1;\ncopy t (a) from STDIN\n;\n\\.\nSELECT 2"
    assert list(split(sql)) == [
        Statement("COPY t FROM stdin", 1, 1, "1\tit's\n\n-- x;\n"),
        Statement("SELECT 1", 6, 1),
        Statement("copy t (a) from STDIN", 7, 1, ""),
        Statement("SELECT 2", 10, 1),
    ]


def test_copy_data_may_end_with_the_input() -> None:
    assert next(split("COPY t FROM stdin;\n1\n\\. no\n2")).copy_data == "1\n\\. no\n2"
    assert next(split("COPY t FROM stdin;\n1\n\\.")).copy_data == "1\n"
    assert next(split("COPY t FROM stdin")).copy_data == ""


@pytest.mark.parametrize(
    "sql",
    [
        "COPY t TO stdout;\nSELECT 1",
        "COPY (SELECT a FROM stdin) TO stdout;\nSELECT 1",
        "COPY t FROM 'stdin';\nSELECT 1",
        'COPY t FROM "stdin";\nSELECT 1',
        "SELECT copy FROM stdin;\nSELECT 1",
    ],
)
def test_copy_that_reads_no_lines(sql: str) -> None:
    assert [statement.copy_data for statement in split(sql)] == [None, None]


def test_nothing_may_follow_on_the_line_of_a_copy() -> None:
    with pytest.raises(SqlError) as caught:
        texts("SELECT 1;\nCOPY t FROM stdin; SELECT 2;\n1\n\\.\n")
    assert (caught.value.line, caught.value.column) == (2, 19)
    assert str(caught.value) == (
        "COPY's data begins on the line behind it; move what follows the ; to a line behind the data"
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "(" * 200_000 + ")" * 200_000,
        "SELECT E'x'" + " " * 1_000_000 + ";",
        "SELECT 1" + "\n-- c" * 100_000 + "\n;",
        "SELECT 'x" + "''" * 300_000 + "';",
        "SELECT " + "a'x'" * 100_000 + ";",
        ";" * 1_000_000,
        "SELECT " + "$" * 100_001 + ";",
        "SELECT " + "/*" * 50_000 + "*/" * 50_000 + ";",
        "SELECT " + "- / : " * 200_000 + ";",
        "CREATE FUNCTION f() BEGIN " + "SELECT 1; " * 50_000 + "END;",
    ],
)
def test_time_is_linear(sql: str) -> None:
    started = time.process_time()
    list(split(sql))
    assert time.process_time() - started < 20


# Properties: a file made of known tokens.

WORD = st.sampled_from(["select", "a", "Foo", "x$y$", "größe", "_1", "BEGIN", "end", "e", "u"])
NUMBER = st.sampled_from(["1", "42", "1.5", "1e-5", "0x1F"])
INSIDE = st.text(alphabet="ab;'\"$-/*() \n\\é", max_size=8)
STRING = INSIDE.map(lambda text: "'" + text.replace("'", "''") + "'")
ESCAPE = INSIDE.map(lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'")
QUOTED = INSIDE.map(lambda text: '"' + text.replace('"', '""') + '"')
DOLLAR = INSIDE.map(lambda text: "$t$" + text.replace("$", "") + "$t$")
OPERATOR = st.sampled_from(["+", "-", "*", "/", "::", "=", "<>", ",", ".", "[", "]", ">=", "->>", "?"])
TOKEN = st.one_of(WORD, NUMBER, STRING, ESCAPE, QUOTED, DOLLAR, OPERATOR)
GROUP = st.recursive(
    st.lists(TOKEN, min_size=1, max_size=6).map(" ".join),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: "( " + " ; ".join(parts) + " )"),
    max_leaves=5,
)
STATEMENT = st.lists(GROUP, max_size=3).map(lambda groups: " ".join(["select", *groups]))
NOISE = st.lists(st.sampled_from([" ", "\n", "\t", "-- it's; (\n", "/* ; ' */", "/* /* */ */", ";"]), max_size=4).map(
    "".join
)


@given(st.lists(st.tuples(NOISE, STATEMENT, NOISE)))
def test_joined_statements_come_back(parts: list[tuple[str, str, str]]) -> None:
    sql = "".join(f"{before}{statement} {behind};" for before, statement, behind in parts)
    found = list(split(sql))
    assert [statement.text for statement in found] == [statement for _, statement, _ in parts]
    lines = sql.split("\n")
    for statement in found:
        rest = "\n".join([lines[statement.line - 1][statement.column - 1 :], *lines[statement.line :]])
        assert rest.startswith(statement.text)


def is_noise(sql: str, start: int, end: int) -> bool:
    """Whether there is nothing but blanks, semicolons and comments in ``sql[start:end]``."""
    while start < end:
        if sql.startswith("--", start):
            start = (sql + "\n").index("\n", start)
        elif sql.startswith("/*", start):
            depth, start = 1, start + 2
            while depth:
                edge = re.compile(r"/\*|\*/").search(sql, start)
                assert edge
                depth += 1 if edge.group() == "/*" else -1
                start = edge.end()
        elif sql[start] in " \n;":
            start += 1
        else:
            return False
    return start == end


@settings(max_examples=500)
@given(st.text(alphabet="ab1;'\"$-/*() \n\\Ee", max_size=40))
def test_no_character_is_lost_or_invented(sql: str) -> None:
    """Whatever can be split: the texts stand in the source one behind the other, with only noise between."""
    try:
        found = list(split(sql))
    except SqlError:
        return
    starts = [0, *(match.end() for match in re.finditer("\n", sql))]
    position = 0
    for statement in found:
        start = starts[statement.line - 1] + statement.column - 1
        assert sql.startswith(statement.text, start)
        assert is_noise(sql, position, start)
        position = start + len(statement.text)
    assert is_noise(sql, position, len(sql))
