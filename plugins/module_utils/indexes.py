# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Indexes built CONCURRENTLY: one that fails leaves an INVALID index behind, which costs writes and helps nobody."""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg

_WORD = r'(?:"(?:[^"]|"")+"|[^\s"().;]+)'
_BUILD = re.compile(
    rf"create\s+(?:unique\s+)?index\s+concurrently\s+(?:if\s+not\s+exists\s+)?(?P<name>{_WORD})"
    rf"\s+on\s+(?:only\s+)?(?P<table>{_WORD}(?:\s*\.\s*{_WORD})?)",
    re.I,
)
_CONCURRENT = re.compile(r"(create|drop|reindex|alter)\b.*\bconcurrently\b", re.I | re.S)
_INVALID = "SELECT indexrelid FROM pg_catalog.pg_index WHERE NOT indisvalid"
_NAMED = """
SELECT i.indexrelid::regclass::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid AND c.relname = %s AND i.indrelid = pg_catalog.to_regclass(%s)"""


@dataclass(frozen=True)
class Index:
    """An index by its own name (as in the catalog) and its table as written."""

    name: str
    table: str


def built_concurrently(sql: str) -> Index | None:
    """The index a CREATE INDEX CONCURRENTLY builds, or None for any other statement or one without a name."""
    found = _BUILD.match(sql)
    if not found or found["name"].lower() == "on":
        return None
    name = found["name"]
    plain = name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()
    return Index(plain, found["table"])


def is_concurrent(sql: str) -> bool:
    """Whether a statement waits for other transactions to end while it blocks nobody."""
    return bool(_CONCURRENT.match(sql))


def wait_for_locks(connection: psycopg.Connection) -> None:
    """Lift our own lock_timeout for a concurrent build, where it would only leave an INVALID index behind.

    statement_timeout still bounds it. A lock_timeout the file SET itself stays.
    """
    query = """SELECT set_config('lock_timeout', '0', false) FROM pg_catalog.pg_settings
               WHERE name = 'lock_timeout' AND source = 'client'"""
    connection.execute(query)


def invalid(connection: psycopg.Connection) -> set[int]:
    """Object ids of the indexes that are INVALID now."""
    return {row[0] for row in connection.execute(_INVALID)}


def is_invalid(connection: psycopg.Connection, index: Index) -> bool:
    """Whether this index exists but is INVALID."""
    return connection.execute(_NAMED, [index.name, index.table]).fetchone() is not None


def drop_if_invalid(connection: psycopg.Connection, index: Index) -> None:
    """Drop what an earlier, interrupted build of this very index left."""
    for (name,) in connection.execute(_NAMED, [index.name, index.table]).fetchall():
        connection.execute(f"DROP INDEX CONCURRENTLY {name}".encode())


def drop_new_invalid(connection: psycopg.Connection, before: set[int]) -> None:
    """Drop the INVALID indexes that were not there before our statement failed."""
    query = "SELECT oid::regclass::text FROM pg_catalog.pg_class WHERE oid = ANY(%s)"
    for (name,) in connection.execute(query, [list(invalid(connection) - before)]).fetchall():
        connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}".encode())
