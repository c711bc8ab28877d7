"""When a down section can be used, and what is said when it cannot."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import split
from ansible_collections.habitat.runbook.plugins.module_utils.migration_file import (
    Down,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.reading import DOWN, UP, good, refused


@pytest.mark.parametrize(
    ("section", "sql"),
    [
        ("DROP TABLE x;", "DROP TABLE x;"),
        ("DROP TABLE x", "DROP TABLE x;"),
        ("-- this drops it; really\nDROP TABLE x; -- gone\n-- DROP TABLE y;", "DROP TABLE x;"),
        ("-- DROP TABLE x;", "DROP TABLE x;"),
        ("--DROP TABLE x;", "DROP TABLE x;"),
        ("\n  -- DROP TABLE x;  -- gone; yes\n\n--   DROP TABLE y;\n", "DROP TABLE x;\n\nDROP TABLE y;"),
        (
            "-- -- note: first the view\n-- DROP VIEW v;\n-- -- then this\n-- DROP TABLE x;",
            "DROP VIEW v;\n\nDROP TABLE x;",
        ),
        ("/* see the wiki */\n-- DROP TABLE x;", "DROP TABLE x;"),
        ("BEGIN;\nDROP TABLE x;\nCOMMIT;", "DROP TABLE x;"),
        ("-- BEGIN;\n-- DROP TABLE x;\n-- END;", "DROP TABLE x;"),
        (
            "-- CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\n-- BEGIN\n--   -- one\n--\n"
            "--   RETURN 1;\n-- END;\n-- $$;\n-- ALTER TABLE x\n--   DROP COLUMN a,\n--   DROP COLUMN b;",
            "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\nBEGIN\n  -- one\n\n  RETURN 1;\nEND;\n$$;"
            "\nALTER TABLE x\n  DROP COLUMN a,\n  DROP COLUMN b;",
        ),
        ("-- COPY x FROM stdin;\n-- 1\n-- \\.\n-- DROP TABLE y;", "COPY x FROM stdin;\n1\n\\.\nDROP TABLE y;"),
        ("COPY x FROM stdin;\n1", "COPY x FROM stdin;\n1\n\\."),
        ("DROP INDEX CONCURRENTLY i;", "DROP INDEX CONCURRENTLY i;"),
    ],
)
def test_down_that_can_be_used(section: str, sql: str) -> None:
    migration = good(f"{UP}-- Down migration\n{section}\n")
    assert migration.down == Down("ok", sql, "")
    assert migration.warnings == ()
    assert good(UP, down=section).down == migration.down


@pytest.mark.parametrize(
    "section",
    [
        "DROP TABLE a;\n\n-- and then\nDROP\n  TABLE b; DROP TABLE c;",
        "-- COPY a FROM stdin;\n-- 1\n-- 2\n-- \\.\n\n-- -- and then\n-- DROP TABLE a;",
        "\n\nBEGIN;\nDROP TABLE a;\n\nDROP TABLE b;\nCOMMIT;",
    ],
)
def test_its_statements_keep_the_lines_they_have_in_the_file(section: str) -> None:
    migration = good(f"{UP}-- Down migration\n{section}\n")
    text = f"{UP}-- Down migration\n{section}\n".splitlines()
    for statement in split(migration.down.sql, migration.down.line):
        assert statement.text.splitlines()[0] in text[statement.line - 1]
    assert migration.down.file == migration.file
    beside = good(UP, down=section).down
    assert (beside.file[-9:], beside.line) == (".down.sql", migration.down.line - len(text) + len(section.splitlines()))


PROSE = 'the commented text is not SQL ("{}"); comment prose twice (-- --), or correct it'
NO_SEMICOLON = "the commented SQL does not end with ;, so it may be prose; add the ;"
CONTROL = "cannot stand in a down section, which runs in a transaction of its own; remove it"


@pytest.mark.parametrize(
    ("section", "line", "reason"),
    [
        ("-- drop the table by hand, see wiki", 3, PROSE.format("drop the table by hand, see wiki")),
        ("\n-- Nothing to undo.", 4, PROSE.format("Nothing to undo.")),
        ("-- None", 3, PROSE.format("None")),
        ("-- Undo:\n-- DROP TABLE x;", 3, PROSE.format("Undo: DROP TABLE x")),
        ("-- DROP TABLE x;\n-- That is all.", 4, PROSE.format("That is all.")),
        ("-- DROP TABLE x; and the wiki;", 3, PROSE.format("and the wiki")),
        (
            "-- Drop the table first, then tell the others about it\n-- DROP TABLE x;",
            3,
            PROSE.format("Drop the table first, then tell the othe..."),
        ),
        ("-- DROP TABLE x", 3, NO_SEMICOLON),
        ("-- DROP TABLE x;\n-- DROP TABLE y -- why;", 4, NO_SEMICOLON),
        ("-- it's gone;", 3, "this ' opens a string that is never closed; add the closing '"),
        ("-- \\i undo.sql", 3, "psql's \\i is not SQL and cannot run in a migration; write it as SQL"),
        ("\nDROP TABLE 'x;", 4, "this ' opens a string that is never closed; add the closing '"),
        ("\\i undo.sql", 3, "psql's \\i is not SQL and cannot run in a migration; write it as SQL"),
        ("DROP TABLE x;\nCOMMIT;", 4, f"COMMIT {CONTROL}"),
        ("-- SAVEPOINT s;", 3, f"SAVEPOINT {CONTROL}"),
        ("BEGIN;\nDROP TABLE x;\nROLLBACK;\nCOMMIT;", 5, f"ROLLBACK {CONTROL}"),
        ("BEGIN;\nDROP TABLE x;", 3, f"BEGIN {CONTROL}"),
        (
            "BEGIN READ WRITE;\nDROP TABLE x;\nCOMMIT;",
            3,
            '"BEGIN READ WRITE" has options, which a down section cannot have; write BEGIN',
        ),
        (
            "BEGIN;\nDROP INDEX CONCURRENTLY i;\nCOMMIT;",
            4,
            "this statement cannot run between BEGIN and COMMIT; remove these two",
        ),
    ],
)
def test_a_broken_down_is_a_warning_and_never_a_problem(section: str, line: int, reason: str) -> None:
    migration = good(f"{UP}-- Down migration\n{section}\n")
    assert migration.down == Down("broken", "", reason)
    assert migration.warnings == (f"schema/07_x.sql:{line}: the down section cannot be used: {reason}",)
    separate = good(UP, down=f"\n\n{section}\n")
    assert separate.down == migration.down
    assert separate.warnings == (f"schema/07_x.down.sql:{line}: the down section cannot be used: {reason}",)


ADD_DOWN = 'add -- Down migration, or -- migrate: irreversible="why"'


def test_no_down() -> None:
    migration = good(UP)
    assert migration.down == Down("none", "", "no down section")
    assert migration.warnings == (f"schema/07_x.sql: no down section; {ADD_DOWN}",)


@pytest.mark.parametrize(
    "section", ["", "\n\n", "--\n-- \n", ";", "/* nothing */", "-- -- nothing to undo", "-- ;", "BEGIN; COMMIT;"]
)
def test_an_empty_down(section: str) -> None:
    migration = good(f"{UP}-- Down migration\n{section}")
    assert migration.down == Down("none", "", "the down section is empty")
    assert migration.warnings == (f"schema/07_x.sql:3: the down section is empty; {ADD_DOWN}",)


def test_irreversible_and_a_down_contradict_each_other() -> None:
    message = "irreversible is declared, yet there is a down; remove one of the two"
    directive = "-- migrate: irreversible=gone\n"
    assert refused(f"{directive}SELECT 1;\n-- Down migration\n") == [f"schema/07_x.sql:3: {message}"]
    assert refused(f"{directive}SELECT 1;\n", down="SELECT 2;") == [f"schema/07_x.sql: {message}"]


def test_a_down_file_beside_a_down_section_is_refused() -> None:
    assert refused(f"{UP}{DOWN}", down="DROP TABLE x;") == [
        "schema/07_x.sql:3: the file has a down section and a .down.sql file beside it; keep one of the two"
    ]


def test_a_down_file_may_say_what_it_is() -> None:
    assert good(UP, down="-- how to undo\n-- Down migration\n-- DROP TABLE x;\n").down.sql == "DROP TABLE x;"


@pytest.mark.parametrize(
    ("down", "problem"),
    [
        (
            "SELECT 1;\n-- Down migration\nSELECT 1;",
            "2: a second -- Down migration line; a file has one section of a kind",
        ),
        ("SELECT 1;\n-- Verify\nSELECT 1;", "2: a down file has no -- Verify section; move it to the migration's file"),
        (
            "\n-- Up migration\nSELECT 1;",
            "2: a down file has no -- Up migration section; move it to the migration's file",
        ),
        (
            "-- migrate: transaction=false\nSELECT 1;",
            "1: -- migrate: stands behind -- Down migration; it is about the whole file: move it up",
        ),
    ],
)
def test_a_down_file_has_nothing_else(down: str, problem: str) -> None:
    assert refused(UP, down=down) == [f"schema/07_x.down.sql:{problem}"]


def test_a_broken_down_must_not_hide_the_verify_section() -> None:
    assert refused("SELECT 1;\n-- Down migration\nSELECT 'a;\n-- Verify\nSELECT 1;") == [
        "schema/07_x.sql:3: this ' opens a string that is never closed; add the closing ' "
        "(first of all: until then nobody can tell whether line 4 is a marker)"
    ]


@given(st.lists(st.sampled_from(["DROP TABLE x", "SELECT 'a;'", "COPY x FROM stdin", "DO $$ ; $$"]), max_size=4))
def test_down_sql_splits_into_the_same_statements(texts: list[str]) -> None:
    section = "".join(text + (";\n1\n\\.\n" if text.startswith("COPY") else ";\n") for text in texts)
    down = good(f"{UP}-- Down migration\n{section}").down
    assert [statement.text for statement in split(down.sql)] == texts
