# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a database needs of its server and no dump of it has: roles, memberships, role settings, tablespaces; as SQL.

pg_dumpall is not everywhere, and asks for a superuser. No password is in it: whoever runs it sets new ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted
from ansible_collections.habitat.runbook.plugins.module_utils.properties import names_in, takes_names
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import query, reading_settings
from ansible_collections.habitat.runbook.plugins.module_utils.table import printable

if TYPE_CHECKING:
    import psycopg

_BOOTSTRAP = 10  # oid of the superuser that initdb makes (pg_authid.dat); it is called otherwise on another server
_WITH_OPTIONS = 160000  # server_version_num since which a membership has options and a grantor that counts

_ATTRIBUTES = {
    "rolsuper": "SUPERUSER",
    "rolcreatedb": "CREATEDB",
    "rolcreaterole": "CREATEROLE",
    "rolinherit": "INHERIT",
    "rolcanlogin": "LOGIN",
    "rolreplication": "REPLICATION",
    "rolbypassrls": "BYPASSRLS",
}

_ROLES = """
SELECT rolname::text AS name, rolsuper, rolcreatedb, rolcreaterole, rolinherit, rolcanlogin, rolreplication,
       rolbypassrls, rolconnlimit AS connections, rolvaliduntil::text AS valid_until,
       pg_catalog.shobj_description(oid, 'pg_authid') AS comment
FROM pg_catalog.pg_roles WHERE rolname !~ '^pg_'"""

_SETTINGS = """
SELECT CASE WHEN s.setrole <> 0 THEN pg_catalog.pg_get_userbyid(s.setrole)::text END AS role,
       pg_catalog.split_part(c, '=', 1) AS name, pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1) AS value
FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) AS c WHERE s.setdatabase = 0"""

# Columns that servers before 16 do not have are null there.
_MEMBERS = """
SELECT r.rolname::text AS role, m.rolname::text AS member, a.admin_option AS admin, g.rolname::text AS grantor,
       a.grantor = %s AS by_bootstrap, (pg_catalog.to_jsonb(a) ->> 'inherit_option')::boolean AS inherit,
       (pg_catalog.to_jsonb(a) ->> 'set_option')::boolean AS set
FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles r ON r.oid = a.roleid
JOIN pg_catalog.pg_roles m ON m.oid = a.member LEFT JOIN pg_catalog.pg_roles g ON g.oid = a.grantor
WHERE m.rolname !~ '^pg_' OR r.rolname !~ '^pg_'"""

_TABLESPACES = """
SELECT t.spcname::text AS name, pg_catalog.pg_get_userbyid(t.spcowner)::text AS owner, t.spcoptions AS options,
       pg_catalog.pg_tablespace_location(t.oid) AS location,
       pg_catalog.shobj_description(t.oid, 'pg_tablespace') AS comment,
       CASE WHEN t.spcacl IS NOT NULL THEN ARRAY(
         SELECT pg_catalog.jsonb_build_object(
           'grantee', CASE WHEN x.grantee = 0 THEN '' ELSE pg_catalog.pg_get_userbyid(x.grantee) END,
           'grantor', pg_catalog.pg_get_userbyid(x.grantor), 'grantable', x.is_grantable)
         FROM pg_catalog.aclexplode(t.spcacl) AS x) END AS acl
FROM pg_catalog.pg_tablespace t WHERE t.spcname !~ '^pg_'"""

_HEAD = """\
-- Roles, memberships, role settings and tablespaces of a server, without passwords.
-- As a superuser: psql -X -d postgres -f THIS_FILE
-- What the server has already is left as it is, with a notice; the second time nothing changes.
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET search_path = '';"""


