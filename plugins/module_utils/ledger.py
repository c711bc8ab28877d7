# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The ledger in the database: ``public.schema_migrations`` and what is recorded beside it.

The table is the one of the founding runbook, ``(version, applied_at)``, with more columns behind: an INSERT of a
version alone, a DELETE and a SELECT by hand keep working, and a row without a checksum is one made by hand.
A migration that ran only in part has no row there but one in ``public.schema_migrations_progress``.
"""

from __future__ import annotations

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import history, identity
from psycopg.rows import dict_row

TABLE = "public.schema_migrations"
PROGRESS = "public.schema_migrations_progress"

_COLUMNS = {
    "name": "text",
    "checksum": "text",
    "kind": "text",
    "duration_ms": "bigint",
    "applied_by": "text",
    "run_id": "text",
    "down_sql": "text",
}

_CREATE = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
  version text PRIMARY KEY,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)"""

_CREATE_PROGRESS = f"""
CREATE TABLE IF NOT EXISTS {PROGRESS} (
  version text PRIMARY KEY,
  name text NOT NULL,
  done integer NOT NULL,
  total integer NOT NULL,
  prefix text NOT NULL,
  run_id text NOT NULL,
  error text,
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
)"""

# now() is the start of the migration's transaction, so the difference is what its statements took. The row and its
# entry in the history are one statement: a second one costs as much as the first for a small migration.
RECORD = f"""
WITH recorded AS (
  INSERT INTO {TABLE} (version, applied_at, name, checksum, kind, duration_ms, applied_by, run_id, down_sql)
  VALUES (%s, clock_timestamp(), %s, %s, %s,
          coalesce(%s, (extract(epoch FROM clock_timestamp() - now()) * 1000)::bigint), %s, %s, %s) RETURNING *),
told AS (
  INSERT INTO {history.TABLE} (event, version, name, run_id, operator, duration_ms, origin, detail)
  SELECT kind, version, name, run_id, applied_by, duration_ms, %s, %s::jsonb FROM recorded)
SELECT duration_ms, pg_catalog.pg_current_xact_id()::text AS xid FROM recorded"""  # noqa: S608 (table names are constants of this file, here and below)

SET_PROGRESS = f"""
INSERT INTO {PROGRESS} (version, name, done, total, prefix, run_id) VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (version) DO UPDATE SET name = excluded.name, done = excluded.done, total = excluded.total,
  prefix = excluded.prefix, run_id = excluded.run_id, error = NULL, updated_at = clock_timestamp()"""  # noqa: S608

SET_ERROR = f"UPDATE {PROGRESS} SET error = %s, updated_at = clock_timestamp() WHERE version = %s"  # noqa: S608

CLEAR_PROGRESS = f"DELETE FROM {PROGRESS} WHERE version = %s"  # noqa: S608

_SHAPE = """
SELECT a.attname, a.attnum, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type,
       d.adbin IS NOT NULL AS has_default
FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = pg_catalog.to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped"""

# What belongs to an extension, to the system or to the ledger itself is nobody's migration.
_OBJECTS = """
WITH users AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
extension AS (SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e')
SELECT (SELECT count(*) FROM pg_catalog.pg_class c WHERE relnamespace IN (SELECT oid FROM users)
          AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
          AND oid NOT IN (SELECT pg_catalog.to_regclass(name) FROM pg_catalog.unnest(%s::text[]) name
                          WHERE pg_catalog.to_regclass(name) IS NOT NULL)
          AND NOT EXISTS (SELECT FROM extension WHERE classid = 'pg_catalog.pg_class'::regclass AND objid = c.oid))
     + (SELECT count(*) FROM pg_catalog.pg_proc p WHERE pronamespace IN (SELECT oid FROM users)
          AND NOT EXISTS (SELECT FROM extension WHERE classid = 'pg_catalog.pg_proc'::regclass AND objid = p.oid))
     + (SELECT count(*) FROM pg_catalog.pg_type t WHERE typnamespace IN (SELECT oid FROM users)
          AND typtype IN ('d', 'e', 'r')
          AND NOT EXISTS (SELECT FROM extension WHERE classid = 'pg_catalog.pg_type'::regclass AND objid = t.oid))
"""


