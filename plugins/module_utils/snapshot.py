# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""One exported snapshot of a database and what is true in it: counts, digests, versions, names.

A snapshot alone is not enough: TRUNCATE and rewriting ALTER TABLEs act on older snapshots, too, and would leave a state
in the dump that never was. So the tables are locked (ACCESS SHARE) before the snapshot is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils import identity, large_objects
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import (
    BackupError,
    qualified,
    quoted,
    sorted_versions,
)
from ansible_collections.habitat.runbook.plugins.module_utils.table import count
from ansible_collections.habitat.runbook.plugins.module_utils.table import session as described

if TYPE_CHECKING:
    import psycopg

_ATTEMPTS = 5
_UNDEFINED_TABLE = "42P01"

# Text of rows is compared between databases, so everything that changes it is fixed; the search path is empty so that
# no function or operator of the database can take the place of a built-in one (CVE-2018-1058).
_SETTINGS = """
SET LOCAL search_path = '';
SET LOCAL client_encoding = 'UTF8';
SET LOCAL row_security = off;
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;
SET LOCAL datestyle = 'ISO, YMD';
SET LOCAL intervalstyle = 'postgres';
SET LOCAL timezone = 'UTC';
SET LOCAL bytea_output = 'hex';
SET LOCAL extra_float_digits = 3;
SET LOCAL lc_monetary = 'C';
SET LOCAL quote_all_identifiers = off;
SET LOCAL max_parallel_workers_per_gather = 0;
"""

# What pg_dump dumps: no system schemas, nothing temporary, of extensions only their configuration. Parameter: relkinds.
_TABLES = """
SELECT n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, c.relispopulated AS populated,
       pg_catalog.has_table_privilege(c.oid, 'SELECT') AS readable,
       c.relkind = 'r' AND pg_catalog.row_security_active(c.oid) AS policed
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind::text = ANY (%s) AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
      AND c.oid <> ALL (coalesce(e.extconfig, '{}')))
ORDER BY 1, 2"""

# The column of the default locale was renamed in 17; reading the row as JSON spares a query for each version.
_DATABASE = """
SELECT d.datname AS name, pg_catalog.pg_get_userbyid(d.datdba) AS owner,
       pg_catalog.pg_encoding_to_char(d.encoding) AS encoding, d.datcollate AS collate, d.datctype AS ctype,
       d.datlocprovider::text AS locale_provider,
       coalesce(j ->> 'datlocale', j ->> 'daticulocale') AS locale, j ->> 'daticurules' AS icu_rules
FROM pg_catalog.pg_database d, pg_catalog.to_jsonb(d) j WHERE d.datname = pg_catalog.current_database()"""

_FACTS = """
SELECT pg_catalog.current_setting('server_version') AS server_version,
       (SELECT coalesce(pg_catalog.jsonb_object_agg(extname, extversion), '{}') FROM pg_catalog.pg_extension)
         AS extensions,
       EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attname = 'version' AND NOT attisdropped
               AND attrelid = pg_catalog.to_regclass('public.schema_migrations')) AS has_ledger"""

# Whom the dump will name: owners, who was granted something, whom policies are for. Of what belongs to an extension
# neither the owner nor what came with it is dumped. What belongs to the server's first superuser is not in pg_shdepend.
_ROLES = """
SELECT r.rolname::text AS name
FROM pg_catalog.pg_shdepend s JOIN pg_catalog.pg_roles r ON r.oid = s.refobjid
WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
  AND s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
  AND s.classid <> 'pg_catalog.pg_extension'::pg_catalog.regclass
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.deptype = 'e' AND (d.classid, d.objid) = (s.classid, s.objid))
UNION
SELECT pg_catalog.pg_get_userbyid(c.relowner)::text FROM pg_catalog.pg_class c
WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.deptype = 'e' AND (d.classid, d.objid) = ('pg_catalog.pg_class'::pg_catalog.regclass, c.oid))
ORDER BY 1"""

