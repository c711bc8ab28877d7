# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The statement behind ``catalog.read_catalog``: all objects of a database with their definitions.

One statement, so that everything is seen in one snapshot and one answer. Every branch of ``FREQUENT`` and of
``catalog_rare.RARE`` gives ``(classid, objid, subid, identity, definition)``, every one of ``catalog_rare.FACETS`` a
further line for ``(classid, objid, subid)``: what few objects have, gathered at once instead of looked up for each.
Names come from PostgreSQL's own output functions, which qualify all but the names of pg_catalog under ``SETTINGS``.
"""

# ruff: noqa: S608 (all that is put into SQL here are constants of these two files)
from __future__ import annotations

SETTINGS = """
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL quote_all_identifiers = off;
SET LOCAL standard_conforming_strings = on;
SET LOCAL datestyle = 'ISO, YMD';
SET LOCAL intervalstyle = 'postgres';
SET LOCAL timezone = 'UTC';
SET LOCAL bytea_output = 'hex';
SET LOCAL extra_float_digits = 1;
SET LOCAL xmlbinary = 'base64';
SET LOCAL lc_monetary = 'C';
SET LOCAL jit = off;
SET LOCAL max_parallel_workers_per_gather = 0;
"""
"""What the text of a definition depends on, and what could make a short statement slow. pg_temp is named so that it
comes last: no temporary table of a migration may stand in for one of pg_catalog."""

LEDGER = (
    "schema_migrations",
    "schema_migrations_progress",
    "schema_migrations_history",
    "schema_migrations_environment",
)
"""Tables of schema public that are the runbook's own."""

_LEDGER = ", ".join(f"to_regclass('public.{name}')" for name in LEDGER)

# Objects of a new database have smaller numbers (FirstNormalObjectId, src/include/access/transam.h).
FIRST = 16384


def sorted_list(array: str, item: str = "one", wanted: str = "true") -> str:
    """The ``wanted`` elements of an array as one text, in an order that no setting changes.

    ``item`` is made of each ``one``.
    """
    elements = f"unnest({array}) one WHERE {wanted}"
    return (
        f"CASE WHEN {array} IS NOT NULL THEN"
        f""" (SELECT string_agg({item}, ', ' ORDER BY {item} COLLATE "C") FROM {elements}) END"""
    )


def rights(kind: str, acl: str, owner: str) -> str:
    """The rights of an object; nothing where they are the default, be it written out (as a REVOKE leaves it) or not."""
    given, default = sorted_list(acl, "one::text"), sorted_list(f"acldefault({kind}, {owner})", "one::text")
    return f"CASE WHEN {acl} IS NOT NULL THEN 'rights ' || nullif(coalesce({given}, 'none'), {default}) END"


def options(array: str) -> str:
    """Options of foreign objects; of one that could be a secret only the name."""
    return sorted_list(array, "CASE WHEN one ~* '^[^=]*(pass|secret|token)' THEN split_part(one, '=', 1) ELSE one END")


def definition(*lines: str) -> str:
    """A text of one line for each SQL expression that is not null."""
    return f"concat_ws(E'\\n', {', '.join(lines)})"


def row(alias: str, *without: str) -> str:
    """All columns of a row but those that hold numbers of objects: it has the same ones in no two versions."""
    return f"(to_jsonb({alias}) - '{{{','.join(without)}}}'::text[])"


def not_member(catalog: str, oid: str) -> str:
    """The condition that an object is no part of an extension."""
    return f"('{catalog}'::regclass, {oid}) NOT IN (SELECT classid, objid FROM member)"


def not_internal(catalog: str) -> str:
    """The condition that an object was not brought along by another one, as a range type brings its functions."""
    return f"x.oid NOT IN (SELECT objid FROM pg_depend WHERE classid = '{catalog}'::regclass AND deptype = 'i')"


def own(catalog: str, oid: str = "x.oid") -> str:
    """The condition that an object is no part of the system nor of an extension."""
    return f"{oid} >= {FIRST} AND {not_member(catalog, oid)}"


