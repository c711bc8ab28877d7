# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What owner and application may do in the database: who connects, and, where it is asked for, who reads and writes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted
from ansible_collections.habitat.runbook.plugins.module_utils.table import count
from psycopg.rows import dict_row

PUBLIC = ""
"""Stands for PUBLIC among the names of roles: no role can have it."""

_DML = ("SELECT", "INSERT", "UPDATE", "DELETE")
_SEQUENCE = ("USAGE", "SELECT")
_KINDS = {"r": _DML, "m": ("SELECT",), "S": _SEQUENCE}

_GRANTEE = "CASE WHEN a.grantee <> 0 THEN pg_catalog.pg_get_userbyid(a.grantee)::text ELSE '' END"

_CONNECT = f"""
SELECT DISTINCT {_GRANTEE} FROM pg_catalog.pg_database d,
  pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) a
WHERE d.datname = pg_catalog.current_database() AND a.privilege_type = 'CONNECT'"""  # noqa: S608

_SCHEMA = f"""
SELECT {_GRANTEE}, a.privilege_type FROM pg_catalog.pg_namespace n,
  pg_catalog.aclexplode(coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))) a
WHERE n.nspname = 'public'"""  # noqa: S608

# The ledger is the runbook's: the application must not write its history. An extension's tables are the extension's.
_RELATIONS = f"""
SELECT pg_catalog.quote_ident('public') || '.' || pg_catalog.quote_ident(c.relname) AS name,
  CASE WHEN c.relkind IN ('S', 'm') THEN c.relkind ELSE 'r' END::text AS kind,
  ARRAY(SELECT {_GRANTEE} || ' ' || a.privilege_type
        FROM pg_catalog.aclexplode(coalesce(c.relacl, pg_catalog.acldefault('r', c.relowner))) a) AS rights
FROM pg_catalog.pg_class c
WHERE c.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public')
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relname NOT LIKE 'schema\\_migrations%%'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass
                  AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1"""  # noqa: S608

_DEFAULTS = f"""
SELECT d.defaclobjtype::text AS kind, {_GRANTEE} || ' ' || a.privilege_type AS right
FROM pg_catalog.pg_default_acl d JOIN pg_catalog.pg_namespace n ON n.oid = d.defaclnamespace AND n.nspname = 'public',
  pg_catalog.aclexplode(d.defaclacl) a
WHERE pg_catalog.pg_get_userbyid(d.defaclrole) = %s AND d.defaclobjtype IN ('r', 'S')"""  # noqa: S608

_SESSIONS = """
SELECT usename::text AS role, count(*)::int AS sessions FROM pg_catalog.pg_stat_activity a
JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid AND NOT r.rolsuper
WHERE a.datname = pg_catalog.current_database() AND a.backend_type = 'client backend'
  AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_database d,
      pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) g
    WHERE d.datname = pg_catalog.current_database() AND g.privilege_type = 'CONNECT' AND g.grantee <> 0
      AND pg_catalog.pg_has_role(r.oid, g.grantee, 'USAGE'))
GROUP BY usename ORDER BY usename"""


@dataclass(frozen=True)
class Facts:
    """Who has which right now. Rights in lists are ``<role> <privilege>``, PUBLIC is the empty name.

    ``sessions``: roles that are connected although they have the right from PUBLIC alone, or not at all any more.
    """

    connect: set[str]
    schema: set[str]
    relations: list[dict[str, Any]] = field(default_factory=list)
    defaults: list[dict[str, str]] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)


def of_new_database(owner: str) -> Facts:
    """What CREATE DATABASE makes of an unchanged template1 (PostgreSQL documentation, 5.8, default privileges)."""
    return Facts(connect={PUBLIC, owner}, schema={f"{PUBLIC} USAGE"})


def read(connection: psycopg.Connection, owner: str, writers: list[str]) -> Facts:
    """The facts of the connection's database."""
    cursor = connection.cursor(row_factory=dict_row)
    return Facts(
        connect={name for (name,) in connection.execute(_CONNECT)},
        schema={f"{grantee} {right}" for grantee, right in connection.execute(_SCHEMA)},
        relations=cursor.execute(_RELATIONS, []).fetchall(),
        defaults=cursor.execute(_DEFAULTS, [owner]).fetchall(),
        sessions=[one for one in cursor.execute(_SESSIONS) if one["role"] not in (owner, *writers)],
    )


def statements(facts: Facts, database: str, owner: str, writers: list[str], grant_app: bool) -> list[tuple[str, str]]:
    """What an operator is told and the statement, for every right that is missing or one too many."""
    found = []
    on = f"ON DATABASE {quoted(database)}"
    for name in (owner, *writers):
        if name not in facts.connect:
            found.append((f"CONNECT on {database} to {name}", f"GRANT CONNECT {on} TO {quoted(name)}"))
    if PUBLIC in facts.connect:
        found.append((f"CONNECT on {database} no longer to PUBLIC", f"REVOKE CONNECT {on} FROM PUBLIC"))
    if f"{PUBLIC} CREATE" in facts.schema:
        # Whoever may create there could put a function in the way of the owner's (CVE-2018-1058).
        found.append(("CREATE in public no longer to PUBLIC", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
    for name in writers if grant_app else []:
        found += [*_schema(facts, name), *_relations(facts, name), *_defaults(facts, owner, name)]
    return found


def _schema(facts: Facts, name: str) -> list[tuple[str, str]]:
    if f"{name} USAGE" in facts.schema:
        return []
    return [(f"USAGE on public to {name}", f"GRANT USAGE ON SCHEMA public TO {quoted(name)}")]


def _relations(facts: Facts, name: str) -> list[tuple[str, str]]:
    found = []
    for kind, noun in (("r", "table"), ("m", "materialized view"), ("S", "sequence")):
        wanted = {f"{name} {right}" for right in _KINDS[kind]}
        lacking = [one["name"] for one in facts.relations if one["kind"] == kind and not wanted <= set(one["rights"])]
        if lacking:
            rights = ", ".join(_KINDS[kind])
            on = f"{'SEQUENCE ' if kind == 'S' else ''}{', '.join(lacking)}"
            text = f"{rights} on {count(len(lacking), noun)} to {name}"
            found.append((text, f"GRANT {rights} ON {on} TO {quoted(name)}"))
    return found


def _defaults(facts: Facts, owner: str, name: str) -> list[tuple[str, str]]:
    found = []
    for kind, noun in (("r", "TABLES"), ("S", "SEQUENCES")):
        has = {one["right"] for one in facts.defaults if one["kind"] == kind}
        if not {f"{name} {right}" for right in _KINDS[kind]} <= has:
            right = f"GRANT {', '.join(_KINDS[kind])} ON {noun} TO {quoted(name)}"
            start = f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted(owner)} IN SCHEMA public"
            found.append((f"{', '.join(_KINDS[kind])} on future {noun.lower()} to {name}", f"{start} {right}"))
    return found


def notes(facts: Facts, database: str) -> list[str]:
    """Roles that are at work in the database and cannot come back to it."""
    return [
        f"role {one['role']} has {count(one['sessions'], 'session')} in {database} and may not connect to it any more; "
        f"if it should: GRANT CONNECT ON DATABASE {quoted(database)} TO {quoted(one['role'])}"
        for one in facts.sessions
    ]
