# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a closed fence has on record, and giving back what it took; see fence.py, which closes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import NOTE, note, read_json
from psycopg import sql

FENCE = "fence.json"
NAME_OF = "SELECT datname FROM pg_catalog.pg_database WHERE oid = %s"

_GRANT = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}{}")
_END = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE datid = %s AND usename = ANY(%s) AND backend_type = 'client backend' AND application_name NOT LIKE 'runbook%%'"""


def read_fence(folder: Path) -> dict[str, Any] | None:
    """The record of a run's closed fence; None when it is open."""
    return read_json(folder / FENCE)


def let_in(connection: psycopg.Connection, record: dict[str, Any], name: str | None = None) -> None:
    """Give back the rights to connect that a fence's record names, to the database ``name``.

    Left out, it is the fenced one by its oid, whatever it is called by now; one that is gone needs nothing.
    """
    if name is None:
        row = connection.execute(NAME_OF, [record["oid"]]).fetchone()
        name = row[0] if row else None
    if name is None:
        return
    for grant in record["grants"]:
        grantee = _grantee(connection, grant)
        if grantee is None:
            continue
        option = sql.SQL(" WITH GRANT OPTION" if grant["grantable"] else "")
        connection.execute(_GRANT.format(sql.Identifier(name), grantee, option))


def open_fence(connection: psycopg.Connection, folder: Path) -> bool:
    """Give back what closing took, in whatever database; False when the fence of this run was not closed."""
    record = read_fence(folder)
    if record is None:
        return False
    let_in(connection, record)
    (folder / FENCE).unlink(missing_ok=True)
    note(folder, NOTE, "fence", closed=False)
    return True


def end_kept_out(connection: psycopg.Connection, record: dict[str, Any], comment: str = "") -> None:
    """End the sessions of roles that no right can keep out; comment: what the query ends with."""
    query = _END + comment.replace("%", "%%")
    connection.execute(query.encode(), [record["oid"], record["ended_roles"]])


def _grantee(connection: psycopg.Connection, grant: dict[str, Any]) -> sql.Composable | None:
    """The role by its oid, whatever it is called by now; None when it is gone."""
    if not grant["oid"]:
        return sql.SQL("PUBLIC")
    row = connection.execute("SELECT rolname FROM pg_catalog.pg_roles WHERE oid = %s", [grant["oid"]]).fetchone()
    return sql.Identifier(row[0]) if row else None