# Anti-joins, since the planner takes every NOT IN to leave half of the rows and would plan for a handful of tables.
WITH = f"""
WITH member AS MATERIALIZED (
  SELECT classid, objid FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
), space AS MATERIALIZED (
  SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
), hidden AS MATERIALIZED (
  SELECT objid FROM member WHERE classid = 'pg_class'::regclass
  UNION ALL SELECT typrelid FROM member JOIN pg_type t ON t.oid = objid WHERE classid = 'pg_type'::regclass
  UNION ALL SELECT unnest(ARRAY[{_LEDGER}]::oid[])
  UNION ALL SELECT objid FROM pg_depend WHERE refclassid = 'pg_class'::regclass AND refobjid IN ({_LEDGER})
    AND classid = 'pg_class'::regclass AND deptype IN ('a', 'i')
), rel AS MATERIALIZED (
  SELECT x.*, x.oid::regclass::text AS name FROM pg_class x
  WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND relnamespace IN (SELECT oid FROM space)
    AND NOT EXISTS (SELECT FROM hidden WHERE objid = x.oid)
)"""

_RELATION = definition(
    "'owner ' || relowner::regrole",
    rights("CASE relkind WHEN 'S' THEN 's'::pg_catalog.\"char\" ELSE 'r' END", "relacl", "relowner"),
    "CASE relpersistence WHEN 'u' THEN 'unlogged' END",
    "CASE WHEN relkind = 'p' THEN 'partitioned by ' || pg_get_partkeydef(r.oid) END",
    "'partition ' || pg_get_expr(relpartbound, r.oid)",
    "'access method ' || quote_ident(amname)",
    "CASE WHEN reltablespace <> 0 THEN 'tablespace ' ||"
    " (SELECT quote_ident(spcname) FROM pg_tablespace s WHERE s.oid = reltablespace) END",
    f"'options ' || {sorted_list('reloptions')}",
    "CASE WHEN relrowsecurity THEN 'row level security' END",
    "CASE WHEN relforcerowsecurity THEN 'row level security for the owner, too' END",
    "CASE WHEN relkind IN ('r', 'p', 'm') THEN 'replica identity ' || relreplident::text END",
    "CASE WHEN reloftype <> 0 THEN 'of type ' || reloftype::regtype END",
    "CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(r.oid) END",
)

RELATIONS = f"""
SELECT 'pg_class'::regclass::oid, r.oid, 0,
  CASE relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'f' THEN 'foreign table '
               WHEN 'S' THEN 'sequence ' ELSE 'table ' END || name,
  {_RELATION}
FROM rel r LEFT JOIN pg_am a ON a.oid = relam WHERE relkind <> 'c'"""

# Some servers keep a number of their own there, see restore_schema.
_NOT_OWN_NUMBER = "one NOT LIKE 'pg_attver=%'"

_COLUMN = definition(
    "'type ' || format_type(a.atttypid, a.atttypmod)",
    "CASE WHEN a.attcollation <> t.typcollation THEN 'collation ' || a.attcollation::regcollation END",
    "CASE WHEN a.attnotnull THEN 'not null' END",
    "CASE a.attgenerated WHEN '' THEN 'default ' ELSE 'generated ' || a.attgenerated::text || ' ' END"
    " || pg_get_expr(d.adbin, d.adrelid)",
    "'identity ' || nullif(a.attidentity::text, '')",
    "'storage ' || a.attstorage::text",
    "'compression ' || nullif(a.attcompression::text, '')",
    "'statistics ' || nullif(a.attstattarget, -1)",
    "CASE WHEN a.attinhcount > 0 THEN 'inherited ' || a.attinhcount END",
    "CASE WHEN NOT a.attislocal THEN 'not local' END",
    f"'options ' || {sorted_list('a.attoptions', wanted=_NOT_OWN_NUMBER)}",
    f"'foreign options ' || {options('a.attfdwoptions')}",
    f"'rights ' || {sorted_list('a.attacl', 'one::text')}",
)

