# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The one query of ``fidelity``: what a restore as the current role would fail on, or make otherwise than it was.

Each part was found by restoring, and is one case of the integration tests. pg_restore creates everything as the role of
the run, gives it to its owner at once, and sets rights at the very end; so an owner has to have the right to create in
the schema without any grant, and a grant by somebody else than the owner takes SET SESSION AUTHORIZATION.
"""

from __future__ import annotations

# Objects of a new database have smaller numbers (FirstNormalObjectId, src/include/access/transam.h).
_FIRST = 16384


_WIDE = "(puballtables OR x.oid IN (SELECT pnpubid FROM pg_publication_namespace))"


def _own(catalog: str) -> str:
    """The condition that an object is neither the system's nor made along with another one, as an extension's are."""
    return f"x.oid >= {_FIRST} AND ('{catalog}'::regclass, x.oid) NOT IN (SELECT classid, objid FROM member)"  # noqa: S608


def _of_superusers(order: int, catalog: str, note: str = "''", where: str = "true", joins: str = "") -> str:
    """Objects that only a superuser may create."""
    return (
        f"SELECT {order}, pg_describe_object('{catalog}'::regclass, x.oid, 0), {note} FROM {catalog} x {joins}"  # noqa: S608
        f" WHERE NOT me.rolsuper AND {_own(catalog)} AND ({where})"
    )


def _owned(catalog: str, prefix: str, schema: str = "NULL::oid", where: str = "true", acl: str = "NULL") -> str:
    """Objects with an owner, as rows of ``object``."""
    return (
        f"SELECT '{catalog}'::regclass::oid AS class, x.oid, {prefix}owner AS owner, {schema} AS schema, "  # noqa: S608
        f"{acl}::aclitem[] AS acl FROM {catalog} x WHERE {_own(catalog)} AND ({where})"
    )


_OBJECTS = "\n  UNION ALL ".join(
    (
        _owned("pg_class", "rel", "relnamespace", "relkind IN ('r', 'p', 'v', 'm', 'f', 'S')", "relacl"),
        _owned("pg_proc", "pro", "pronamespace", acl="proacl"),
        _owned(
            "pg_type",
            "typ",
            "typnamespace",
            "typtype IN ('d', 'e', 'r') OR typrelid IN (SELECT oid FROM pg_class WHERE relkind = 'c')",
            "typacl",
        ),
        _owned("pg_namespace", "nsp", acl="nspacl", where="nspname !~ '^pg_'"),
        # The schema public has a small number.
        "SELECT 'pg_namespace'::regclass::oid, oid, nspowner, NULL, nspacl FROM pg_namespace"  # noqa: S608
        f" WHERE nspname = 'public' AND oid < {_FIRST}",
        _owned("pg_operator", "opr", "oprnamespace"),
        _owned("pg_collation", "coll", "collnamespace"),
        _owned("pg_conversion", "con", "connamespace"),
        _owned("pg_statistic_ext", "stx", "stxnamespace"),
        _owned("pg_ts_dict", "dict", "dictnamespace"),
        _owned("pg_ts_config", "cfg", "cfgnamespace"),
        _owned("pg_foreign_server", "srv", acl="srvacl"),
        _owned("pg_publication", "pub", where="NOT " + _WIDE),
        # Described as large objects, whose numbers no other class has.
        "SELECT 'pg_largeobject'::regclass::oid, oid, lomowner, NULL, lomacl FROM pg_largeobject_metadata",
    )
)


def _given(catalog: str, kind: str, acl: str, owner: str, where: str = "true") -> str:
    """Objects of the system or of an extension with rights, as rows of ``given``."""
    return (
        f"SELECT '{catalog}'::regclass::oid AS class, x.oid, {acl} AS acl, acldefault({kind}, {owner}) AS usual "  # noqa: S608
        f"FROM {catalog} x WHERE {where}"
    )


def _system(schema: str, catalog: str) -> str:
    """The condition that a dump has the rights of an object although it does not have the object."""
    member = f"('{catalog}'::regclass, x.oid) IN (SELECT classid, objid FROM made_by_superuser)"  # noqa: S608
    return f"({schema} = 'pg_catalog'::regnamespace AND x.oid < {_FIRST} OR {member})"


_GIVEN = "\n  UNION ALL ".join(
    (
        _given(
            "pg_class",
            "CASE relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r' END",
            "relacl",
            "relowner",
            f"relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {_system('relnamespace', 'pg_class')}",
        ),
        _given("pg_proc", "'f'", "proacl", "proowner", _system("pronamespace", "pg_proc")),
        _given("pg_type", "'T'", "typacl", "typowner", _system("typnamespace", "pg_type")),
        _given("pg_language", "'l'", "lanacl", "lanowner", "lanispl AND " + _system("0", "pg_language")),
        _given("pg_namespace", "'n'", "nspacl", "nspowner", _system("oid", "pg_namespace")),
    )
)

_SETTINGS = f"""
  SELECT 'pg_proc'::regclass::oid AS class, x.oid, split_part(one, '=', 1) AS name FROM pg_proc x, unnest(proconfig) one
  WHERE {_own("pg_proc")}
  UNION ALL SELECT 'pg_database'::regclass::oid, d.oid, split_part(one, '=', 1)
  FROM d JOIN pg_db_role_setting s ON s.setdatabase = d.oid, unnest(setconfig) one
