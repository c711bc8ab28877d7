# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What is to belong to the owner and does not yet: every kind of object of a database that has an owner.

REASSIGN OWNED would be one statement, but PostgreSQL keeps no record of what belongs to the superuser that initdb made
(pg_shdepend leaves out what is pinned) and refuses it: "required by the database system". Such a superuser is just who
owns everything where the application was started with POSTGRES_USER. So the catalogs are read, kind by kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted
from ansible_collections.habitat.runbook.plugins.module_utils.table import count
from psycopg.rows import dict_row

_FIRST_OF_USERS = 16384  # FirstNormalObjectId: what has a lower number belongs to PostgreSQL itself

# By catalog: the columns of owner and schema, and a condition.
_OWNED: dict[str, tuple[str, str | None, str]] = {
    "pg_namespace": ("nspowner", None, "x.nspname !~ '^pg_' AND x.nspname <> 'information_schema'"),
    "pg_class": ("relowner", "relnamespace", "x.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')"),
    "pg_proc": ("proowner", "pronamespace", "true"),
    "pg_type": (
        "typowner",
        "typnamespace",
        "(x.typrelid = 0 OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = x.typrelid AND c.relkind = 'c'))",
    ),
    "pg_operator": ("oprowner", "oprnamespace", "true"),
    "pg_opclass": ("opcowner", "opcnamespace", "true"),
    "pg_opfamily": ("opfowner", "opfnamespace", "true"),
    "pg_collation": ("collowner", "collnamespace", "true"),
    "pg_conversion": ("conowner", "connamespace", "true"),
    "pg_ts_dict": ("dictowner", "dictnamespace", "true"),
    "pg_ts_config": ("cfgowner", "cfgnamespace", "true"),
    "pg_statistic_ext": ("stxowner", "stxnamespace", "true"),
    "pg_foreign_server": ("srvowner", None, "true"),
    "pg_language": ("lanowner", None, "true"),
    "pg_publication": (
        "pubowner",
        None,
        "NOT x.puballtables AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n WHERE n.pnpubid = x.oid)",
    ),
    "pg_largeobject_metadata": ("lomowner", None, "true"),
}

# These need an owner who is a superuser, or make sense with one only.
_STAY = """
SELECT 'event trigger ' || pg_catalog.quote_ident(evtname) FROM pg_catalog.pg_event_trigger WHERE oid >= 16384
UNION ALL SELECT 'foreign-data wrapper ' || pg_catalog.quote_ident(fdwname) FROM pg_catalog.pg_foreign_data_wrapper x
  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.objid = x.oid AND d.deptype = 'e'
                    AND d.classid = 'pg_catalog.pg_foreign_data_wrapper'::regclass)
UNION ALL SELECT 'subscription ' || pg_catalog.quote_ident(subname) FROM pg_catalog.pg_subscription
  WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
UNION ALL SELECT 'publication ' || pg_catalog.quote_ident(pubname) FROM pg_catalog.pg_publication x
  WHERE x.puballtables OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace n WHERE n.pnpubid = x.oid)
ORDER BY 1"""

# What is called "i" belongs to another object and goes with it, "e" to an extension; a serial column's sequence is "a".
_ONE_CATALOG = """
SELECT pg_catalog.pg_get_userbyid(x.{owner})::text AS owner, i.type, i.identity,
       {definer} AS security_definer
FROM pg_catalog.{catalog} x, pg_catalog.pg_identify_object('pg_catalog.{known_as}'::regclass, x.oid, 0) i
WHERE pg_catalog.pg_get_userbyid(x.{owner}) <> %(owner)s AND {ours} AND {condition} AND {space}
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.{known_as}'::regclass
                  AND d.objid = x.oid AND d.objsubid = 0
                  AND (d.deptype IN ('e', 'i') OR (i.type = 'sequence' AND d.deptype = 'a')))"""
_IN_SPACE = """x.{space} IN (SELECT oid FROM pg_catalog.pg_namespace
                WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')"""

_FORMER = """
SELECT DISTINCT rolname::text FROM pg_catalog.pg_roles
WHERE rolname <> %s AND (oid = 10 OR rolname IN (session_user, current_user) OR rolname = ANY(%s)
  OR oid = (SELECT datdba FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))"""

_DATABASE = """
SELECT datname::text AS name, pg_catalog.pg_get_userbyid(datdba)::text AS owner
FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"""

