# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The fence: nobody but the owner and superusers may connect to the database while it is being changed.

What is taken away is the right CONNECT, which the owner gives and takes without being a superuser; what is given back
is written down in the run's folder before anything is taken. The guard reads it there: it opens the fence
when the run dies, and as long as the fence is closed it ends the sessions of roles that no right can keep out (a
superuser, a member of the owner).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.checks import Check, ok
from ansible_collections.habitat.runbook.plugins.module_utils.command_line import command
from ansible_collections.habitat.runbook.plugins.module_utils.fence_record import FENCE, read_fence
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import NOTE, note, write_json
from ansible_collections.habitat.runbook.plugins.module_utils.table import count
from psycopg.rows import dict_row

_DATABASE = """
SELECT d.oid::bigint AS oid, d.datname AS name, c.system_identifier::text AS server
FROM pg_catalog.pg_database d, pg_catalog.pg_control_system() c
WHERE d.datname = pg_catalog.current_database()"""

_GRANTS = """
SELECT a.grantee::bigint AS oid, pg_catalog.pg_get_userbyid(a.grantee) AS name, a.is_grantable AS grantable,
       a.grantor = d.datdba AS by_owner
FROM pg_catalog.pg_database d,
     pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) AS a
WHERE d.datname = pg_catalog.current_database() AND a.privilege_type = 'CONNECT' AND a.grantee <> d.datdba
ORDER BY 1"""

# A role that is a member of the owner's connects by the owner's right, and a superuser by none.
_ROLES = """
SELECT r.rolname::text AS role, r.rolsuper AS superuser,
       r.rolsuper OR pg_catalog.pg_has_role(r.oid, d.datdba, 'USAGE') AS shared,
       pg_catalog.has_database_privilege(r.oid, d.oid, 'CONNECT') AS may_connect,
       me.rolsuper OR NOT r.rolsuper AND (pg_catalog.pg_has_role(me.oid, 'pg_signal_backend', 'USAGE')
                                          OR pg_catalog.pg_has_role(me.oid, r.oid, 'USAGE')) AS may_end
FROM pg_catalog.pg_roles r, pg_catalog.pg_roles me, pg_catalog.pg_database d
WHERE d.datname = pg_catalog.current_database() AND me.rolname = current_user AND r.rolname = ANY(%s) ORDER BY 1"""

# Whoever logs in holds this lock from before the right is looked at until pg_stat_activity shows the session
# (InitPostgres in postinit.c, PostgreSQL 15 to 18).
_LOGINS = """
SELECT l.pid FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.objid
WHERE l.locktype = 'object' AND l.classid = 'pg_catalog.pg_database'::pg_catalog.regclass
  AND l.mode = 'RowExclusiveLock' AND d.datname = pg_catalog.current_database()"""

# Also inside the body of a DO or a function. Statements that make theirs up are not seen.
_TOUCHES = re.compile(
    r"\b(?:grant|revoke)\b[^;]*\bon\s+database\b|\balter\s+database\b[^;]*\bowner\b|\b(?:reassign|drop)\s+owned\b",
    re.IGNORECASE,
)


def touches(statements: Iterable[str]) -> bool:
    """Whether one of these statements changes who may connect to a database.

    It would be undone in part when the fence is opened, or open it too early, so such a run must not use the right.
    """
    return any(_TOUCHES.search(statement) for statement in statements)