"""  # noqa: S608

_PARTS = (
    _of_superusers(1, "pg_event_trigger"),
    f"""
SELECT 2, pg_describe_object('pg_publication'::regclass, x.oid, 0)
    || CASE WHEN puballtables THEN ' FOR ALL TABLES' ELSE ' FOR TABLES IN SCHEMA' END, ''
FROM pg_publication x WHERE NOT me.rolsuper AND {_own("pg_publication")}
  AND {_WIDE}""",  # noqa: S608
    """
SELECT 3, 'extension ' || extname, CASE
    WHEN version IS NULL THEN 'the server has no files of it any more'
    WHEN superuser AND NOT trusted AND NOT me.rolsuper THEN 'not trusted'
    ELSE 'it is ' || extversion || ', a restored one would be ' || version END
FROM extension WHERE extversion IS DISTINCT FROM version OR (superuser AND NOT trusted AND NOT me.rolsuper)""",
    _of_superusers(4, "pg_foreign_data_wrapper"),
    _of_superusers(4, "pg_language"),
    _of_superusers(4, "pg_am"),
    _of_superusers(4, "pg_ts_template"),
    _of_superusers(4, "pg_ts_parser"),
    _of_superusers(4, "pg_opclass"),
    # Others come with an operator class.
    _of_superusers(4, "pg_opfamily", where="x.oid NOT IN (SELECT opcfamily FROM pg_opclass)"),
    _of_superusers(4, "pg_type", "'a base type'", "typtype = 'b' AND typcategory <> 'A' AND typisdefined"),
    _of_superusers(
        4,
        "pg_proc",
        "CASE WHEN NOT lanpltrusted THEN 'language ' || lanname WHEN proleakproof THEN 'leakproof'"
        " ELSE 'with a support function' END",
        "(NOT lanpltrusted AND prokind <> 'a') OR proleakproof OR prosupport <> 0",
        "JOIN pg_language l ON l.oid = prolang",
    ),
    _of_superusers(
        4,
        "pg_proc",
        "'its state is internal'",
        "aggtranstype = 'internal'::regtype OR aggmtranstype = 'internal'::regtype",
        "JOIN pg_aggregate a ON a.aggfnoid = x.oid",
    ),
    _of_superusers(
        4,
        "pg_cast",
        "'between types of others'",
        "castmethod = 'b' OR NOT (pg_has_role(s.typowner, 'USAGE') OR pg_has_role(t.typowner, 'USAGE'))",
        "JOIN pg_type s ON s.oid = castsource JOIN pg_type t ON t.oid = casttarget",
    ),
    # A schema and a large object are not touched any more once they have their owner.
    """
