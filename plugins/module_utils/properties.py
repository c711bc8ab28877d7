# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a database has as a whole and no dump of its contents brings along: settings, grants, comment, limits.

PostgreSQL keeps these by the database's oid, so a new database of the same name has none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, quoted
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import query

if TYPE_CHECKING:
    import psycopg

# Settings whose values are lists of quoted names; one literal for the whole list would be one name. The same list as
# in PostgreSQL's src/bin/pg_dump/dumputils.c, variable_is_guc_list_quote.
_LISTS_OF_NAMES = {
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
}
_NAME_IN_LIST = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^",\s]+))\s*(?:,|\Z)')

_READ = """
SELECT d.oid::bigint AS oid, d.datconnlimit AS connection_limit, t.spcname AS tablespace,
       pg_catalog.shobj_description(d.oid, 'pg_database') AS comment, pg_catalog.pg_get_userbyid(d.datdba) AS owner
FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = %s"""

_SETTINGS = """
SELECT CASE WHEN s.setrole <> 0 THEN pg_catalog.pg_get_userbyid(s.setrole) END AS role,
       pg_catalog.split_part(c, '=', 1) AS name, pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1) AS value
FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) AS c WHERE s.setdatabase = %s"""

_ACL = """
SELECT CASE WHEN a.grantee = 0 THEN '' ELSE pg_catalog.pg_get_userbyid(a.grantee) END AS grantee,
       pg_catalog.pg_get_userbyid(a.grantor) AS grantor, a.privilege_type AS privilege, a.is_grantable AS grantable
FROM pg_catalog.pg_database d, pg_catalog.aclexplode({}) AS a WHERE d.oid = %s"""
_DEFAULT_ACL = "pg_catalog.acldefault('d', d.datdba)"

_LABELS = """
SELECT provider, label FROM pg_catalog.pg_shseclabel
WHERE classoid = 'pg_catalog.pg_database'::pg_catalog.regclass AND objoid = %s ORDER BY 1"""


def read_properties(connection: psycopg.Connection, database: str) -> dict[str, Any]:
    """The properties of a database of this server, as ``database.properties`` of a manifest.

    ``{"connection_limit": int (-1: none), "comment": str or None, "tablespace": str,
    "settings": [{"role": str or None for every role, "name", "value"}],
    "acl": None for the default or [{"grantee": "" for PUBLIC, "grantor", "privilege", "grantable": bool}],
    "security_labels": [{"provider", "label"}]}``, the lists sorted. Raises BackupError when there is no such database.
    """
    found = _find(connection, database)
    settings = query(connection, _SETTINGS, [found["oid"]])
    acl = _acl(connection, "d.datacl", found)
    is_default = acl == _acl(connection, _DEFAULT_ACL, found)
    return {
        **{name: found[name] for name in ("connection_limit", "comment", "tablespace")},
        "settings": sorted(settings, key=lambda entry: (entry["role"] or "", entry["name"])),
        "acl": None if is_default else acl,
        "security_labels": query(connection, _LABELS, [found["oid"]]),
    }


def _find(connection: psycopg.Connection, database: str) -> dict[str, Any]:
    found = query(connection, _READ, [database])
    if not found:
        raise BackupError(f"there is no database {database} on this server; name another one")
    return found[0]


def _acl(connection: psycopg.Connection, source: str, database: dict[str, Any]) -> list[dict[str, Any]]:
    rows = query(connection, _ACL.format(f"coalesce({source}, {_DEFAULT_ACL})"), [database["oid"]])
    return sorted(rows, key=lambda entry: (entry["grantee"], entry["privilege"], entry["grantor"]))