_SESSIONS = """
SELECT usename::text AS role, count(*)::int AS sessions, r.rolsuper AS superuser,
       array_agg(DISTINCT coalesce(nullif(application_name, ''), 'no name')) AS apps
FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
  AND a.backend_type = 'client backend' AND a.application_name NOT LIKE 'runbook%'
GROUP BY usename, r.rolsuper ORDER BY usename"""

# An entry without a schema replaces PostgreSQL's own defaults, so there what PUBLIC has lost is carried over, too.
_DEFAULTS = """
WITH acl AS (
  SELECT d.defaclrole, d.defaclnamespace, d.defaclobjtype, a.grantee, a.privilege_type, a.is_grantable
  FROM pg_catalog.pg_default_acl d, pg_catalog.aclexplode(d.defaclacl) a),
former AS (
  SELECT DISTINCT defaclnamespace, defaclobjtype, grantee, privilege_type, is_grantable
  FROM acl WHERE pg_catalog.pg_get_userbyid(defaclrole) = ANY(%(former)s) AND grantee <> defaclrole
    AND pg_catalog.pg_get_userbyid(grantee) <> %(owner)s)
SELECT CASE WHEN f.grantee <> 0 THEN pg_catalog.pg_get_userbyid(f.grantee)::text END AS grantee, f.privilege_type,
       f.is_grantable AS grantable, n.nspname::text AS schema, f.defaclobjtype::text AS kind
FROM former f LEFT JOIN pg_catalog.pg_namespace n ON n.oid = f.defaclnamespace
WHERE NOT EXISTS (
  SELECT FROM acl o WHERE pg_catalog.pg_get_userbyid(o.defaclrole) = %(owner)s
    AND o.defaclnamespace = f.defaclnamespace AND o.defaclobjtype = f.defaclobjtype AND o.grantee = f.grantee
    AND o.privilege_type = f.privilege_type AND o.is_grantable >= f.is_grantable)
  -- What everybody has by PostgreSQL's own defaults is not granted to anybody.
  AND NOT (f.defaclnamespace = 0 AND f.grantee = 0 AND f.defaclobjtype IN ('f', 'T') AND NOT f.is_grantable)
ORDER BY schema, kind, grantee, privilege_type"""

_DEFAULTS_TAKEN = """
SELECT DISTINCT d.defaclobjtype::text AS kind FROM pg_catalog.pg_default_acl d
WHERE d.defaclnamespace = 0 AND d.defaclobjtype IN ('f', 'T')
  AND pg_catalog.pg_get_userbyid(d.defaclrole) = ANY(%(former)s)
  AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(d.defaclacl) a WHERE a.grantee = 0)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_default_acl o WHERE o.defaclnamespace = 0
    AND o.defaclobjtype = d.defaclobjtype AND pg_catalog.pg_get_userbyid(o.defaclrole) = %(owner)s
    AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(o.defaclacl) a WHERE a.grantee = 0))
ORDER BY 1"""

_OBJECTS = {"r": "TABLES", "S": "SEQUENCES", "f": "FUNCTIONS", "T": "TYPES", "n": "SCHEMAS"}
# pg_identify_object's word where ALTER wants another one.
_WORDS = {"function": "ROUTINE", "procedure": "ROUTINE", "aggregate": "ROUTINE", "statistics object": "STATISTICS"}
_SHOWN = 5