SELECT 5, pg_describe_object(o.class, o.oid, 0), 'owned by ' || pg_get_userbyid(o.owner)
FROM object o LEFT JOIN pg_namespace n ON n.oid = o.schema
WHERE NOT me.rolsuper AND NOT (pg_has_role(o.owner, '{may_set}') AND (pg_has_role(o.owner, 'USAGE')
        OR o.class IN ('pg_namespace'::regclass, 'pg_largeobject'::regclass)))""",
    """
SELECT 6, pg_describe_object(o.class, o.oid, 0), 'owned by ' || pg_get_userbyid(o.owner) || ', schema ' || n.nspname
    || ' by ' || pg_get_userbyid(n.nspowner)
FROM object o JOIN pg_namespace n ON n.oid = o.schema
WHERE NOT me.rolsuper AND pg_has_role(o.owner, '{may_set}') AND pg_has_role(o.owner, 'USAGE')
  AND NOT (pg_has_role(n.nspowner, 'USAGE') AND (o.owner = me.oid OR pg_has_role(o.owner, n.nspowner, 'USAGE')))""",
    """
SELECT 6, pg_describe_object(o.class, o.oid, 0), 'owned by ' || pg_get_userbyid(o.owner) || ', the database by '
    || pg_get_userbyid(d.datdba)
FROM object o WHERE NOT me.rolsuper AND o.class = 'pg_publication'::regclass AND pg_has_role(o.owner, '{may_set}')
  AND pg_has_role(o.owner, 'USAGE') AND o.owner <> me.oid AND NOT pg_has_role(o.owner, d.datdba, 'USAGE')""",
    """
SELECT DISTINCT 7, pg_describe_object(o.class, o.oid, o.column), 'rights granted by ' || pg_get_userbyid(a.grantor)
FROM (SELECT class, oid, 0 AS column, owner, acl FROM object UNION ALL
      SELECT o.class, o.oid, attnum, owner, attacl FROM object o JOIN pg_attribute ON attrelid = o.oid
      WHERE o.class = 'pg_class'::regclass AND attacl IS NOT NULL) o, aclexplode(o.acl) a
WHERE NOT me.rolsuper AND a.grantor <> o.owner""",
    """
SELECT 8, pg_describe_object(g.class, g.oid, 0), 'its rights were changed'
FROM given g LEFT JOIN pg_init_privs i ON i.classoid = g.class AND i.objoid = g.oid AND i.objsubid = 0
WHERE NOT me.rolsuper AND g.acl IS DISTINCT FROM i.initprivs
  AND ARRAY(SELECT a::text FROM unnest(coalesce(g.acl, g.usual)) a ORDER BY 1)
   <> ARRAY(SELECT a::text FROM unnest(coalesce(i.initprivs, g.usual)) a ORDER BY 1)""",
    f"""
SELECT 8, pg_describe_object('pg_class'::regclass, attrelid, attnum), 'its rights were changed'
FROM pg_attribute
LEFT JOIN pg_init_privs i ON i.classoid = 'pg_class'::regclass AND i.objoid = attrelid AND i.objsubid = attnum
WHERE NOT me.rolsuper AND attacl IS DISTINCT FROM i.initprivs AND attrelid < {_FIRST}
  AND attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace)""",  # noqa: S608
    """
SELECT 9, pg_describe_object('pg_default_acl'::regclass, x.oid, 0), ''
FROM pg_default_acl x WHERE NOT me.rolsuper AND NOT pg_has_role(defaclrole, 'USAGE')""",
    """
