# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The catalog as salvage_plan wants it: tables with rows, their keys, foreign keys and sequences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils.manifest import qualified
from ansible_collections.habitat.runbook.plugins.module_utils.salvage_plan import (
    Column,
    ForeignKey,
    Shape,
    Unique,
    is_ledger,
)
from ansible_collections.habitat.runbook.plugins.module_utils.salvage_statements import name_sql
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import query, readable_tables, reading_settings

if TYPE_CHECKING:
    import psycopg

_LINEAGES = """
SELECT n.nspname AS schema, c.relname AS name,
       ARRAY(SELECT ARRAY[pn.nspname::text, p.relname::text]
             FROM pg_catalog.pg_partition_ancestors(c.oid) WITH ORDINALITY AS a(oid, place)
             JOIN pg_catalog.pg_class p ON p.oid = a.oid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
             ORDER BY a.place) AS lineage
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'"""

_COLUMNS = """
SELECT n.nspname AS schema, c.relname AS name, a.attname AS column, a.attgenerated <> '' AS generated,
       pg_catalog.format_type(a.atttypid, a.atttypmod) AS type
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 2, a.attnum"""

# A unique index is a B-tree, whose strategy 3 is equality. INCLUDE columns stand behind those of the key.
_UNIQUES = """
SELECT n.nspname AS schema, c.relname AS name, i.indisprimary AS primary, i.indimmediate AS immediate,
       pg_catalog.array_agg(a.attname::text ORDER BY k.place) AS columns,
       pg_catalog.bool_and(a.attnotnull) AS key,
       pg_catalog.array_agg(pg_catalog.format('OPERATOR(%I.%s)', onn.nspname, o.oprname) ORDER BY k.place) AS operators
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
     ROWS FROM (pg_catalog.unnest(i.indkey::int2[]), pg_catalog.unnest(i.indclass::oid[]))
       WITH ORDINALITY AS k(number, class, place)
JOIN pg_catalog.pg_opclass oc ON oc.oid = k.class
JOIN pg_catalog.pg_amop s ON s.amopfamily = oc.opcfamily AND s.amoplefttype = oc.opcintype
  AND s.amoprighttype = oc.opcintype AND s.amopstrategy = 3
JOIN pg_catalog.pg_operator o ON o.oid = s.amopopr
JOIN pg_catalog.pg_namespace onn ON onn.oid = o.oprnamespace
JOIN pg_catalog.pg_attribute a ON a.attnum = k.number
WHERE a.attrelid = i.indrelid AND k.place <= i.indnkeyatts AND c.relkind = 'r'
  AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid, 1, 2, 3, 4 ORDER BY 1, 2, i.indexrelid"""

# As they were declared: of those that a partition has, the one of the table it is a partition of is enough.
_FOREIGN_KEYS = """
SELECT f.conname AS name, f.condeferrable AS deferrable, f.confdeltype <> 'a' AS acts,
       cn.nspname AS child_schema, c.relname AS child_name, c.relkind = 'r' AS child_only,
       pn.nspname AS parent_schema, p.relname AS parent_name, p.relkind = 'r' AS parent_only,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(f.conkey) WITH ORDINALITY AS k(number, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.number ORDER BY k.place)
         AS child_columns,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(f.confkey) WITH ORDINALITY AS k(number, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.number ORDER BY k.place)
         AS parent_columns,
       ARRAY(SELECT pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname)
             FROM pg_catalog.unnest(f.conpfeqop) WITH ORDINALITY AS k(number, place)
             JOIN pg_catalog.pg_operator o ON o.oid = k.number
             JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace ORDER BY k.place) AS operators
FROM pg_catalog.pg_constraint f
JOIN pg_catalog.pg_class c ON c.oid = f.conrelid JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace
JOIN pg_catalog.pg_class p ON p.oid = f.confrelid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
WHERE f.contype = 'f' AND f.conparentid = 0 ORDER BY 4, 5, 1"""

_SEQUENCES = """
SELECT n.nspname AS schema, c.relname AS name, s.seqincrement > 0 AS upwards
FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1, 2"""

_POSITION = "SELECT last_value, is_called FROM {}"


@contextmanager
def looking(connection: psycopg.Connection) -> Iterator[dict[str, Shape]]:
    """The tables with rows by their keys, and until the block ends one snapshot of them, with fixed settings.

    ``connection`` is in autocommit mode and idle. Raises BackupError when the role cannot read all of their rows.
    """
    tables = [table for table in readable_tables(connection) if table.kind == "r"]
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        connection.execute(reading_settings(connection).encode())
        yield {table.key: shape for table, shape in _shapes(connection, tables)}
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK")


def _shapes(connection: psycopg.Connection, tables: list[Any]) -> Iterator[tuple[Any, Shape]]:
    lineages = {_of(row): row["lineage"] for row in query(connection, _LINEAGES)}
    columns: dict[tuple[str, str], list[Column]] = {}
    for row in query(connection, _COLUMNS):
        columns.setdefault(_of(row), []).append(Column(row["column"], row["type"], row["generated"]))
    uniques: dict[tuple[str, str], list[Unique]] = {}
    for row in query(connection, _UNIQUES):
        one = Unique(tuple(row["columns"]), tuple(row["operators"]), row["primary"], bool(row["key"]), row["immediate"])
        uniques.setdefault(_of(row), []).append(one)
    for table in tables:
        at = (table.schema, table.name)
        lineage = tuple(qualified(*names) for names in lineages.get(at) or [at])
        yield (
            table,
            Shape(
                table.key,
                at,
                table_sql(*at, only=True),
                lineage,
                tuple(columns.get(at, ())),
                tuple(uniques.get(at, ())),
            ),
        )


def _of(row: dict[str, Any]) -> tuple[str, str]:
    return row["schema"], row["name"]


def table_sql(schema: str, name: str, only: bool = False) -> str:
    """A table's name in SQL; ``only``: without the rows of tables that inherit from it."""
    return f"{'ONLY ' if only else ''}{name_sql(schema)}.{name_sql(name)}"


def read_foreign_keys(connection: psycopg.Connection) -> list[ForeignKey]:
    """The foreign keys of the database; those of partitions only when they were declared there."""
    return [_foreign_key(row) for row in query(connection, _FOREIGN_KEYS)]


def _foreign_key(row: dict[str, Any]) -> ForeignKey:
    child, parent = (row["child_schema"], row["child_name"]), (row["parent_schema"], row["parent_name"])
    return ForeignKey(
        name=row["name"],
        child=qualified(*child),
        parent=qualified(*parent),
        child_columns=tuple(row["child_columns"]),
        parent_columns=tuple(row["parent_columns"]),
        operators=tuple(row["operators"]),
        child_sql=table_sql(*child, only=row["child_only"]),
        parent_sql=table_sql(*parent, only=row["parent_only"]),
        deferrable=row["deferrable"],
        acts=row["acts"],
    )


def read_positions(connection: psycopg.Connection) -> dict[str, dict[str, Any]]:
    """Sequences by their keys: sql, upwards, last (None: not used yet). They belong to no snapshot."""
    found = {}
    for row in query(connection, _SEQUENCES):
        sql = table_sql(*_of(row))
        at = query(connection, _POSITION.format(sql))[0]
        key = qualified(*_of(row))
        if not is_ledger(key):
            found[key] = {
                "sql": sql,
                "upwards": row["upwards"],
                "last": at["last_value"] if at["is_called"] else None,
            }
    return found