def globals_sql(connection: psycopg.Connection) -> str:
    """SQL for psql that makes what this server has and another one lacks; the same text as long as nothing changes.

    Works as any role, idle or inside a transaction: what it may not see is left out, with a remark in the text.
    Raises psycopg.Error.
    """
    with connection.transaction():
        # Some hosts' servers do not show everything to everybody; what fails must not end what we are in.
        connection.execute(reading_settings(connection))
        told: list[str] = []
        roles = _read(connection, "the roles", told, _ROLES)
        settings = _read(connection, "the settings of roles", told, _SETTINGS)
        members = _read(connection, "the memberships", told, _MEMBERS, [_BOOTSTRAP])
        tablespaces = _read(connection, "the tablespaces", told, _TABLESPACES)
    for one in members:
        one["grantor"] = one["grantor"] if connection.info.server_version >= _WITH_OPTIONS else None
    parts = [
        *told,
        *(_role(one, [each for each in settings if each["role"] == one["name"]]) for one in roles),
        *(_for_all_roles(one) for one in settings if one["role"] is None),
        *_memberships(members, {one["name"] for one in roles if one["rolsuper"]}),
        *(_tablespace(one) for one in tablespaces),
    ]
    return "\n\n".join([_HEAD, *parts, *_without_password(roles)]) + "\n"


def _read(
    connection: psycopg.Connection, what: str, told: list[str], text: str, parameters: list[Any] | None = None
) -> list[dict[str, Any]]:
    import psycopg

    try:
        with connection.transaction():
            rows = query(connection, text, parameters)
    except psycopg.errors.InsufficientPrivilege as error:
        reason = printable(error.diag.message_primary or "not allowed")
        told.append(f"-- left out: {what}, since role {printable(connection.info.user)} may not see them ({reason})")
        return []
    names = ("role", "member", "grantor", "name")
    # Here and not by the server, whose collations differ.
    return sorted(rows, key=lambda row: [row.get(name) or "" for name in names])


def literal(text: str) -> str:
    """A text as an SQL literal that means the same whatever standard_conforming_strings is."""
    inner = text.replace("'", "''")
    return "E'" + inner.replace("\\", "\\\\") + "'" if "\\" in text else f"'{inner}'"


def _unless(condition: str, there: str, statements: list[str]) -> str:
    """A DO block: the statements, in one transaction, unless a query for the condition finds something."""
    lines = [f"  IF EXISTS ({condition}) THEN", f"    RAISE NOTICE '%', {literal(there + ', it is left as it is')};"]
    body = "\n".join(["BEGIN", *lines, "  ELSE", *(f"    {one};" for one in statements), "  END IF;", "END"])
    mark = "$globals$"
    while mark in body:
        mark = f"{mark[:-1]}_$"
    return f"DO {mark}\n{body}\n{mark};"


def _role(role: dict[str, Any], settings: list[dict[str, Any]]) -> str:
    name = quoted(role["name"])
    words = [word if role[column] else f"NO{word}" for column, word in _ATTRIBUTES.items()]
    words.append(f"CONNECTION LIMIT {role['connections']:d}")
    if role["valid_until"] is not None:
        words.append(f"VALID UNTIL {literal(role['valid_until'])}")
    statements = [f"CREATE ROLE {name} WITH {' '.join(words)}"]
    if role["comment"] is not None:
        statements.append(f"COMMENT ON ROLE {name} IS {literal(role['comment'])}")
    for one in settings:
        statements += _setting(name, one)
    exists = f"SELECT FROM pg_catalog.pg_roles WHERE rolname = {literal(role['name'])}"
    return _unless(exists, f"role {role['name']} exists", statements)


def _for_all_roles(setting: dict[str, Any]) -> str:
    exists = (
        "SELECT FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) AS c WHERE s.setrole = 0 "
        f"AND s.setdatabase = 0 AND pg_catalog.split_part(c, '=', 1) = {literal(setting['name'])}"
    )
    return _unless(exists, f"{setting['name']} of all roles is set", _setting("ALL", setting))


def _setting(role: str, setting: dict[str, Any]) -> list[str]:
    begin, value = f"ALTER ROLE {role} SET {quoted(setting['name'])}", setting["value"]
    if not takes_names(setting["name"]):
        return [f"{begin} TO {literal(value)}"]
    if value:
        return [f"{begin} TO {', '.join(literal(one) for one in names_in(value))}"]
    # No list that can be typed is empty; the current value can be, and this one does not outlive the block.
    return [f"PERFORM pg_catalog.set_config({literal(setting['name'])}, '', true)", f"{begin} FROM CURRENT"]