def record(head: dict, kind: str, milliseconds: int | None, who: history.Run, detail: dict | None = None) -> tuple:
    """Parameters of RECORD for the head of a migration; kind is history.APPLY or BASELINE."""
    values = (head["version"], head["name"], head["checksum"], kind, milliseconds, who.operator, who.run_id)
    return (*values, head["down"]["sql"] or None, who.origin, history.as_json(detail))


def read_ledger(connection: psycopg.Connection) -> dict:
    """Read the ledger without changing anything.

    Returns ``{"exists", "foreign", "objects", "rows", "progress", "environment"}``: whether the table is there; a
    sentence when it belongs to another tool, else None; the number of other objects in the database; the rows as dicts
    (whatever columns the table has, without the down texts); the partial migrations; the environment the database says
    it is of. Works with a role that may only SELECT.
    """
    cursor = connection.cursor(row_factory=dict_row)
    shape = cursor.execute(_SHAPE, [TABLE]).fetchall()
    columns = {column["attname"] for column in shape}
    foreign = _foreign(columns) if shape else None
    rows: list[dict] = []
    if shape and not foreign:
        query = f"SELECT to_jsonb(m) - 'down_sql' AS row FROM {TABLE} m ORDER BY version::text"  # noqa: S608
        rows = [record["row"] for record in cursor.execute(query)]
    objects = connection.execute(_OBJECTS, [[TABLE, PROGRESS, history.TABLE, identity.TABLE]]).fetchone()
    return {
        "exists": bool(shape),
        "foreign": foreign,
        "objects": objects[0] if objects else 0,
        "rows": rows,
        "progress": read_progress(connection),
        "environment": identity.read(connection),
    }


def read_progress(connection: psycopg.Connection) -> list[dict]:
    """The partial migrations: version, name, done, total, prefix, run_id, error, updated_at."""
    cursor = connection.cursor(row_factory=dict_row)
    if not cursor.execute(_SHAPE, [PROGRESS]).fetchall():
        return []
    rows = cursor.execute(f"SELECT * FROM {PROGRESS} ORDER BY version")  # noqa: S608
    return [dict(row, updated_at=row["updated_at"].isoformat()) for row in rows]


def _foreign(columns: set[str]) -> str | None:
    if "dirty" in columns:
        return "its column dirty says golang-migrate made it"
    if "statements" in columns:
        return "its column statements says Supabase made it"
    if "version" not in columns:
        return "it has no column version"
    return None


def missing(connection: psycopg.Connection, who: history.Run) -> list[str]:
    """The statements of ``ensure_ledger``, for people to read, as history.missing; empty when it has nothing to do."""
    told = identity.missing(connection, who.environment, who.operator) if who.environment else []
    return [statement.strip() for statement in (*_missing(connection), *told, *history.missing(connection))]


def _missing(connection: psycopg.Connection) -> list[str]:
    """The statements that the tables of the ledger itself want."""
    cursor = connection.cursor(row_factory=dict_row)
    shape = {column["attname"]: column for column in cursor.execute(_SHAPE, [TABLE])}
    todo = [] if shape else [_CREATE]
    if shape and "applied_at" not in shape:
        todo.append(f"ALTER TABLE {TABLE} ADD COLUMN applied_at timestamptz DEFAULT clock_timestamp()")
    elif shape and not shape["applied_at"]["has_default"]:
        todo.append(f"ALTER TABLE {TABLE} ALTER COLUMN applied_at SET DEFAULT clock_timestamp()")
    columns = [f"ADD COLUMN {name} {kind}" for name, kind in _COLUMNS.items() if name not in shape]
    if columns:
        todo.append(f"ALTER TABLE {TABLE} {', '.join(columns)}")
    if not cursor.execute(_SHAPE, [PROGRESS]).fetchall():
        todo.append(_CREATE_PROGRESS)
    return todo


def ensure_ledger(connection: psycopg.Connection, who: history.Run | None = None) -> bool:
    """Create the ledger, or give an existing table the columns it lacks; True when something was changed.

    Rows, other columns and constraints of an existing table are left as they are. A database that does not say of which
    environment it is becomes one of ``who``'s.
    """
    todo = _missing(connection)
    with connection.transaction():
        for statement in todo:
            connection.execute(statement.encode())
        for table, made in ((TABLE, _CREATE), (PROGRESS, _CREATE_PROGRESS)):
            if made in todo:
                history.keep_private(connection, table)
        told = False
        if who and who.environment:
            told = identity.ensure(connection, who.environment, who.operator)
        return history.ensure(connection) or told or bool(todo)
