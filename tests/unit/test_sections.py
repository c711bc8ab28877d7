"""Markers, sections and directives of a migration file."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.migration_file import (
    Down,
)

from tests.unit.reading import UP, good, refused, up


@pytest.mark.parametrize(
    "marker",
    [
        "-- Down migration",
        "-- down migration",
        "--DOWN   MIGRATION  ",
        "  --\tDown\tMigration (rollback)",
        "-- Down migration()",
        "-- Down migration (how; to 'undo')",
    ],
)
def test_markers(marker: str) -> None:
    migration = good(f"{UP}{marker}\nDROP TABLE x;\n")
    assert len(migration.up) == 1
    assert migration.down.sql == "DROP TABLE x;"
    assert migration.warnings == ()


@pytest.mark.parametrize(
    "prose",
    [
        "-- Down migration is done by hand",
        "-- This is the down migration",
        "-- up migration, down migration",
        'SELECT 1 AS "\n-- Down migration\n";',
        "SELECT '\n-- Down migration\n';",
        "SELECT $$\n-- Down migration\n$$;",
        "/*\n-- Down migration\n*/",
        "COPY x FROM stdin;\n-- Down migration\n\\.\n",
    ],
)
def test_markers_count_only_as_comment_lines(prose: str) -> None:
    migration = good(f"{UP}{prose}\nSELECT 2;\n")
    assert migration.up[-1].text == "SELECT 2"
    assert migration.down.state == "none"


def test_a_marker_ends_a_statement_without_semicolon() -> None:
    migration = good("CREATE TABLE x ()\n-- Down migration\nDROP TABLE x\n-- Verify\nSELECT 1\n")
    assert [statement.text for statement in migration.up] == ["CREATE TABLE x ()"]
    assert migration.down.sql == "DROP TABLE x;"
    assert [statement.text for statement in migration.verify] == ["SELECT 1"]


def test_a_marker_inside_open_parentheses_does_not_hide_them() -> None:
    assert refused("CREATE TABLE x (\n  a int\n-- Down migration\nDROP TABLE x;\n") == [
        "schema/07_x.sql:1: this ( is never closed; add the closing )"
    ]


def test_a_file_without_markers_is_all_up() -> None:
    assert up("SELECT 1;\n-- what goes down must come up\nSELECT 2;") == ["SELECT 1", "SELECT 2"]


def test_before_a_down_or_verify_marker_everything_is_up() -> None:
    assert up("SELECT 1;\n-- Down migration\nSELECT 2;") == ["SELECT 1"]
    assert up("SELECT 1;\n-- Verify (no orphans)\nSELECT 2;") == ["SELECT 1"]


def test_sections_come_in_any_order() -> None:
    migration = good("-- header\n-- Verify\nSELECT 3;\n-- Down migration\nSELECT 2;\n-- Up migration\nSELECT 1;\n")
    assert [statement.line for statement in (*migration.verify, *migration.up)] == [3, 7]
    assert migration.down.sql == "SELECT 2;"


def test_only_comments_may_stand_before_up() -> None:
    header = "/* a\nb */\n-- c\n"
    assert up(f"{header}-- Up migration\nSELECT 1;") == ["SELECT 1"]
    assert refused(f"{header}\nSELECT 0;\n-- Up migration\nSELECT 1;") == [
        "schema/07_x.sql:5: SQL stands before the -- Up migration line; move it behind that line"
    ]
    assert refused("SELECT 0;\n-- Down migration\nSELECT 2;\n-- Up migration\nSELECT 1;") == [
        "schema/07_x.sql:1: SQL stands before the -- Up migration line; move it behind that line"
    ]


@pytest.mark.parametrize("marker", ["-- Up migration", "-- Down migration", "-- Verify"])
def test_a_second_section_of_a_kind_is_refused(marker: str) -> None:
    assert refused(f"{marker}\n\n{marker.upper()} (again)\nSELECT 1;") == [
        f"schema/07_x.sql:3: a second {marker} line; a file has one section of a kind"
    ]


def test_empty_and_comment_only_migrations_are_migrations() -> None:
    assert good("").up == good("-- nothing\n/* here */\n;;").up == good("-- Up migration\n").up == ()


def test_copy_data_does_not_swallow_a_section() -> None:
    assert refused(f"{UP}COPY x FROM stdin;\n1\n-- Down migration\nDROP TABLE x;\n") == [
        "schema/07_x.sql:2: the data of this COPY runs over a marker line; end it with a line \\."
    ]
    assert good(f"{UP}COPY x FROM stdin;\n1\n").up[1].copy_data == "1\n"


@pytest.mark.parametrize(
    ("comment", "marker"),
    [("-- Down", "Down"), ("-- rollback:", "Down"), ("---- down migration ----", "Down"), ("-- Up", "Up")],
)
def test_what_looks_like_a_marker_is_a_warning(comment: str, marker: str) -> None:
    warning = f"this comment is no marker; if the {marker.lower()} section begins here, the line must be -- {marker} migration"
    assert good(f"{UP}{comment}\nDROP TABLE x;\n").warnings[0] == f"schema/07_x.sql:2: {warning}"


def test_a_marker_behind_sql_is_a_warning() -> None:
    assert good("SELECT 1; -- Down migration\n").warnings[0].startswith("schema/07_x.sql:1: this comment is no marker")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("-- migrate:up", "-- migrate:up is dbmate's marker and means nothing here; write -- Up migration"),
        (
            "-- migrate:down transaction:false",
            "-- migrate:down is dbmate's marker and means nothing here; write -- Down migration",
        ),
        ("-- +goose Up", "-- +goose Up is goose's marker and means nothing here; write -- Up migration"),
        ("-- +goose Down", "-- +goose Down is goose's marker and means nothing here; write -- Down migration"),
        (
            "-- +goose NO TRANSACTION",
            "-- +goose NO TRANSACTION is goose's marker and means nothing here; write -- migrate: transaction=false",
        ),
        (
            "-- +goose StatementBegin",
            "-- +goose StatementBegin is goose's marker and means nothing here; remove it",
        ),
        (
            "---- create above / drop below ----",
            "-- create above / drop below is tern's marker and means nothing here; write -- Down migration",
        ),
    ],
)
def test_markers_of_other_tools_are_refused(line: str, problem: str) -> None:
    assert refused(f"{UP}{line}\nDROP TABLE x;\n") == [f"schema/07_x.sql:2: {problem}"]


def test_directives() -> None:
    content = '-- migrate: lock_timeout=5s\n-- Up migration\nSELECT 1;\n  --migrate:statement_timeout=10min irreversible="rows are gone"\n'
    migration = good(content)
    assert (migration.lock_timeout, migration.statement_timeout) == ("5s", "10min")
    assert migration.down == Down("irreversible", "", "rows are gone")
    assert migration.warnings == ()
    assert good("-- migrate: irreversible=yes-for-ever\n").down.reason == "yes-for-ever"


@pytest.mark.parametrize("value", ["0", "500ms", "5s", "10min", "1h", "24d", "2147483647ms"])
def test_durations(value: str) -> None:
    assert good(f"-- migrate: lock_timeout={value}").lock_timeout == value


KEYS = "the keys are transaction, irreversible, lock_timeout, statement_timeout"
HOW = f"write key=value, a value with blanks in double quotes; {KEYS}"
DURATION = "lock_timeout must be a duration such as 0, 500ms, 5s, 10min, 1h (24 days at most), not"
REASON = 'irreversible needs the reason, such as irreversible="the old addresses are gone"'


@pytest.mark.parametrize(
    ("directive", "problem"),
    [
        ("", f"nothing stands behind -- migrate:; {HOW}"),
        ("transaction", f'cannot read "transaction" in -- migrate:; {HOW}'),
        ("up", f'cannot read "up" in -- migrate:; {HOW}'),
        ('irreversible="a" b', f'cannot read "b" in -- migrate:; {HOW}'),
        ('irreversible="a', f'cannot read "irreversible="a" in -- migrate:; {HOW}'),
        ("lock_timeout=", f'cannot read "lock_timeout=" in -- migrate:; {HOW}'),
        ("locktimeout=5s", f'unknown key "locktimeout" in -- migrate:; {KEYS}'),
        ("Transaction=true", f'unknown key "Transaction" in -- migrate:; {KEYS}'),
        ("transaction=no", 'transaction must be true or false, not "no"'),
        ("lock_timeout=5", f'{DURATION} "5"'),
        ("lock_timeout=5m", f'{DURATION} "5m"'),
        ("lock_timeout=-1s", f'{DURATION} "-1s"'),
        ("lock_timeout=25d", f'{DURATION} "25d"'),
        ("lock_timeout=2147483648ms", f'{DURATION} "2147483648ms"'),
        ("irreversible=true", REASON),
        ('irreversible=" "', REASON),
        ("lock_timeout=5s lock_timeout=5s", "lock_timeout is set twice; keep one of the two"),
    ],
)
def test_bad_directives_are_refused(directive: str, problem: str) -> None:
    assert refused(f"{UP}-- migrate: {directive}\nSELECT 1;") == [f"schema/07_x.sql:2: {problem}"]


def test_all_that_is_wrong_is_told_at_once() -> None:
    content = "-- migrate: transaction=false\n-- migrate: a=b transaction=true\nSELECT 1;\n-- +goose Down\n"
    assert [problem.split(" ")[0] for problem in refused(content)] == ["schema/07_x.sql:2:"] * 2 + [
        "schema/07_x.sql:4:"
    ]


@pytest.mark.parametrize("marker", ["-- Down migration", "-- Verify"])
def test_directives_are_about_the_whole_file(marker: str) -> None:
    assert refused(f"SELECT 1;\n{marker}\n-- migrate: lock_timeout=5s\nSELECT 1;") == [
        f"schema/07_x.sql:3: -- migrate: stands behind {marker}; it is about the whole file: move it up"
    ]


def test_directives_count_only_as_comment_lines() -> None:
    assert good("SELECT '\n-- migrate: nonsense\n', $$\n-- migrate: nonsense\n$$;").lock_timeout is None
    assert refused("SELECT 1; -- migrate: lock_timeout=5s\n") == [
        "schema/07_x.sql:1: -- migrate: stands behind SQL; give it a line of its own"
    ]
