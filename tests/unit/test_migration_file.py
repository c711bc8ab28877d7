"""One migration file as a whole: how it is read, how it runs. Messages are asserted as people see them."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import split
from ansible_collections.habitat.runbook.plugins.module_utils.migration_file import (
    Down,
    Problem,
    Source,
    read_migration,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.reading import good, refused

FOUNDING = """-- Migration: Add email verification
-- Up migration

CREATE TABLE email_verifications (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  member_id UUID NOT NULL REFERENCES members(id),
  email VARCHAR(255) NOT NULL,
  token VARCHAR(255) NOT NULL UNIQUE,
  expires_at TIMESTAMPTZ NOT NULL,
  verified_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

CREATE INDEX idx_email_verifications_member ON email_verifications(member_id);
CREATE INDEX idx_email_verifications_token ON email_verifications(token);

-- Down migration (rollback)
-- DROP TABLE email_verifications;
"""


def test_the_founding_example() -> None:
    migration = good(FOUNDING)
    assert [(statement.line, statement.text[:22]) for statement in migration.up] == [
        (4, "CREATE TABLE email_ver"),
        (14, "CREATE INDEX idx_email"),
        (15, "CREATE INDEX idx_email"),
    ]
    assert migration.down == Down("ok", "DROP TABLE email_verifications;", "")
    assert (migration.version, migration.name, migration.file) == ("07", "x", "schema/07_x.sql")
    assert (migration.mode, migration.begin, migration.verify) == ("transaction", "BEGIN", ())
    assert (migration.lock_timeout, migration.statement_timeout, migration.warnings) == (None, None, ())


def test_byte_order_mark_and_crlf_are_the_editor_s() -> None:
    plain = good("SELECT 'a\nb';\n-- Down migration\nSELECT 1;\n")
    odd = good(b"\xef\xbb\xbfSELECT 'a\r\nb';\r\n-- Down migration\r\nSELECT 1;\r\n")
    assert odd == plain


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"SELECT 1;\nSELECT '\xe4';\n", "schema/07_x.sql:2: byte 0xe4 is not UTF-8; save the file as UTF-8"),
        (b"\xef\xbb\xbf\n\nSELECT '\xff';", "schema/07_x.sql:3: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("SELECT 1;".encode("utf-16"), "schema/07_x.sql:1: the file is UTF-16; save it as UTF-8"),
        (
            b"SELECT 1;\n\n\0",
            "schema/07_x.sql:3: a NUL byte, which PostgreSQL cannot store, stands here; remove it",
        ),
        (
            b"SELECT 1;\r\n-- Down migration\rDROP TABLE x;",
            "schema/07_x.sql:2: a carriage return without a newline stands here; "
            "end lines with LF, and in a string write E'\\r'",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(content: bytes, problem: str) -> None:
    assert refused(content) == [problem]


def test_down_file_is_read_the_same_way() -> None:
    migration, problems = read_migration("07", "x", Source("u.sql", b""), Source("d.sql", b"\n\xff"))
    assert migration is None
    assert [str(problem) for problem in problems] == ["d.sql:2: byte 0xff is not UTF-8; save the file as UTF-8"]


def test_a_lexer_s_error_is_a_problem_where_it_begins() -> None:
    assert refused("SELECT 1;\n\nSELECT 'a;\n-- Down migration\n") == [
        "schema/07_x.sql:3: this ' opens a string that is never closed; add the closing '"
    ]
    assert refused("SELECT 1;\n\\connect x\n") == [
        "schema/07_x.sql:2: psql's \\connect is not SQL and cannot run in a migration; write it as SQL"
    ]


def test_own_begin_and_commit_are_our_transaction() -> None:
    migration = good("-- c\nBEGIN ISOLATION LEVEL\n  SERIALIZABLE;\nSELECT 1;\nEND WORK;\n")
    assert (migration.mode, migration.begin) == ("transaction", "BEGIN ISOLATION LEVEL SERIALIZABLE")
    assert [statement.text for statement in migration.up] == ["SELECT 1"]
    assert good("START TRANSACTION; COMMIT TRANSACTION;").up == ()


ONE = "a migration is one transaction, or BEGIN first and COMMIT last; remove it, or add -- migrate: transaction=false"


@pytest.mark.parametrize(
    ("sql", "found"),
    [
        ("BEGIN;\nSELECT 1;", [(1, "BEGIN")]),
        ("SELECT 1;\nCOMMIT;", [(2, "COMMIT")]),
        ("BEGIN;\nSELECT 1;\nCOMMIT;\nSELECT 2;", [(1, "BEGIN"), (3, "COMMIT")]),
        ("BEGIN;\nCOMMIT;\nBEGIN;\nCOMMIT;", [(2, "COMMIT"), (3, "BEGIN")]),
        ("BEGIN;\nSELECT 1;\nCOMMIT AND CHAIN;", [(1, "BEGIN"), (3, "COMMIT")]),
        ("START TRANSACTION;\nROLLBACK;", [(1, "START TRANSACTION"), (2, "ROLLBACK")]),
        ("SELECT 1;\nSAVEPOINT s;\nROLLBACK TO s;\nRELEASE s;", [(2, "SAVEPOINT"), (3, "ROLLBACK TO"), (4, "RELEASE")]),
        ("ABORT;", [(1, "ABORT")]),
        ("END;", [(1, "END")]),
        ("PREPARE TRANSACTION 'x';", [(1, "PREPARE TRANSACTION")]),
        ("COMMIT PREPARED 'x';", [(1, "COMMIT PREPARED")]),
        ("ROLLBACK PREPARED 'x';", [(1, "ROLLBACK PREPARED")]),
    ],
)
def test_other_transaction_control_is_refused(sql: str, found: list[tuple[int, str]]) -> None:
    assert refused(sql) == [f"schema/07_x.sql:{line}: {command} cannot stand here: {ONE}" for line, command in found]
    migration = good(f"-- migrate: transaction=false\n{sql}")
    assert (migration.mode, migration.begin) == ("as_written", "BEGIN")
    assert [statement.text for statement in migration.up] == [statement.text for statement in split(sql)]


def test_statements_that_need_no_transaction_make_steps() -> None:
    assert good("CREATE INDEX CONCURRENTLY i ON t (a);").mode == "steps"
    assert good("SELECT 1;\nVACUUM;").mode == "steps"
    assert good("COMMENT ON TABLE t IS 'VACUUM';").mode == "transaction"
    assert good("-- migrate: transaction=false\nVACUUM;").mode == "as_written"


def test_a_transaction_around_what_cannot_run_in_one_is_refused() -> None:
    assert refused("BEGIN;\n\nVACUUM;\nDISCARD ALL;\nCOMMIT;") == [
        "schema/07_x.sql:3: VACUUM cannot run in a transaction; remove it or the file's own BEGIN ... COMMIT",
        "schema/07_x.sql:4: DISCARD ALL cannot run in a transaction; remove it or the file's own BEGIN ... COMMIT",
    ]
    assert refused("-- migrate: transaction=true\nCREATE INDEX CONCURRENTLY i ON t (a);") == [
        "schema/07_x.sql:2: CREATE INDEX CONCURRENTLY i ... cannot run in a transaction; "
        "remove it or -- migrate: transaction=true"
    ]


@pytest.mark.parametrize(("sql", "shown"), [("COMMIT", "COMMIT"), ("BEGIN", "BEGIN"), ("VACUUM t", "VACUUM t")])
def test_verify_runs_inside_the_transaction(sql: str, shown: str) -> None:
    for directive in ("", "-- migrate: transaction=false"):
        assert refused(f"{directive}\n-- Verify\nSELECT 1;\n{sql};") == [
            f"schema/07_x.sql:4: {shown} cannot stand in the verify section, "
            "which runs inside the migration's transaction; remove it"
        ]


def test_problem_names_file_and_line() -> None:
    assert str(Problem("schema/07_x.sql", 12, "no")) == "schema/07_x.sql:12: no"
    assert str(Problem("schema", 0, "no")) == "schema: no"


LINES = st.sampled_from(
    """-- Up migration|-- Down migration|-- Verify|-- migrate: transaction=false|SELECT 1;|BEGIN;|COMMIT;|VACUUM;|-- prose
    |COPY x FROM stdin;|\\.|-- DROP TABLE x;|'|$$|(|*/|/*|CREATE FUNCTION f()|BEGIN ATOMIC|END;|SELECT 'a\\'|\\
    |SET standard_conforming_strings = off;|\\restrict a""".replace("\n    ", "").split("|")
)


@given(st.lists(LINES | st.text(max_size=5), max_size=12), st.none() | st.lists(LINES, max_size=4))
def test_nothing_in_a_file_makes_it_raise(lines: list[str], down: list[str] | None) -> None:
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    down_source = Source("d.sql", "\n".join(down).encode()) if down is not None else None
    migration, problems = read_migration("07", "x", Source("u.sql", content), down_source)
    assert (migration is None) == bool(problems)
    if migration and migration.down.state == "ok":
        assert list(split(migration.down.sql))