def missing_roles(connection: psycopg.Connection, manifest: dict[str, Any]) -> list[str]:
    """The roles that a backup names, of the database or inside it, and this server does not have, sorted."""
    properties = manifest["database"]["properties"]
    named = {manifest["database"]["owner"], *manifest["roles"]}
    named |= {entry["role"] for entry in properties["settings"] if entry["role"]}
    for entry in properties["acl"] or ():
        named |= {entry["grantor"], entry["grantee"]} - {""}
    known = {row["name"] for row in query(connection, "SELECT rolname AS name FROM pg_catalog.pg_roles")}
    return sorted(named - known)


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """What differs between the properties of a backup (``a``) and those of a database now (``b``), as clauses."""
    found = [
        f"{words} is {_shown(a[name])} in the backup and {_shown(b[name])} now"
        for name, words in (
            ("connection_limit", "the connection limit"),
            ("comment", "the comment"),
            ("tablespace", "the tablespace"),
        )
        if a[name] != b[name]
    ]
    if (a["acl"] is None) != (b["acl"] is None):
        before, now = ("the default ones" if side["acl"] is None else "changed ones" for side in (a, b))
        found.append(f"the access rights are {before} in the backup and {now} now")
    for read in (_settings_by_name, _grants_by_name, _labels_by_name):
        told, real = read(a), read(b)
        found += [
            f"{name} is {_shown(told.get(name))} in the backup and {_shown(real.get(name))} now"
            for name in sorted({*told, *real})
            if told.get(name) != real.get(name)
        ]
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    return str(value) if value != "" else "empty"


def _settings_by_name(properties: dict[str, Any]) -> dict[str, str]:
    return {
        entry["name"] + (f" of role {entry['role']}" if entry["role"] else ""): entry["value"]
        for entry in properties["settings"]
    }


def _grants_by_name(properties: dict[str, Any]) -> dict[str, str]:
    return {
        f"{entry['privilege']} for {entry['grantee'] or 'PUBLIC'} (from {entry['grantor']})": (
            "granted with grant option" if entry["grantable"] else "granted"
        )
        for entry in properties["acl"] or ()
    }


def _labels_by_name(properties: dict[str, Any]) -> dict[str, str]:
    return {f"the security label of {entry['provider']}": entry["label"] for entry in properties["security_labels"]}


def apply_properties(connection: psycopg.Connection, database: str, properties: dict[str, Any], owner: str) -> None:
    """Make a database have this owner and exactly these properties but the tablespace, all or none of them.

    ``connection`` is in autocommit mode, idle, and in another database. What is so already is not touched, so that no
    right is needed for it. Raises BackupError when a right or a role is missing.
    """
    connection.execute("BEGIN")
    try:
        with _explained(connection, f"the owner of database {database} cannot become {owner}"):
            if _find(connection, database)["owner"] != owner:
                connection.execute(f"ALTER DATABASE {quoted(database)} OWNER TO {quoted(owner)}")
        now = read_properties(connection, database)
        _apply_plain(connection, database, properties, now)
        _apply_settings(connection, database, properties["settings"], now["settings"])
        if properties["acl"] != now["acl"]:
            with _explained(connection, f"the access rights of database {database} cannot be set"):
                _apply_acl(connection, database, properties["acl"])
        # PostgreSQL only warns when whoever grants may not grant.
        left = differences(
            {**properties, "tablespace": None}, {**read_properties(connection, database), "tablespace": None}
        )
        if left:
            raise BackupError(
                f"database {database} did not become as in the backup: {left[0]}; do it as its owner {owner}"
            )
        connection.execute("COMMIT")
    finally:
        if not connection.closed and connection.info.transaction_status:
            connection.execute("ROLLBACK")


@contextmanager
def _explained(connection: psycopg.Connection, what: str) -> Iterator[None]:
    try:
        yield
    except connection.Error as error:
        text = (error.diag.message_primary or str(error)).strip().splitlines()[0]
        raise BackupError(
            f"{what}: {text}; do it as a superuser or give role {connection.info.user} the right"
        ) from error


def _apply_plain(connection: psycopg.Connection, database: str, wanted: dict[str, Any], now: dict[str, Any]) -> None:
    name = quoted(database)
    if wanted["connection_limit"] != now["connection_limit"]:
        with _explained(connection, f"the connection limit of database {database} cannot be set"):
            connection.execute(f"ALTER DATABASE {name} CONNECTION LIMIT {wanted['connection_limit']:d}")
    if wanted["comment"] != now["comment"]:
        with _explained(connection, f"the comment of database {database} cannot be set"):
            connection.execute(f"COMMENT ON DATABASE {name} IS {literal(connection, wanted['comment'])}")
    labels, others = ({entry["provider"]: entry["label"] for entry in p["security_labels"]} for p in (wanted, now))
    for provider in sorted({*labels, *others}):
        if labels.get(provider) != others.get(provider):
            with _explained(connection, f"the security label of {provider} on database {database} cannot be set"):
                label = literal(connection, labels.get(provider))
                connection.execute(f"SECURITY LABEL FOR {quoted(provider)} ON DATABASE {name} IS {label}")


