# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What happened to the database, beside the ledger: ``public.schema_migrations_history``.

Rows are only added: the right to change or remove them is taken from the table's owner, too. After a swap the rows
go on in the database that was swapped in, so the history is that of the name, not of one copy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

TABLE = "public.schema_migrations_history"

APPLY, FAIL, REVERT, RESTORE, BASELINE, ADOPT = "apply", "fail", "revert", "restore", "baseline", "adopt"

_CREATE = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  event text NOT NULL,
  version text,
  name text,
  run_id text NOT NULL,
  operator text NOT NULL,
  origin text NOT NULL,
  duration_ms bigint,
  error text,
  detail jsonb
)"""

_APPEND_ONLY = f"""
DO $$ BEGIN EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON {TABLE} FROM %I', current_user); END $$"""

INSERT = f"""
INSERT INTO {TABLE} (event, version, name, run_id, operator, origin, duration_ms, error, detail)
VALUES (%s, %s, %s, %s, %s, %s,
        coalesce(%s::bigint, (extract(epoch FROM clock_timestamp() - now()) * 1000)::bigint), %s, %s::jsonb)"""  # noqa: S608

_EXISTS = f"SELECT pg_catalog.to_regclass('{TABLE}') IS NOT NULL"
_COLUMNS = "id, at, event, version, name, run_id, operator, origin, duration_ms, error, detail"


@dataclass(frozen=True)
class Run:
    """Who acts: the run's id, the person, where the run comes from (a host, an AWX job, a CI run), and for which
    environment ("": the database is not told)."""

    run_id: str
    operator: str
    origin: str = "unknown"
    environment: str = ""


def values(
    event: str,
    who: Run,
    version: str | None = None,
    name: str | None = None,
    milliseconds: int | None = None,
    error: str | None = None,
    detail: dict[str, Any] | None = None,
) -> tuple:
    """Parameters of INSERT; without milliseconds the duration is that of the transaction so far."""
    return (event, version, name, who.run_id, who.operator, who.origin, milliseconds, error, as_json(detail))


def as_json(detail: dict[str, Any] | None) -> str | None:
    """The column ``detail`` as text."""
    return None if detail is None else json.dumps(detail, ensure_ascii=False, sort_keys=True)


def exists(connection: psycopg.Connection) -> bool:
    """Whether the database has a history."""
    row = connection.execute(_EXISTS).fetchone()
    return bool(row and row[0])


def missing(connection: psycopg.Connection) -> list[str]:
    """The statements of ``ensure``, but for what ``keep_private`` takes away; empty where there is a history."""
    return [] if exists(connection) else [_CREATE, _APPEND_ONLY]


def ensure(connection: psycopg.Connection) -> bool:
    """Create the history where there is none; True when that was done."""
    todo = missing(connection)
    if not todo:
        return False
    with connection.transaction():
        for statement in todo:
            connection.execute(statement.encode())
        keep_private(connection, TABLE)
    return True


def keep_private(connection: psycopg.Connection, table: str) -> None:
    """Take away what default privileges of the schema gave others: the application must not write its history."""
    query = """SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
               FROM pg_class, aclexplode(relacl) WHERE oid = %s::regclass AND grantee <> relowner"""
    for (grantee,) in connection.execute(query, [table]).fetchall():
        connection.execute(f"REVOKE ALL ON {table} FROM {grantee}".encode())


def read_history(connection: psycopg.Connection, limit: int) -> list[dict[str, Any]]:
    """The newest ``limit`` entries, newest first: at (ISO 8601), event, version, name, run_id, operator, origin,
    duration_ms, error. Empty where there is no history or our role may not read it."""
    readable = f"SELECT coalesce(pg_catalog.has_table_privilege(pg_catalog.to_regclass('{TABLE}'), 'SELECT'), false)"
    row = connection.execute(readable).fetchone()
    if not (row and row[0]):
        return []
    query = f"SELECT to_jsonb(h) - 'detail' - 'id' FROM {TABLE} h ORDER BY at DESC LIMIT %s"  # noqa: S608
    return [entry for (entry,) in connection.execute(query, [limit]).fetchall()]


def last_commit(connection: psycopg.Connection) -> str | None:
    """When the last run that committed something committed its first thing, ISO 8601; None when none ever did.

    A rollback to a backup is no such run: asked for the latest backup again, the answer has to be the same one.
    """
    if not exists(connection):
        return None
    partly = f"event = '{FAIL}' AND detail ->> 'state' = 'partial'"
    changing = f"FROM {TABLE} WHERE (event NOT IN ('{FAIL}', '{RESTORE}', '{ADOPT}') OR {partly})"
    query = f"""
        SELECT to_jsonb(min(at)) #>> '{{}}' {changing} AND run_id =
          (SELECT run_id {changing} ORDER BY at DESC LIMIT 1)"""
    row = connection.execute(query).fetchone()
    return row[0] if row else None


def changes_of(connection: psycopg.Connection, version: str, run_id: str | None) -> dict[str, Any] | None:
    """What this run changed in the schema when it applied the version, as it was recorded; None if it was not."""
    if run_id is None or not exists(connection):
        return None
    query = f"""
        SELECT detail FROM {TABLE} WHERE event = 'apply' AND version = %s AND run_id = %s ORDER BY at DESC LIMIT 1"""  # noqa: S608
    row = connection.execute(query, [version, run_id]).fetchone()
    return row[0] if row else None


def carry_over(source: psycopg.Connection, target: psycopg.Connection) -> int:
    """Add the entries of ``source`` that ``target`` has not, and return how many; the target has the table."""
    if not exists(source):
        return 0
    target.execute(f"CREATE TEMPORARY TABLE carried (LIKE {TABLE})".encode())
    with source.cursor() as out, target.cursor() as into:
        # Text format on both sides, so that two servers' versions or encodings make no difference.
        give, take = f"COPY {TABLE} ({_COLUMNS}) TO STDOUT", f"COPY pg_temp.carried ({_COLUMNS}) FROM STDIN"
        with out.copy(give.encode()) as rows, into.copy(take.encode()) as filled:
            for chunk in rows:
                filled.write(chunk)
        query = f"INSERT INTO {TABLE} ({_COLUMNS}) SELECT {_COLUMNS} FROM pg_temp.carried ON CONFLICT DO NOTHING"  # noqa: S608
        added = into.execute(query.encode()).rowcount
        into.execute("DROP TABLE pg_temp.carried")
    return added