@dataclass(frozen=True)
class Found:
    """A database's ownership. ``former``: the roles whose objects are to move; ``objects``: all that are not the
    owner's, as owner, type, identity and security_definer; ``sessions``: role, sessions, superuser, apps."""

    owner: str
    database: dict[str, str]
    former: list[str]
    objects: list[dict[str, Any]]
    defaults: list[dict[str, Any]]
    defaults_taken: list[str]
    sessions: list[dict[str, Any]]
    staying: list[str]

    def moving(self) -> list[dict[str, Any]]:
        """The objects that go to the owner."""
        return [one for one in self.objects if one["owner"] in self.former]

    def statements(self) -> list[tuple[str, str]]:
        """What an operator is told and the statement, for everything that moves."""
        to, found = quoted(self.owner), []
        if self.database["owner"] != self.owner:
            name = self.database["name"]
            found.append((f"database {name} to {self.owner}", f"ALTER DATABASE {quoted(name)} OWNER TO {to}"))
        for one in self.moving():
            word = _WORDS.get(one["type"], one["type"].upper())
            # PostgreSQL 15 gives public to whoever owns the database; what is older is brought to the same.
            public = one["type"] == "schema" and one["identity"] == "public"
            new = "pg_database_owner" if public else self.owner
            statement = f"ALTER {word} {one['identity']} OWNER TO {new if public else to}"
            found.append((f"{one['type']} {one['identity']} to {new}", statement))
        return found + self._default_privileges(to)

    def _default_privileges(self, to: str) -> list[tuple[str, str]]:
        found = []
        for one in self.defaults:
            within = f" IN SCHEMA {quoted(one['schema'])}" if one["schema"] else ""
            grantee = quoted(one["grantee"]) if one["grantee"] else "PUBLIC"
            option = " WITH GRANT OPTION" if one["grantable"] else ""
            right = f"GRANT {one['privilege_type']} ON {_OBJECTS[one['kind']]} TO {grantee}{option}"
            found.append(
                (f"default of {self.owner}: {right}", f"ALTER DEFAULT PRIVILEGES FOR ROLE {to}{within} {right}")
            )
        for kind in self.defaults_taken:
            right = f"REVOKE ALL ON {_OBJECTS[kind]} FROM PUBLIC"
            found.append((f"default of {self.owner}: {right}", f"ALTER DEFAULT PRIVILEGES FOR ROLE {to} {right}"))
        return found

    def notes(self, wanted: bool, owner: str) -> list[str]:
        """What an operator should know about it; wanted: whether it is taken over."""
        notes = []
        if not wanted and self.statements():
            number = count(len(self.moving()), "object")
            notes.append(
                f"database {self.database['name']} belongs to {self.database['owner']}, {number} to others than "
                f"{owner}: migrations will fail on them; habitat_bootstrap_take_over: true gives them to it"
            )
        definers = [one["identity"] for one in self.moving() if one["security_definer"]] if wanted else []
        if definers:
            notes.append(f"SECURITY DEFINER means the rights of {owner} from now on: {_listed(definers)}")
        others = sorted({one["owner"] for one in self.objects} - set(self.former) - {"pg_database_owner"})
        for role in others:
            theirs = [f"{one['type']} {one['identity']}" for one in self.objects if one["owner"] == role]
            notes.append(f"{_listed(theirs)}: belongs to {role} and stays so; migrations cannot change it")
        if self.staying:
            notes.append(f"only a superuser can own these, they stay: {_listed(self.staying)}")
        for one in self.sessions:
            if one["superuser"]:
                notes.append(
                    f"superuser {one['role']} has {count(one['sessions'], 'session')} in {self.database['name']} "
                    f"({_listed(one['apps'])}): no right can keep it out; let the application connect as its own role"
                )
        return notes


def read(connection: psycopg.Connection, owner: str, writers: list[str]) -> Found:
    """Read who owns what in the connection's database. The former owners are whoever owns the database, the
    application's roles, the role that is connected and the superuser that initdb made."""
    cursor = connection.cursor(row_factory=dict_row)
    former = sorted(name for (name,) in connection.execute(_FORMER, [owner, writers]))
    objects: list[dict[str, Any]] = []
    for catalog, (column, space, condition) in _OWNED.items():
        query = _ONE_CATALOG.format(
            owner=column,
            catalog=catalog,
            # Other catalogs name a large object by this one, which has its contents.
            known_as=catalog.replace("_metadata", ""),
            definer="x.prosecdef" if catalog == "pg_proc" else "false",
            ours=_is_ours(catalog),
            condition=condition,
            space=_IN_SPACE.format(space=space) if space else "true",
        )
        rows = cursor.execute(query.encode(), {"owner": owner}).fetchall()
        objects += sorted(rows, key=lambda row: (row["type"], row["identity"]))
    names = {"former": former, "owner": owner}
    return Found(
        owner=owner,
        database=cursor.execute(_DATABASE).fetchone() or {},
        former=former,
        objects=[one for one in objects if one["owner"] != "pg_database_owner"],
        defaults=cursor.execute(_DEFAULTS, names).fetchall(),
        defaults_taken=[row["kind"] for row in cursor.execute(_DEFAULTS_TAKEN, names)],
        sessions=cursor.execute(_SESSIONS).fetchall(),
        staying=[text for (text,) in connection.execute(_STAY)],
    )


def _is_ours(catalog: str) -> str:
    """The number of a large object can be chosen freely, and public is made by initdb."""
    if catalog == "pg_largeobject_metadata":
        return "true"
    public = " OR x.nspname = 'public'" if catalog == "pg_namespace" else ""
    return f"(x.oid >= {_FIRST_OF_USERS}{public})"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