def literal(connection: psycopg.Connection, text: str | None) -> str:
    """A text as an SQL literal, for statements that take no parameters."""
    if text is None:
        return "NULL"
    return str(query(connection, "SELECT pg_catalog.quote_literal(%s::text) AS text", [text])[0]["text"])


def _apply_settings(
    connection: psycopg.Connection, database: str, wanted: list[dict[str, Any]], now: list[dict[str, Any]]
) -> None:
    targets, current = ({(entry["role"], entry["name"]): entry["value"] for entry in side} for side in (wanted, now))
    for role, name in sorted({*targets, *current}, key=lambda key: (key[0] or "", key[1])):
        value = targets.get((role, name))
        if value == current.get((role, name)):
            continue
        whose = f"ALTER ROLE {quoted(role)} IN DATABASE {quoted(database)}" if role else ""
        begin = whose or f"ALTER DATABASE {quoted(database)}"
        with _explained(connection, f"{name} of {f'role {role} in ' if role else ''}database {database} cannot be set"):
            connection.execute(f"{begin} {_change(connection, name, value)}")


def _change(connection: psycopg.Connection, name: str, value: str | None) -> str:
    if value is None:
        return f"RESET {quoted(name)}"
    if not takes_names(name):
        return f"SET {quoted(name)} TO {literal(connection, value)}"
    if not value:
        # No list that can be typed is empty; the current value can be, and this transaction does not outlive it.
        query(connection, "SELECT pg_catalog.set_config(%s, '', true)", [name])
        return f"SET {quoted(name)} FROM CURRENT"
    return f"SET {quoted(name)} TO {', '.join(literal(connection, part) for part in names_in(value))}"


def takes_names(setting: str) -> bool:
    """Whether the value of a setting is a list of quoted names."""
    return setting.lower() in _LISTS_OF_NAMES


def names_in(value: str) -> list[str]:
    """The names in the value of a setting such as search_path, as PostgreSQL's SplitGUCList takes them apart."""
    return [plain or (inner or "").replace('""', '"') for inner, plain in _NAME_IN_LIST.findall(value)]


def _apply_acl(connection: psycopg.Connection, database: str, wanted: list[dict[str, Any]] | None) -> None:
    name, found = quoted(database), _find(connection, database)
    if wanted is None:
        wanted = _acl(connection, _DEFAULT_ACL, found)
    # What others granted on goes with the right that allowed them to.
    for grantee in sorted({entry["grantee"] for entry in _acl(connection, "d.datacl", found)}):
        connection.execute(f"REVOKE ALL ON DATABASE {name} FROM {_grantee(grantee)} CASCADE")
    allowed, left = {(found["owner"], privilege) for privilege in _PRIVILEGES}, list(wanted)
    while left:
        ready = [entry for entry in left if (entry["grantor"], entry["privilege"]) in allowed]
        if not ready:
            raise BackupError(f"the grants on database {database} come from nobody who could have made them")
        for entry in ready:
            _grant(connection, name, entry, found["owner"])
            if entry["grantable"]:
                allowed.add((entry["grantee"], entry["privilege"]))
        left = [entry for entry in left if entry not in ready]


_PRIVILEGES = ("CREATE", "CONNECT", "TEMPORARY")


def _grant(connection: psycopg.Connection, name: str, entry: dict[str, Any], owner: str) -> None:
    if entry["privilege"] not in _PRIVILEGES:
        raise BackupError(f"a grant is of {entry['privilege']!r}, which no database knows")
    option = " WITH GRANT OPTION" if entry["grantable"] else ""
    statement = f"GRANT {entry['privilege']} ON DATABASE {name} TO {_grantee(entry['grantee'])}{option}"
    if entry["grantor"] == owner:
        connection.execute(statement)
        return
    # PostgreSQL notes as grantor the role that grants, or the owner when that is a superuser or a member of the owner.
    role = query(connection, "SELECT current_user::text AS role")[0]["role"]
    connection.execute(f"SET LOCAL ROLE {quoted(entry['grantor'])}; {statement}; SET LOCAL ROLE {quoted(role)}")


def _grantee(name: str) -> str:
    return quoted(name) if name else "PUBLIC"