COLUMNS = f"""
SELECT 'pg_class'::regclass::oid, a.attrelid, a.attnum::int, 'column ' || r.name || '.' || quote_ident(a.attname),
  {_COLUMN}
FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON a.atthasdef AND d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped AND r.relkind <> 'S'"""

# A view's order of columns is part of its query.
ORDER = """
SELECT 0::oid, 0::oid, 0, 'column order ' || attrelid::regclass, string_agg(quote_ident(attname), ', ' ORDER BY attnum)
FROM pg_attribute WHERE attrelid IN (SELECT oid FROM rel WHERE relkind IN ('r', 'p', 'f', 'c'))
  AND attnum > 0 AND NOT attisdropped GROUP BY attrelid"""

# The index of a constraint is what the constraint says, but for what can be set on the index itself.
_INDEX = definition(
    "CASE WHEN k.oid IS NULL THEN pg_get_indexdef(c.oid)"
    " ELSE 'of constraint ' || quote_ident(k.conname) || ' on ' || r.name END",
    f"'options ' || {sorted_list('c.reloptions')}",
    "CASE WHEN c.reltablespace <> 0 THEN 'tablespace ' ||"
    " (SELECT quote_ident(spcname) FROM pg_tablespace s WHERE s.oid = c.reltablespace) END",
    "CASE WHEN NOT x.indisvalid THEN 'invalid' END",
    "CASE WHEN x.indisclustered THEN 'rows are clustered by it' END",
    "CASE WHEN x.indisreplident THEN 'replica identity' END",
)

INDEXES = f"""
SELECT 'pg_class'::regclass::oid, c.oid, 0, 'index ' || c.oid::regclass,
  {_INDEX}
FROM rel r JOIN pg_index x ON x.indrelid = r.oid JOIN pg_class c ON c.oid = x.indexrelid
LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.conrelid = r.oid AND k.contype IN ('p', 'u', 'x')"""

# A foreign key has further rows for the partitions of either side, with names made up anew by every restore.
_CONSTRAINT = definition(
    "pg_get_constraintdef(x.oid)",
    "CASE WHEN x.coninhcount > 0 THEN 'inherited ' || x.coninhcount END",
    "CASE WHEN NOT x.conislocal THEN 'not local' END",
)

CONSTRAINTS = f"""
SELECT 'pg_constraint'::regclass::oid, x.oid, 0, 'constraint ' || quote_ident(x.conname) || ' on ' || r.name,
  {_CONSTRAINT}
FROM rel r JOIN pg_constraint x ON x.conrelid = r.oid
WHERE x.contype <> 't' AND NOT (x.contype = 'f' AND x.conparentid <> 0)
UNION ALL
SELECT 'pg_constraint'::regclass::oid, x.oid, 0,
  'constraint ' || quote_ident(x.conname) || ' on domain ' || t.oid::regtype, pg_get_constraintdef(x.oid)
FROM pg_constraint x JOIN pg_type t ON t.oid = x.contypid
WHERE t.typnamespace IN (SELECT oid FROM space) AND {own("pg_type", "t.oid")}"""

_ROLE = "CASE one WHEN 0 THEN 'PUBLIC' ELSE one::regrole::text END"
_POLICY = definition(
    "CASE WHEN x.polpermissive THEN 'permissive' ELSE 'restrictive' END || ' for ' || x.polcmd::text",
    f"'to ' || {sorted_list('x.polroles', _ROLE)}",
    "'using ' || pg_get_expr(x.polqual, x.polrelid)",
    "'with check ' || pg_get_expr(x.polwithcheck, x.polrelid)",
)