# Of the transaction's own snapshot, so at REPEATABLE READ of the exported one; xid8 does not wrap around.
_IDENTITY = """
SELECT c.system_identifier::text AS system_identifier, d.oid::bigint AS database_oid,
       pg_catalog.pg_snapshot_xmin(s)::text AS xmin, pg_catalog.pg_snapshot_xmax(s)::text AS xmax,
       ARRAY(SELECT x::text FROM pg_catalog.pg_snapshot_xip(s) AS x) AS xip,
       CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
            ELSE pg_catalog.pg_current_wal_lsn() END::text AS lsn
FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d, pg_catalog.pg_current_snapshot() s
WHERE d.datname = pg_catalog.current_database()"""

# "(x.*)" is the row even where a column is called x.
_COUNT = """
SELECT pg_catalog.count(*) AS rows,
       coalesce(pg_catalog.sum(pg_catalog.hashtextextended((x.*)::text, 0)), 0)::text AS digest
FROM ONLY {} AS x"""

_COUNT_VIEW = "SELECT pg_catalog.count(*) AS rows FROM {}"

# Whoever has or wants a table, index, view or sequence for itself alone, and is none of us.
_EXCLUSIVE = """
SELECT a.pid, a.usename AS role, a.application_name AS app, a.state, a.query
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
ORDER BY l.granted DESC, a.xact_start LIMIT 3"""

_WAITING = """
SELECT pid FROM pg_catalog.pg_stat_activity
WHERE application_name = %s AND datname = pg_catalog.current_database() AND wait_event_type = 'Lock'
  AND pid <> pg_catalog.pg_backend_pid()"""

_WAITED_FOR = """
WITH RECURSIVE chain (waiter, pid) AS (
  SELECT pid, pg_catalog.unnest(pg_catalog.pg_blocking_pids(pid)) FROM pg_catalog.unnest(%s::int[]) AS pid
  UNION SELECT waiter, pg_catalog.unnest(pg_catalog.pg_blocking_pids(pid)) FROM chain)
SELECT l.relation::pg_catalog.regclass::text AS object,
       extract(epoch FROM pg_catalog.clock_timestamp() - l.waitstart) * 1000 AS waited_ms,
       pg_catalog.bool_or(c.pid = pg_catalog.pg_backend_pid()) AS behind_us
FROM pg_catalog.pg_locks l JOIN chain c ON c.waiter = l.pid WHERE NOT l.granted GROUP BY 1, 2"""


@dataclass(frozen=True)
class Table:
    """A relation with rows, or a sequence; ``policed`` when row security would hide rows."""

    schema: str
    name: str
    kind: str
    populated: bool
    readable: bool
    policed: bool

    @property
    def key(self) -> str:
        return qualified(self.schema, self.name)

    @property
    def sql(self) -> str:
        return f"{quoted(self.schema)}.{quoted(self.name)}"


class OutOfTurn(Exception):
    """pg_dump waits for somebody who waits for us. Nobody would ever go on; beginning anew lets him through."""


@dataclass(frozen=True)
class Snapshot:
    """``name`` is what pg_dump --snapshot takes; ``taken_at`` an ISO time in UTC by the database's clock.

    ``codec`` is Python's name of the database's encoding; ``tables`` are locked.
    """

    name: str
    taken_at: str
    codec: str
    tables: list[Table]


def query(connection: psycopg.Connection, text: str, parameters: list[Any] | None = None) -> list[dict[str, Any]]:
    """Rows as dicts, whatever the row factory of the connection is."""
    cursor = connection.cursor(row_factory=_dict_rows).execute(text, parameters)
    return cursor.fetchall()


def _dict_rows(cursor: Any) -> Any:
    names = [column.name for column in cursor.description or ()]
    return lambda values: dict(zip(names, values))


def readable_tables(connection: psycopg.Connection) -> list[Table]:
    """The tables a dump takes along. Raises BackupError when the role cannot read all of their rows.

    ``connection`` is in autocommit mode and idle; nothing but catalogs is read.
    """
    connection.execute("BEGIN READ ONLY")
    try:
        connection.execute(reading_settings(connection))
        return _read_tables(connection)
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK")


def reading_settings(connection: psycopg.Connection) -> str:
    newer = "SET LOCAL transaction_timeout = 0;" if connection.info.server_version >= 170000 else ""
    return _SETTINGS + newer