def _memberships(members: list[dict[str, Any]], superusers: set[str]) -> list[str]:
    """Grants in an order in which every grantor has the right to grant already; then those for which there is none."""
    ordered: list[dict[str, Any]] = []
    left = members
    while left:
        allowed = {(one["role"], one["member"]) for one in ordered if one["admin"]}
        ready = [one for one in left if _may_grant(one, superusers) or (one["role"], one["grantor"]) in allowed]
        ordered += ready or left
        left = [one for one in left if one not in ready] if ready else []
    return [_membership(one, superusers) for one in ordered]


def _may_grant(one: dict[str, Any], superusers: set[str]) -> bool:
    return one["grantor"] is None or bool(one["by_bootstrap"]) or one["grantor"] in superusers


def _membership(one: dict[str, Any], superusers: set[str]) -> str:
    role, member = one["role"], one["member"]
    grant, named = f"GRANT {quoted(role)} TO {quoted(member)}", not _may_grant(one, superusers)
    condition = (
        "SELECT FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles r ON r.oid = a.roleid "
        "JOIN pg_catalog.pg_roles m ON m.oid = a.member "
        f"WHERE r.rolname = {literal(role)} AND m.rolname = {literal(member)}"
    )
    if one["inherit"] is None:
        grant += " WITH ADMIN OPTION" if one["admin"] else ""
    else:
        options = ", ".join(f"{name.upper()} {str(one[name]).upper()}" for name in ("admin", "inherit", "set"))
        grant += f" WITH {options}"
    if named:
        grantor = one["grantor"]
        grant += f" GRANTED BY {quoted(grantor)}"
        condition += f" AND pg_catalog.pg_get_userbyid(a.grantor) = {literal(grantor)}"
    elif one["grantor"]:
        condition += f" AND a.grantor = {_BOOTSTRAP}"
    by = f" by {one['grantor']}" if named else ""
    return _unless(condition, f"membership of {member} in {role}{by} exists", [grant])


def _tablespace(space: dict[str, Any]) -> str:
    name = quoted(space["name"])
    # One that the server keeps in its own folder (allow_in_place_tablespaces) has no path of its own.
    location = space["location"] if space["location"].startswith("/") else ""
    lines = [
        # CREATE TABLESPACE is refused inside a DO block.
        f"SELECT count(*) = 0 AS missing FROM pg_catalog.pg_tablespace WHERE spcname = {literal(space['name'])} \\gset",  # noqa: S608
        "\\if :missing",
        f"CREATE TABLESPACE {name} OWNER {quoted(space['owner'])} LOCATION {literal(location)};",
    ]
    if space["options"]:
        pairs = [option.partition("=") for option in sorted(space["options"])]
        lines.append(f"ALTER TABLESPACE {name} SET ({', '.join(f'{quoted(k)} = {literal(v)}' for k, _, v in pairs)});")
    if space["comment"] is not None:
        lines.append(f"COMMENT ON TABLESPACE {name} IS {literal(space['comment'])};")
    if space["acl"] is not None:
        lines += _rights(name, space["owner"], space["acl"])
    notice = f"BEGIN RAISE NOTICE '%', {literal(space['name'] + ': this tablespace exists, it is left as it is')}; END"
    lines += ["\\else", f"DO {literal(notice)};", "\\endif"]
    return "\n".join(lines)


def _rights(name: str, owner: str, acl: list[dict[str, Any]]) -> list[str]:
    """The rights on a tablespace, granted by those who had granted them, the owner first."""
    lines = [f"REVOKE ALL ON TABLESPACE {name} FROM {quoted(owner)};"]
    for one in sorted(acl, key=lambda one: (one["grantor"] != owner, one["grantor"], one["grantee"])):
        grantee = quoted(one["grantee"]) if one["grantee"] else "PUBLIC"
        option = " WITH GRANT OPTION" if one["grantable"] else ""
        grant = f"GRANT CREATE ON TABLESPACE {name} TO {grantee}{option};"
        lines.append(grant if one["grantor"] == owner else f"SET ROLE {quoted(one['grantor'])}; {grant} RESET ROLE;")
    return lines


def _without_password(roles: list[dict[str, Any]]) -> list[str]:
    names = ", ".join(printable(one["name"]) for one in roles if one["rolcanlogin"])
    return (
        [f"-- These roles log in; the ones made here have no password yet (\\password NAME): {names}"] if names else []
    )
