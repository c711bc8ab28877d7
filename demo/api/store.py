"""What the application does in the database.

Every function takes an autocommit connection and works in one transaction. Those that concern a member act as that
member (see schema/06_security.sql); before version 06 the same statements simply meet no policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

Row = dict[str, Any]

FIRST = UUID(int=0)
"""Before every member's id."""

_CONTRIBUTIONS = """
SELECT c.id, c.member_id, c.amount, a.currency, c.note, c.created_at
FROM contributions c JOIN treasury_accounts a ON a.id = c.account_id
WHERE c.member_id = %s ORDER BY c.created_at DESC, c.id LIMIT %s"""

_ADD_CONTRIBUTION = """
WITH a AS (SELECT id, currency FROM treasury_accounts WHERE code = 'general'),
c AS (INSERT INTO contributions (member_id, account_id, amount, note) SELECT %s, id, %s, %s FROM a RETURNING *)
SELECT c.id, c.member_id, c.amount, a.currency, c.note, c.created_at, c.account_id FROM c, a"""


@contextmanager
def _acting_as(connection: psycopg.Connection, member: UUID) -> Iterator[tuple[psycopg.Cursor[Row], bool]]:
    """A transaction on behalf of a member, and whether the schema has events (from version 04 on)."""
    query = "SELECT set_config('habitat.member_id', %s, true), to_regclass('public.events') IS NOT NULL AS events"
    with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        yield cursor, _one(cursor, query, [str(member)])["events"]


def schema_version(connection: psycopg.Connection) -> str | None:
    """The highest version in the ledger, compared as a number; None without a ledger that can be read."""
    allowed = "SELECT has_column_privilege(to_regclass('public.schema_migrations'), 'version', 'SELECT')"
    if connection.execute(allowed).fetchone() != (True,):
        return None
    highest = (
        "SELECT version FROM public.schema_migrations WHERE version ~ '^[0-9]+$' ORDER BY version::numeric DESC LIMIT 1"
    )
    row = connection.execute(highest).fetchone()
    return row[0] if row else None


def list_members(connection: psycopg.Connection, limit: int, after: UUID) -> list[Row]:
    """The public directory in the order of the ids, from behind ``after``."""
    query = "SELECT id, display_name, created_at FROM member_directory WHERE id > %s ORDER BY id LIMIT %s"
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, [after, limit]).fetchall()


def add_member(connection: psycopg.Connection, email: str, display_name: str) -> Row:
    """Raises ``psycopg.errors.UniqueViolation`` when the address is taken."""
    member = uuid4()
    with _acting_as(connection, member) as (cursor, events):
        row = _one(
            cursor,
            "INSERT INTO members (id, email, display_name) VALUES (%s, %s, %s)"
            " RETURNING id, email, display_name, created_at",
            [member, email, display_name],
        )
        if events:
            _append_event(cursor, member, "member.joined", {"display_name": display_name})
    return row


def get_member(connection: psycopg.Connection, member: UUID) -> Row | None:
    with _acting_as(connection, member) as (cursor, _):
        query = "SELECT id, email, display_name, created_at FROM members WHERE id = %s"
        return cursor.execute(query, [member]).fetchone()


def list_contributions(connection: psycopg.Connection, member: UUID, limit: int) -> list[Row] | None:
    """Newest first; None when there is no such member."""
    with _acting_as(connection, member) as (cursor, _):
        if not cursor.execute("SELECT FROM members WHERE id = %s", [member]).rowcount:
            return None
        return cursor.execute(_CONTRIBUTIONS, [member, limit]).fetchall()


def add_contribution(connection: psycopg.Connection, member: UUID, amount: Decimal, note: str | None) -> Row | None:
    """Record a contribution, book it and tell it as an event, all or nothing; None when there is no such member."""
    with _acting_as(connection, member) as (cursor, events):
        # The lock puts the member's events in a row: two at a time would take the same version.
        if not cursor.execute("SELECT FROM members WHERE id = %s FOR NO KEY UPDATE", [member]).rowcount:
            return None
        row = _one(cursor, _ADD_CONTRIBUTION, [member, amount, note])
        cursor.execute(
            "INSERT INTO treasury_entries (account_id, contribution_id, amount, description) VALUES (%s, %s, %s, %s)",
            [row.pop("account_id"), row["id"], amount, note or "Contribution"],
        )
        if events:
            told = {"contribution": str(row["id"]), "amount": str(amount), "currency": row["currency"]}
            _append_event(cursor, member, "member.contributed", told)
    return row


def _append_event(cursor: psycopg.Cursor[Row], member: UUID, event_type: str, payload: dict[str, str]) -> None:
    cursor.execute("SELECT append_event('member', %s, %s, %s)", [member, event_type, Jsonb(payload)])


def _one(cursor: psycopg.Cursor[Row], query: Any, values: list[Any] | None = None) -> Row:
    row = cursor.execute(query, values).fetchone()
    assert row is not None  # noqa: S101 - the queries given here return a row or raise
    return row
