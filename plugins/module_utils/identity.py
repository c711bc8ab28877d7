# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which environment a database says it is of: the one row of ``public.schema_migrations_environment``.

It travels with the rows, in a backup and in every copy, so a database that is at the wrong address can be told from the
right one. A database without it (from before there was one, or never migrated) is of no environment in particular.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible_collections.habitat.runbook.plugins.module_utils import history
from ansible_collections.habitat.runbook.plugins.module_utils.table import printable

if TYPE_CHECKING:
    import psycopg

TABLE = "public.schema_migrations_environment"

_SHOWN = 60  # characters of what somebody may have written there

# A key that has one value only keeps it at one row.
_CREATE = f"""
CREATE TABLE IF NOT EXISTS {TABLE} (
  environment text NOT NULL,
  set_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  set_by text NOT NULL,
  reason text,
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
)"""

_READABLE = """
SELECT FROM pg_catalog.pg_attribute
WHERE attrelid = pg_catalog.to_regclass(%s) AND attname = 'environment' AND NOT attisdropped
  AND pg_catalog.has_column_privilege(attrelid, attnum, 'SELECT')"""

_READ = f"SELECT environment::text FROM {TABLE} LIMIT 1"  # noqa: S608 (the name is a constant of this file)

_WRITE = f"""
INSERT INTO {TABLE} (environment, set_by, reason) VALUES (%s, %s, %s) ON CONFLICT (only_row)
DO UPDATE SET environment = excluded.environment, set_at = clock_timestamp(), set_by = excluded.set_by,
  reason = excluded.reason"""  # noqa: S608


def read(connection: psycopg.Connection) -> str | None:
    """The environment this database says it is of; None when it does not say, or our role may not read it."""
    if not connection.execute(_READABLE, [TABLE]).rowcount:
        return None
    row = connection.execute(_READ.encode()).fetchone()
    return row[0] if row else None


def missing(connection: psycopg.Connection, environment: str, operator: str) -> list[str]:
    """The statements of ``ensure``, as history.missing; empty when the database says what it is of."""
    row = connection.execute("SELECT pg_catalog.to_regclass(%s) IS NULL", [TABLE]).fetchone()
    create = [_CREATE] if row and row[0] else []
    if not create and connection.execute(_READ.encode()).rowcount:
        return []
    values = [_WRITE.replace("%s", "%L"), environment, operator]
    row = connection.execute("SELECT pg_catalog.format(%s, %s::text, %s::text, NULL)", values).fetchone()
    return [*create, *(row or ())]


def ensure(connection: psycopg.Connection, environment: str, operator: str) -> bool:
    """Have a database that does not say so be of ``environment``; True when something was changed."""
    if not missing(connection, environment, operator):
        return False
    write(connection, environment, operator)
    return True


def write(connection: psycopg.Connection, environment: str, operator: str, reason: str | None = None) -> None:
    """Have a database be of ``environment``, whatever it said before; ``operator`` and ``reason`` stand beside it."""
    with connection.transaction():
        connection.execute(_CREATE.encode())
        history.keep_private(connection, TABLE)
        connection.execute(_WRITE.encode(), [environment, operator, reason])


def contradiction(says: str | None, env: str) -> tuple[str, str, str] | None:
    """What is wrong, what was found, and what to do when a database says it is of another environment than ``env``."""
    if says in (None, env):
        return None
    own = env.replace("'", "''")
    change = f"UPDATE {TABLE} SET environment = '{own}', reason = 'copied by hand'"  # noqa: S608 (nobody runs it here)
    return (
        f"the database says it is {printable(str(says))[:_SHOWN]}, env is {env}",
        f"its table {TABLE.split('.')[1]}",
        f"point the inventory of {env} at its own database; or, for a copy made by hand that is to stay: {change}",
    )