def _read_tables(connection: psycopg.Connection) -> list[Table]:
    tables = [Table(**row) for row in query(connection, _TABLES, [["r", "p", "m"]])]
    role = connection.info.user
    policed = [table.key for table in tables if table.policed]
    if policed:
        raise BackupError(
            f"role {role} sees only a part of {_some(policed)} because of row-level security, and a backup of a part "
            f"is none; take it as a superuser or as a role with BYPASSRLS (ALTER ROLE {quoted(role)} BYPASSRLS)"
        )
    unreadable = [table.key for table in tables if not table.readable and table.kind != "m"]
    if unreadable:
        raise BackupError(
            f"role {role} may not read {_some(unreadable)}; take the backup as the owner or grant the right to read "
            f"everything (GRANT pg_read_all_data TO {quoted(role)})"
        )
    closed = query(connection, large_objects.UNREADABLE)
    if closed:
        raise BackupError(
            f"role {role} may not read {count(len(closed), 'large object')}; take the backup as a superuser or as the "
            f"owner or grant the right (GRANT SELECT ON LARGE OBJECT {closed[0]['oid']} TO {quoted(role)})"
        )
    return tables


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tables" if len(names) > 3 else "")


@contextmanager
def exported_snapshot(connection: psycopg.Connection, lock_wait_ms: int) -> Iterator[Snapshot]:
    """Lock all tables, take and export a snapshot, and keep both until the block ends.

    ``connection`` is in autocommit mode and idle. Raises psycopg.errors.LockNotAvailable when a table cannot be locked
    in time (``who_is_in_the_way`` tells by whom), BackupError when rows cannot be read or when tables come and go so
    fast that locks and snapshot never agree.
    """
    try:
        yield _open(connection, lock_wait_ms)
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK")


def _open(connection: psycopg.Connection, lock_wait_ms: int) -> Snapshot:
    for _ in range(_ATTEMPTS):
        snapshot = _lock_and_take(connection, readable_tables(connection), lock_wait_ms)
        if snapshot:
            return snapshot
    raise BackupError("tables are created and dropped faster than they can be locked; pause that and run this again")


def _lock_and_take(connection: psycopg.Connection, wanted: list[Table], lock_wait_ms: int) -> Snapshot | None:
    # Neither SET nor LOCK takes a snapshot: the first SELECT does, when the locks are held.
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    connection.execute(reading_settings(connection) + f"SET LOCAL lock_timeout = {lock_wait_ms:d};")
    lockable = [table.sql for table in wanted if table.kind != "m"]
    try:
        if lockable:
            connection.execute(f"LOCK TABLE ONLY {', ONLY '.join(lockable)} IN ACCESS SHARE MODE")
        snapshot = _take(connection)
    except connection.Error as error:
        if error.sqlstate != _UNDEFINED_TABLE:
            raise
        snapshot = None
    if snapshot and {table.key for table in snapshot.tables} <= {table.key for table in wanted}:
        return snapshot
    connection.execute("ROLLBACK")
    return None


def _take(connection: psycopg.Connection) -> Snapshot:
    row = query(
        connection,
        "SELECT pg_catalog.pg_export_snapshot() AS name, pg_catalog.current_setting('server_encoding') AS encoding, "
        'pg_catalog.to_char(pg_catalog.clock_timestamp(), \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\') AS taken_at',
    )[0]
    return Snapshot(row["name"], row["taken_at"], _codec(connection, row["encoding"]), _read_tables(connection))


def _codec(connection: psycopg.Connection, encoding: str) -> str:
    """Python's name of the database's encoding, in which pg_dump writes names; SQL_ASCII says nothing, take UTF-8."""
    if encoding == "SQL_ASCII":
        return "utf-8"
    connection.execute(f"SET LOCAL client_encoding = '{encoding}'")
    codec = connection.info.encoding
    connection.execute("SET LOCAL client_encoding = 'UTF8'")
    return codec