def close(
    connection: psycopg.Connection, run_dir: str, writer_roles: list[str], *, by_right: bool = True
) -> dict[str, Any]:
    """Close the fence around the connection's database and return its record, which is in ``run_dir``, too.

    The record is ``{"server": identifier, "oid": the database's, "grants": [{"oid": the role's, 0 for PUBLIC,
    "grantable": bool}], "ended_roles": [str]}``.
    Without ``by_right`` no right is touched and the sessions of all ``writer_roles`` are ended, which is weaker; those
    that ours may not end are left out. Nobody else loses a session by this. Closing one that is closed keeps the first
    record.
    """
    folder = Path(run_dir)
    closed = read_fence(folder)
    if closed:
        return closed
    database, grants, roles = _read(connection, writer_roles)
    by_right = by_right and all(grant["by_owner"] for grant in grants)
    record = {
        "server": database["server"],
        "oid": database["oid"],
        "grants": [{name: grant[name] for name in ("oid", "grantable")} for grant in grants if by_right],
        "ended_roles": [role["role"] for role in roles if role["may_end"] and (role["shared"] or not by_right)],
    }
    note(folder, NOTE, "fence", closed=True)
    write_json(folder / FENCE, record)
    names = {grant["oid"]: grant["name"] for grant in grants}
    with connection.transaction():
        for grant in record["grants"]:
            grantee = quoted(names[grant["oid"]]) if grant["oid"] else "PUBLIC"
            connection.execute(f"REVOKE CONNECT ON DATABASE {quoted(database['name'])} FROM {grantee}".encode())
    return record


def logins(connection: psycopg.Connection) -> set[int]:
    """The pids of those who are logging in to the connection's database: allowed to, and not yet to be seen there.

    Asked right after the fence was closed, they are all who may still come in.
    """
    return {pid for (pid,) in connection.execute(_LOGINS).fetchall()}


def ask_guard(run_dir: str) -> None:
    """Have the guard open the fence; it has a session to the server already."""
    record = read_fence(Path(run_dir))
    if record:
        write_json(Path(run_dir) / FENCE, {**record, "open": True})


def kept_out(connection: psycopg.Connection, writer_roles: list[str]) -> list[str]:
    """The application's roles that may not connect to the connection's database now."""
    return [role["role"] for role in _read(connection, writer_roles)[2] if not role["may_connect"]]


def check_fence(
    connection: psycopg.Connection, writer_roles: list[str], env: str, *, by_right: bool = True
) -> list[Check]:
    """Whether the application can be kept out of the database during the window, and how well; by_right as in close."""
    _, grants, roles = _read(connection, writer_roles)
    missing = sorted(set(writer_roles) - {role["role"] for role in roles})
    found = [Check("warn", f"there is no role {name}", "correct habitat_writer_roles") for name in missing]
    bootstrap = f"{command('playbooks/bootstrap.yml', env)} gives the application a role of its own"
    for role in (role for role in roles if role["shared"]):
        why = "is a superuser" if role["superuser"] else "has the rights of the database's owner"
        found.append(_weaker(role, why, bootstrap))
    kept = [role for role in roles if not role["shared"]]
    if not by_right:
        why = "cannot lose its right to connect, since a migration changes who may connect"
        found += [_weaker(role, why, "nothing is to be done, if that is meant") for role in kept]
    elif kept and not all(grant["by_owner"] for grant in grants):
        why = "may have its right to connect from somebody who passed it on"
        found += [_weaker(role, why, "let the owner alone grant CONNECT") for role in kept]
    elif kept:
        names = ", ".join(role["role"] for role in kept)
        found.append(ok(f"{count(len(kept), 'role')} of the application kept out during the window: {names}"))
    return found


def _weaker(role: dict[str, Any], why: str, hint: str) -> Check:
    if role["may_end"]:
        text = f"role {role['role']} {why}: in the window its sessions are ended again and again, which is weaker"
    else:
        text = f"role {role['role']} {why}, and we may not end its sessions: it can write in the window"
    return Check("warn", text, hint)


def _read(
    connection: psycopg.Connection, writer_roles: list[str]
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    with connection.cursor(row_factory=dict_row) as cursor:
        database = cursor.execute(_DATABASE).fetchone() or {}
        grants = cursor.execute(_GRANTS).fetchall()
        roles = cursor.execute(_ROLES, [writer_roles]).fetchall()
    return database, grants, roles
