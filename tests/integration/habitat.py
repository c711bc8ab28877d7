"""Habitat's own schema for tests: apply it and take it back, as the role that owns the database."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.migration_file import Migration
from ansible_collections.habitat.runbook.plugins.module_utils.schema_folder import read_schema

from demo.embedded import postgres

REPOSITORY = Path(__file__).resolve().parents[2]
MIGRATIONS = {migration.version: migration for migration in read_schema(REPOSITORY / "schema").migrations}
LEDGER = "CREATE TABLE schema_migrations (version text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"


def make_roles(cluster: Any, database: str) -> None:
    """Owner and application role as they should be: both log in, neither can do more than it is granted."""
    with cluster.connect() as admin:
        for role in ("habitat", "habitat_app"):
            if not admin.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).rowcount:
                admin.execute(f"CREATE ROLE {role} LOGIN")
        admin.execute(f'ALTER DATABASE "{database}" OWNER TO habitat')


def apply(session: psycopg.Connection, first: str = "01", last: str = "07") -> None:
    """Run the up sections and what they verify, each file in its own transaction."""
    for version, migration in MIGRATIONS.items():
        if first <= version <= last:
            with session.transaction():
                for statement in migration.up:
                    session.execute(statement.text)
                assert found(session, migration) == []


def found(session: psycopg.Connection, migration: Migration) -> list[tuple]:
    """The rows that a migration's verify section returns; there should be none."""
    return [row for statement in migration.verify for row in session.execute(statement.text).fetchall()]


def revert(session: psycopg.Connection, version: str) -> None:
    """Run a down section in one transaction."""
    with session.transaction(), psycopg.ClientCursor(session) as cursor:
        cursor.execute(MIGRATIONS[version].down.sql)


def schema_of(session: psycopg.Connection) -> list[str]:
    """What pg_dump says about a database, without its comments and the random \\restrict lines."""
    info = session.info
    where = ["-h", info.host, "-p", str(info.port), "-U", info.user, "-d", info.dbname]
    dump = subprocess.run(
        [postgres.tool("pg_dump"), "--schema-only", *where], text=True, capture_output=True, check=True
    ).stdout
    return [line for line in dump.splitlines() if line and not line.startswith(("--", "\\"))]
