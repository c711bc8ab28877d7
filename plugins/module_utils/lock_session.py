# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The session that holds the run lock: an advisory lock in database ``postgres``, and who has it.

Not in the target's database, which must stay renamable.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import Ended

LOCK_DATABASE = "postgres"
LOCK_CLASS = 0x48525542  # "HRUB": keeps our advisory locks apart from anybody else's

_HOLDER = """
SELECT a.query, a.application_name, a.backend_start, a.client_addr::text FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s AND l.objsubid = 2"""


def lock_key(database: str) -> int:
    """Second half of the advisory lock's key, one lock per target database: 31 bits, so never a negative int4."""
    return zlib.crc32(database.encode()) & 0x7FFFFFFF


def lock_application_name(run_id: str) -> str:
    """application_name of the guard's session; not that of the run's working sessions, which get ended."""
    return f"runbook-lock/{run_id}"


def session_name(run_id: str) -> str:
    """application_name of the run's working sessions: they are found, and ended, by it."""
    return f"runbook/{run_id}"


def try_lock(connection: psycopg.Connection, key: int) -> bool:
    """Take the lock if nobody has it."""
    row = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", [LOCK_CLASS, key]).fetchone()
    return bool(row and row[0])


def read_holder(connection: psycopg.Connection, key: int) -> dict[str, Any] | None:
    """Who holds the lock: ``{"run_id", "operator", "from", "since", "phase"}``, or None when it is free.

    The holder keeps this as a comment in its session's last query, where every session of the same role can read it.
    """
    row = connection.execute(_HOLDER, [LOCK_CLASS, key]).fetchone()
    if row is None:
        return None
    query, application_name, since, _ = row
    _, mark, label = (query or "").partition("/* ")
    known = json.loads(label.rpartition(" */")[0]) if mark else {"run_id": application_name.rpartition("/")[2]}
    # Who may not see another role's sessions is told no time.
    return dict(known, since=since.isoformat() if since else None)


def held_by(connection: psycopg.Connection, database: str) -> dict[str, Any] | None:
    """Who holds the run lock of a database, see ``read_holder``."""
    return read_holder(connection, lock_key(database))


def require(connection: psycopg.Connection, database: str, run_dir: str | None, run_id: str) -> None:
    """Raise Ended unless this run holds the lock; without a run_dir there is no run that could."""
    holder = held_by(connection, database) if run_dir else None
    if run_dir and (not holder or holder["run_id"] != run_id):
        who = f"run {holder['run_id']} does" if holder else "nobody does"
        raise Ended(f"this run does not hold the run lock ({who}); start again with the same command")


def show(connection: psycopg.Connection, label: dict[str, Any]) -> None:
    """Put the label where ``read_holder`` finds it."""
    connection.execute(f"SELECT 1{comment(label)}".encode())


def comment(label: dict[str, Any]) -> str:
    """The label as the end of a query; written so, no text can end the comment, and it is the same JSON."""
    text = json.dumps(label).replace("/", "\\u002f")
    return f" /* {text} */"


def end_sessions(connection: psycopg.Connection, run_id: str) -> int:
    """Tell the run's working sessions to end; how many there still are."""
    return end_others(connection, session_name(run_id))


def end_others(connection: psycopg.Connection, application_name: str) -> int:
    """Tell all sessions of that name but this one to end; how many there still are."""
    query = """SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
               WHERE application_name = %s AND pid <> pg_catalog.pg_backend_pid()"""
    return len(connection.execute(query, [application_name]).fetchall())
