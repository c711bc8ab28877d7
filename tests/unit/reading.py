"""Read one migration as ``schema/07_x.sql``, for the tests of what a migration file may hold."""

from __future__ import annotations

from ansible_collections.habitat.runbook.plugins.module_utils.migration_file import (
    Migration,
    Source,
    read_migration,
)

UP = "CREATE TABLE x (a int);\n"
DOWN = "\n-- Down migration\nDROP TABLE x;\n"


def read(content: str | bytes, down: str | None = None) -> tuple[Migration | None, list[str]]:
    content = content.encode() if isinstance(content, str) else content
    down_source = None if down is None else Source("schema/07_x.down.sql", down.encode())
    migration, problems = read_migration("07", "x", Source("schema/07_x.sql", content), down_source)
    assert (migration is None) == bool(problems)
    return migration, [str(problem) for problem in problems]


def good(content: str | bytes, down: str | None = None) -> Migration:
    migration, problems = read(content, down)
    assert problems == []
    assert migration is not None
    return migration


def refused(content: str | bytes, down: str | None = None) -> list[str]:
    return read(content, down)[1]


def up(content: str) -> list[str]:
    return [statement.text for statement in good(content).up]
