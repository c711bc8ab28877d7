# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How many rows of a database are not in a backup, without comparing data.

Every row version says in its system column ``xmin`` which transaction wrote it, and a manifest says which transactions
the dump saw. Freezing keeps that number (PostgreSQL documentation, 25.1.5), and so do VACUUM FULL and CLUSTER.

What counts as written since: everything that made a new row version, whoever it was. A migration that updates a column
or rewrites a table (ALTER COLUMN TYPE) makes all of its rows newer. Large objects and sequences are not looked at.

What can be wrong: ``xmin`` has 32 bits. It is taken for the last transaction before now that ends in them, so what was
written since the backup is always found; but a row that was written more than 2^32 transactions ago and never changed
can be taken for a newer one. (By its age() a row can be misjudged from 2^31 transactions on.) Neither can a number be
told that is not of the present history: after pg_resetwal, or after the server's files were put back to a former state
and more transactions ran than had before. While fewer did, it shows, and tables are compared instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils import history, identity, ledger
from ansible_collections.habitat.runbook.plugins.module_utils.row_versions import (
    Buckets,
    Group,
    Snapshot,
    Written,
    by_digests,
    by_versions,
    only_newer,
    same_major,
)
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import (
    Table,
    count_tables,
    query,
    reading_settings,
)
from psycopg.rows import tuple_row

if TYPE_CHECKING:
    import psycopg

_LEDGER = (ledger.TABLE, ledger.PROGRESS, history.TABLE, identity.TABLE)

# Feature not supported (a table access method without xmin), deadlock, schema gone, not allowed (rights and row
# security), table gone, lock not available: they concern one table, and the others can still be counted.
_ONE_TABLE = ("0A000", "40P01", "3F000", "42501", "42P01", "55P03")
_LOCK_NOT_AVAILABLE = "55P03"

# The tables that a dump takes rows of: nothing temporary, of extensions only their configuration. Rights are not asked
# for, since a table that cannot be read is to be told of.
_TABLES = """
SELECT n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, true AS populated, true AS readable,
       false AS policed
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e'
      AND c.oid <> ALL (coalesce(e.extconfig, '{}')))
ORDER BY 1, 2"""

# EXECUTE on pg_control_system is PUBLIC's, unless somebody took it away.
_FACTS = """
SELECT oid::bigint AS database_oid, pg_catalog.current_setting('server_version') AS server_version,
       pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text AS next,
       pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE') AS identified
FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"""

_IDENTIFIER = "SELECT system_identifier::text AS identifier FROM pg_catalog.pg_control_system()"

# The whole number is the highest one below the next transaction's with the same 32 bits. 0 to 2 are no transactions but
# marks of what was always there. age() is of no use here: it keeps PostgreSQL from counting in parallel.
_RAW = "x.xmin::pg_catalog.text::bigint"
_WHOLE = f"CASE WHEN {_RAW} < 3 THEN 0 ELSE %(next)s::bigint - ((%(next)s::bigint - {_RAW}) & 4294967295) END"
_WATCHED = f"CASE WHEN {_WHOLE} = ANY (%(watched)s::bigint[]) THEN {_WHOLE} END"
_GROUPS = """
SELECT pg_catalog.width_bucket({whole}, %(edges)s::bigint[]) AS bucket, {watched} AS watched,
       pg_catalog.count(*) AS rows
FROM ONLY {table} AS x GROUP BY 1, 2"""


def count_written(connection: psycopg.Connection, manifests: list[dict[str, Any]]) -> list[Written]:
    """What was written since each of these backups, in their order, all as of one moment.

    ``connection`` is in autocommit mode and idle; nothing is written, tables are locked in ACCESS SHARE mode until the
    end, and its lock_timeout holds. After one that could not be locked in time no other is waited for.
    The numbers are exact while the database is the one that was dumped, under whatever name: its server's identifier
    and its oid are compared. For one restored since, or on another server, rows and digests of the tables are compared.
    The ledger's tables are left out.
    """
    if not manifests:
        return []
    with _counting(connection) as count:
        return count.written(manifests)


def count_newer(connection: psycopg.Connection, snapshot: dict[str, Any]) -> Written:
    """The rows written since a ``snapshot`` (as in a manifest) of this very database; else as ``count_written``."""
    with _counting(connection) as count:
        return count.newer(snapshot)