def raise_if_stuck(connection: psycopg.Connection, session: str, lock_wait_ms: int) -> None:
    """Look whether other sessions of this name (pg_dump's) wait for a lock, as ``connection`` holds the snapshot.

    Raises OutOfTurn when they wait for somebody who waits for ``connection``, BackupError when they have waited longer
    than ``lock_wait_ms``.
    """
    connection.execute("SELECT pg_catalog.pg_stat_clear_snapshot()")
    waiting = [row["pid"] for row in query(connection, _WAITING, [session])]
    # pg_locks lists every lock of every session, so it is read only when there is something to find.
    for row in query(connection, _WAITED_FOR, [waiting]) if waiting else ():
        if row["behind_us"]:
            raise OutOfTurn(who_is_in_the_way(connection, row["object"], lock_wait_ms))
        if row["waited_ms"] is not None and row["waited_ms"] > lock_wait_ms:
            raise BackupError(who_is_in_the_way(connection, row["object"], lock_wait_ms))


def who_is_in_the_way(connection: psycopg.Connection, what: str | None, lock_wait_ms: int) -> str:
    """The sentence for a lock that was not got in time."""
    sessions = "; ".join(described(row) for row in query(connection, _EXCLUSIVE))
    return (
        f"the backup waited {lock_wait_ms / 1000:g} s for {what or 'a table'}, which is locked by "
        f"{sessions or 'a session that is gone by now'}; end that session or wait for it, then run this again"
    )


def read_facts(connection: psycopg.Connection) -> dict[str, Any]:
    """What the manifest tells about the database as a whole, but for ``database.properties``.

    ``snapshot`` says of which server and database it is true, and which transactions it sees: ``xmin``, ``xmax`` and
    the top-level ones in between that were running, ``xip``, as pg_current_snapshot() has them; ``lsn`` is the end of
    the WAL a moment after it was taken, so everything it sees is before. ``roles`` are those that a dump names. The
    digest of the large objects holds as far as those of tables do, see ``count_tables``.
    """
    facts = query(connection, _FACTS)[0]
    facts["roles"] = [row["name"] for row in query(connection, _ROLES)]
    facts["large_objects"] = query(connection, large_objects.COUNT)[0]
    versions = None
    if facts.pop("has_ledger"):
        rows = query(connection, "SELECT version::text AS version FROM public.schema_migrations")
        versions = sorted_versions(row["version"] for row in rows)
    database = {**query(connection, _DATABASE)[0], "environment": identity.read(connection)}
    described = {"database": database, "snapshot": read_identity(connection)}
    return {**facts, **described, "ledger_versions": versions}


def read_identity(connection: psycopg.Connection) -> dict[str, Any]:
    """The ``snapshot`` of a manifest: which server and database this is, and which transactions are seen now."""
    return query(connection, _IDENTITY)[0]


def count_tables(connection: psycopg.Connection, tables: Iterable[Table]) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(key, {"rows": n, "digest": text})`` of every table, one after the other.

    A partition is counted as the table it is; its partitioned parent holds no rows and is left out. The digest is the
    sum of a 64 bit hash of every row's text: the order of rows does not matter, and it is equal in a restored copy on
    a server of the same major version (PostgreSQL does not promise hash values across majors).
    """
    for table in tables:
        if table.kind == "r":
            yield table.key, query(connection, _COUNT.format(table.sql))[0]


def read_sequences(connection: psycopg.Connection) -> dict[str, dict[str, Any]]:
    """``{key: {"last_value": n, "is_called": bool}}`` of every sequence as it is now: they belong to no snapshot."""
    sequences = [Table(**row) for row in query(connection, _TABLES, [["S"]])]
    text = "SELECT last_value, is_called FROM {}"
    return {sequence.key: query(connection, text.format(sequence.sql))[0] for sequence in sequences}


def count_materialized_views(connection: psycopg.Connection, tables: Iterable[Table]) -> dict[str, dict[str, Any]]:
    """``{key: {"rows": n}}`` as stored now, None for one that was never filled or that the role may not read.

    A restore fills them anew, so after it a view that was out of date has another count without being wrong.
    """
    views: dict[str, dict[str, Any]] = {}
    for table in tables:
        if table.kind == "m":
            known = table.populated and table.readable
            views[table.key] = query(connection, _COUNT_VIEW.format(table.sql))[0] if known else {"rows": None}
    return views