SELECT DISTINCT 10, pg_describe_object(x.class, x.oid, 0), 'sets ' || x.name
FROM setting x LEFT JOIN pg_settings s ON lower(s.name) = lower(x.name)
WHERE NOT me.rolsuper AND (s.name IS NULL OR s.context LIKE 'superuser%')
  AND NOT has_parameter_privilege(x.name, 'SET')""",
    """
SELECT DISTINCT 11, 'database ' || d.datname, 'has settings of role ' || pg_get_userbyid(s.setrole)
FROM pg_db_role_setting s WHERE NOT me.rolsuper AND s.setdatabase = d.oid AND s.setrole NOT IN (0, me.oid)
  AND NOT (me.rolcreaterole AND {may_alter} AND NOT (SELECT rolsuper FROM pg_roles WHERE oid = s.setrole))""",
    """
SELECT 12, 'database ' || d.datname, 'owned by ' || pg_get_userbyid(d.datdba)
WHERE NOT me.rolsuper AND NOT pg_has_role(d.datdba, '{may_set}')""",
    """
SELECT DISTINCT 12, 'database ' || d.datname, 'rights granted by ' || pg_get_userbyid(a.grantor)
FROM aclexplode(d.datacl) a
WHERE NOT me.rolsuper AND a.grantor <> d.datdba AND NOT pg_has_role(a.grantor, '{may_set}')""",
    """
SELECT DISTINCT 13, 'tablespace ' || spcname, 'no right to create in it'
FROM pg_tablespace t WHERE NOT me.rolsuper AND NOT has_tablespace_privilege(t.oid, 'CREATE')
  AND (t.oid IN (SELECT reltablespace FROM pg_class WHERE oid >= 16384)
    OR (t.oid = d.dattablespace AND t.oid <> (SELECT dattablespace FROM pg_database WHERE datname = 'template0')))""",
)

_FRAME = f"""
WITH member AS MATERIALIZED (
  SELECT classid, objid FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
    -- A range type brings functions and a cast along.
    OR deptype = 'i' AND classid IN ('pg_proc'::regclass, 'pg_cast'::regclass)
), me AS MATERIALIZED (
  SELECT oid, rolsuper, rolcreaterole FROM pg_roles WHERE rolname = current_user
), d AS MATERIALIZED (
  SELECT oid, datname, datdba, datacl, dattablespace FROM pg_database WHERE datname = current_database()
), extension AS MATERIALIZED (
  SELECT e.oid, e.extname, e.extversion, v.version, v.superuser, v.trusted FROM pg_extension e
  LEFT JOIN pg_available_extensions a ON a.name = e.extname
  LEFT JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version
), made_by_superuser AS MATERIALIZED (
  SELECT m.classid, m.objid FROM pg_depend m JOIN extension e ON e.oid = m.refobjid AND e.superuser AND e.trusted
  WHERE m.refclassid = 'pg_extension'::regclass AND m.deptype = 'e'
), object AS MATERIALIZED (
  SELECT * FROM ({_OBJECTS}) o WHERE schema IS NULL
    OR schema IN (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')
), given AS MATERIALIZED (
  {_GIVEN}
), setting AS MATERIALIZED ({_SETTINGS})
SELECT me.rolsuper AS superuser, current_user::text AS role, found.what, found.note
FROM me CROSS JOIN d LEFT JOIN LATERAL (
{{parts}}
) AS found (place, what, note) ON true ORDER BY found.place, found.what"""  # noqa: S608


def text(server_version: int) -> str:
    """The query for a server, whose server_version_num is ``server_version``: rows of superuser, role, what, note.

    There is at least one row; ``what`` is null when nothing was found.
    """
    newer = server_version >= 160000
    words = {
        "may_set": "SET" if newer else "MEMBER",
        "may_alter": "pg_has_role(s.setrole, 'MEMBER WITH ADMIN OPTION')" if newer else "true",
    }
    parts = "\nUNION ALL ".join(part.strip() for part in _PARTS)
    for name, value in words.items():
        parts = parts.replace(f"{{{name}}}", value)
    return _FRAME.format(parts=parts)