ON_TABLES = f"""
SELECT 'pg_trigger'::regclass::oid, x.oid, 0, 'trigger ' || quote_ident(x.tgname) || ' on ' || r.name,
  {definition("pg_get_triggerdef(x.oid)", "'enabled ' || x.tgenabled::text")}
FROM rel r JOIN pg_trigger x ON x.tgrelid = r.oid WHERE NOT x.tgisinternal
UNION ALL
SELECT 'pg_rewrite'::regclass::oid, x.oid, 0, 'rule ' || quote_ident(x.rulename) || ' on ' || r.name,
  {definition("pg_get_ruledef(x.oid)", "'enabled ' || x.ev_enabled::text")}
FROM rel r JOIN pg_rewrite x ON x.ev_class = r.oid WHERE x.rulename <> '_RETURN'
UNION ALL
SELECT 'pg_policy'::regclass::oid, x.oid, 0, 'policy ' || quote_ident(x.polname) || ' on ' || r.name,
  {_POLICY}
FROM rel r JOIN pg_policy x ON x.polrelid = r.oid"""

_FUNCTION = definition(
    "'owner ' || proowner::regrole",
    rights("'f'", "proacl", "proowner"),
    "CASE WHEN prokind <> 'a' THEN pg_get_functiondef(x.oid) ELSE pg_get_function_arguments(x.oid) || ' -> '"
    " || pg_get_function_result(x.oid) || ' parallel ' || proparallel::text END",
    f"CASE WHEN prokind = 'a' THEN (SELECT {row('a', 'aggfnoid', 'aggsortop', 'aggtranstype', 'aggmtranstype')}"
    " || jsonb_build_object('sort', aggsortop::regoperator, 'state', aggtranstype::regtype,"
    " 'moving', aggmtranstype::regtype) FROM pg_aggregate a WHERE aggfnoid = x.oid) END",
)

FUNCTIONS = f"""
SELECT 'pg_proc'::regclass::oid, x.oid, 0,
  CASE prokind WHEN 'a' THEN 'aggregate ' WHEN 'p' THEN 'procedure ' ELSE 'function ' END || x.oid::regprocedure,
  {_FUNCTION}
FROM pg_proc x WHERE pronamespace IN (SELECT oid FROM space) AND {own("pg_proc")} AND {not_internal("pg_proc")}"""

_NOT_OF_A_TYPE = ("oid", "typname", "typnamespace", "typowner", "typrelid", "typelem", "typarray", "typbasetype")
_NOR_OF_A_TYPE = ("typtypmod", "typcollation", "typacl", "typdefault", "typdefaultbin")

# Neither the row types of tables, nor array and multirange types, which come and go with another type.
_TYPE = definition(
    "'owner ' || typowner::regrole",
    rights("'T'", "typacl", "typowner"),
    "CASE WHEN typtype = 'd' THEN 'over ' || format_type(typbasetype, typtypmod) END",
    "CASE WHEN typelem <> 0 THEN 'elements ' || typelem::regtype END",
    "'default ' || coalesce(pg_get_expr(typdefaultbin, 0), typdefault)",
    "CASE WHEN typcollation <> 0 THEN 'collation ' || typcollation::regcollation END",
    row("x", *_NOT_OF_A_TYPE, *_NOR_OF_A_TYPE),
)

TYPES = f"""
SELECT 'pg_type'::regclass::oid, x.oid, 0, CASE typtype WHEN 'd' THEN 'domain ' ELSE 'type ' END || x.oid::regtype,
  {_TYPE}
FROM pg_type x WHERE typnamespace IN (SELECT oid FROM space) AND {own("pg_type")} AND typtype <> 'm'
  AND (typrelid = 0 OR EXISTS (SELECT FROM rel r WHERE r.oid = typrelid AND r.relkind = 'c'))
  AND NOT EXISTS (SELECT FROM pg_type e WHERE e.oid = x.typelem AND e.typarray = x.oid)"""

FREQUENT = (RELATIONS, COLUMNS, ORDER, INDEXES, CONSTRAINTS, ON_TABLES, FUNCTIONS, TYPES)