@contextmanager
def _counting(connection: psycopg.Connection) -> Iterator[_Count]:
    connection.execute("BEGIN READ ONLY")
    with _ended(connection):
        connection.execute(reading_settings(connection))
        tables = [Table(**row) for row in query(connection, _TABLES)]
    wanted = [table for table in tables if table.key not in _LEDGER]
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    with _ended(connection):
        connection.execute(reading_settings(connection) + "SET LOCAL max_parallel_workers_per_gather TO DEFAULT;")
        # TRUNCATE and rewriting commands act on older snapshots, too, so the locks come before the first query.
        locked = _lock(connection, wanted)
        yield _Count(connection, wanted, locked)


@contextmanager
def _ended(connection: psycopg.Connection) -> Iterator[None]:
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK")


def _lock(connection: psycopg.Connection, tables: list[Table]) -> set[str]:
    """Lock the tables one by one; the keys of those that are locked."""
    locked, patience = set(), ""
    for table in tables:
        with _one_table(connection) as errors:
            connection.execute(f"LOCK TABLE ONLY {table.sql} IN ACCESS SHARE MODE{patience}".encode())
        if not errors:
            locked.add(table.key)
        elif errors[0].sqlstate == _LOCK_NOT_AVAILABLE:
            patience = " NOWAIT"
    return locked


@contextmanager
def _one_table(connection: psycopg.Connection) -> Iterator[list[psycopg.Error]]:
    """Go on after an error that concerns one table only; the list holds it then."""
    errors: list[psycopg.Error] = []
    connection.execute("SAVEPOINT one_table")
    try:
        yield errors
    except connection.Error as error:
        if connection.closed or error.sqlstate not in _ONE_TABLE:
            raise
        errors.append(error)
    connection.execute("ROLLBACK TO one_table" if errors else "RELEASE one_table")


class _Count:
    """One moment of a database: who it is, and its tables counted the one way or the other, each once."""

    def __init__(self, connection: psycopg.Connection, tables: list[Table], locked: set[str]) -> None:
        self._connection, self._tables, self._locked = connection, tables, locked
        self._facts = query(connection, _FACTS)[0]
        allowed = self._facts["identified"]
        self._identifier = query(connection, _IDENTIFIER)[0]["identifier"] if allowed else None

    def written(self, manifests: list[dict[str, Any]]) -> list[Written]:
        same = [manifest for manifest in manifests if self._is_the_dumped_one(manifest)]
        buckets = Buckets(map(Snapshot.of, same))
        groups = self._each(lambda table: self._groups(table, buckets)) if same else {}
        digests = self._each(self._digest) if len(same) < len(manifests) else {}
        results = []
        for manifest in manifests:
            tables = {key: entry for key, entry in manifest["tables"].items() if key not in _LEDGER}
            if self._is_the_dumped_one(manifest):
                results.append(by_versions(tables, groups, buckets, Snapshot.of(manifest)))
            else:
                comparable = same_major(manifest["server_version"], self._facts["server_version"])
                results.append(by_digests(tables, digests, comparable))
        return results

    def newer(self, snapshot: dict[str, Any]) -> Written:
        known = Snapshot.of({"snapshot": snapshot})
        buckets = Buckets([known])
        return only_newer(self._each(lambda table: self._groups(table, buckets)), buckets, known)

    def _is_the_dumped_one(self, manifest: dict[str, Any]) -> bool:
        told = manifest["snapshot"]
        if (told["system_identifier"], told["database_oid"]) != (self._identifier, self._facts["database_oid"]):
            return False
        # A snapshot from the future is of a history from before this server's files were put back.
        return int(told["xmax"]) <= int(self._facts["next"])

    def _each(self, count: Callable[[Table], Any]) -> dict[str, Any]:
        """What ``count`` returns for every table, None for one that cannot be read."""
        found: dict[str, Any] = {}
        for table in self._tables:
            found[table.key] = None
            if table.key in self._locked:
                with _one_table(self._connection):
                    found[table.key] = count(table)
        return found

    def _groups(self, table: Table, buckets: Buckets) -> list[Group]:
        watched = _WATCHED if buckets.watched else "NULL::bigint"
        text = _GROUPS.format(whole=_WHOLE, watched=watched, table=table.sql.replace("%", "%%"))
        parameters = {"next": self._facts["next"], "edges": buckets.edges, "watched": buckets.watched}
        return self._connection.cursor(row_factory=tuple_row).execute(text.encode(), parameters).fetchall()

    def _digest(self, table: Table) -> dict[str, Any]:
        return next(count_tables(self._connection, [table]))[1]
