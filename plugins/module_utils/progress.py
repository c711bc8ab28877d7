# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a run's sessions are doing at this moment, from PostgreSQL's own views of progress. Reads only."""

from __future__ import annotations

from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.lock_session import session_name
from psycopg.rows import dict_row

# Rows of tables are estimates of the last ANALYZE; a table that is being filled has none.
_COPIES = """
SELECT c.oid::regclass::text AS what, p.tuples_processed AS done, nullif(greatest(c.reltuples, 0), 0)::bigint AS total,
       'rows' AS unit, p.command AS doing
FROM pg_catalog.pg_stat_progress_copy p
JOIN pg_catalog.pg_stat_activity a USING (pid) JOIN pg_catalog.pg_class c ON c.oid = p.relid
WHERE p.datname = pg_catalog.current_database() AND a.application_name = %s ORDER BY 1"""

# Names of relations are known inside their own database only, so the statement says which index it is.
_INDEXES = """
SELECT a.query AS what, p.blocks_done AS done, nullif(p.blocks_total, 0) AS total, 'blocks' AS unit, p.phase AS doing
FROM pg_catalog.pg_stat_progress_create_index p JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE a.application_name = %s"""

_STATEMENTS = """
SELECT a.query AS what, extract(epoch FROM pg_catalog.clock_timestamp() - a.query_start)::float AS seconds,
       a.wait_event_type = 'Lock' AS waits,
       (SELECT pg_catalog.array_agg(b.pid || ' ' || coalesce(nullif(b.application_name, ''), b.usename, '?'))
        FROM pg_catalog.pg_stat_activity b WHERE b.pid = ANY(pg_catalog.pg_blocking_pids(a.pid))) AS blockers
FROM pg_catalog.pg_stat_activity a
WHERE a.application_name = %s AND a.state = 'active' AND a.pid <> pg_catalog.pg_backend_pid()
  AND a.backend_type = 'client backend' ORDER BY a.query_start"""


def read_progress(connection: psycopg.Connection, run_id: str) -> list[dict[str, Any]]:
    """What the run's sessions do: what (table or statement), doing, done, total, unit, seconds, blockers.

    Tables that are copied are seen only from a session in their own database.
    """
    cursor, name = connection.cursor(row_factory=dict_row), session_name(run_id)
    copies = cursor.execute(_COPIES, [name]).fetchall()
    indexes = cursor.execute(_INDEXES, [name]).fetchall()
    statements = [] if copies or indexes else cursor.execute(_STATEMENTS, [name]).fetchall()
    return [
        dict(row, kind=kind)
        for kind, rows in (("copy", copies), ("index", indexes), ("statement", statements))
        for row in rows
    ]
