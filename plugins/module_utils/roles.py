# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The two roles of a database: the owner, who migrates, and the application's, who may not change the schema.

What is missing is planned from what the catalogs say, statement by statement; nothing is done that is done already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import lock_session, role_rights, scram, take_over
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted
from ansible_collections.habitat.runbook.plugins.module_utils.table import count
from psycopg import sql
from psycopg.rows import dict_row

OLDEST_SERVER = 150_000
_INHERITS_BY_GRANT = 160_000  # since PostgreSQL 16 whether rights are inherited is a matter of each grant
_LONGEST_NAME = 63  # bytes, NAMEDATALEN - 1
_OWNERS_ROLES = ("pg_read_all_stats", "pg_signal_backend")

_ROLES = """
SELECT oid::bigint AS oid, rolname::text AS name, rolsuper AS superuser, rolbypassrls AS bypassrls,
       rolcreaterole AS createrole, rolcanlogin AS login, rolinherit AS inherit, rolcreatedb AS createdb,
       rolpassword AS verifier
FROM pg_catalog.pg_authid WHERE rolname = ANY(%s)"""

_MAY_USE = """
SELECT granted.rolname::text FROM pg_catalog.pg_roles AS granted, pg_catalog.pg_roles AS owner
WHERE granted.rolname = ANY(%s) AND owner.rolname = %s AND pg_catalog.pg_has_role(owner.oid, granted.oid, 'USAGE')"""

_MEMBERS = """
SELECT member.rolname::text FROM pg_catalog.pg_roles AS member, pg_catalog.pg_roles AS owner
WHERE member.rolname = ANY(%s) AND owner.rolname = %s AND pg_catalog.pg_has_role(member.oid, owner.oid, 'MEMBER')"""


class RolesError(Exception):
    """Roles or rights cannot be made as wished; the text is one sentence that says what to do."""


@dataclass(frozen=True)
class Wish:
    """What is to be: names, passwords by role (none: as they are), and what may be done to reach it."""

    database: str
    owner: str
    writers: list[str]
    passwords: dict[str, str]
    take_over: bool
    grant_app: bool


@dataclass(frozen=True)
class Step:
    """One statement. ``kind`` is created, altered or granted, ``text`` says what to an operator.

    ``sql`` can be shown to anybody; ``secret``, where it is given, is what is really sent.
    """

    kind: str
    text: str
    sql: str
    secret: str | None = field(default=None, repr=False)


@dataclass
class Outcome:
    """What was done, or would be in check mode, and what an operator should know besides."""

    steps: list[Step]
    notes: list[str]

    def as_data(self) -> dict[str, list[str]]:
        kinds = {kind: [step.text for step in self.steps if step.kind == kind] for kind in _KINDS}
        return {**kinds, "statements": [step.sql for step in self.steps], "notes": self.notes}


_KINDS = ("created", "altered", "granted")


def ensure(admin: psycopg.Connection, connect: Callable[[str], psycopg.Connection], wish: Wish, check: bool) -> Outcome:
    """Make roles, database, ownership and rights as wished; with ``check`` only say what is missing.

    admin: an autocommit session of a superuser in database ``postgres``; connect opens one in another database.
    What is inside the database is one transaction. Raises RolesError where the wish is refused, then nothing was
    changed, and psycopg.Error.
    """
    _refuse_server(admin, wish)
    _lock(admin, wish.database)
    roles = read_roles(admin, [wish.owner, *wish.writers])
    _refuse_roles(admin, wish, roles)
    steps = [*_role_steps(admin, wish, roles), *_membership_steps(admin, wish, roles)]
    exists = admin.execute("SELECT FROM pg_catalog.pg_database WHERE datname = %s", [wish.database]).rowcount
    if exists:
        return _with_database(admin, connect, wish, check, steps)
    steps.append(Step("created", f"database {wish.database}", _create_database(wish)))
    if check:
        return Outcome([*steps, *rights_steps(wish, role_rights.of_new_database(wish.owner))], _notes(wish, roles))
    _run(admin, steps)
    made = _with_database(admin, connect, wish, check, [])
    return Outcome([*steps, *made.steps], made.notes)


def _with_database(
    admin: psycopg.Connection,
    connect: Callable[[str], psycopg.Connection],
    wish: Wish,
    check: bool,
    before: list[Step],
) -> Outcome:
    """``ensure`` for a database that is there; before: steps that come first, outside its transaction."""
    with connect(wish.database) as connection:
        connection.execute("SELECT pg_catalog.set_config('search_path', '', false)")
        notes = _notes(wish, read_roles(admin, [wish.owner, *wish.writers]))
        found = take_over.read(connection, wish.owner, wish.writers)
        moved = [Step("altered", text, statement) for text, statement in found.statements()] if wish.take_over else []
        if moved:
            _refuse_sessions(found, wish)
        notes += found.notes(wish.take_over, wish.owner)
        facts = role_rights.read(connection, wish.owner, wish.writers)
        if wish.take_over:
            # Whoever owns a database may connect to it, and from then on that is the owner.
            facts.connect.add(wish.owner)
        inside = [*moved, *rights_steps(wish, facts)]
        notes += role_rights.notes(facts, wish.database)
        if not check:
            _run(admin, before)
            with connection.transaction():
                _run(connection, inside)
    return Outcome([*before, *inside], notes)


def rights_steps(wish: Wish, facts: role_rights.Facts) -> list[Step]:
    """Steps for what the roles may do in the database."""
    wanted = role_rights.statements(facts, wish.database, wish.owner, wish.writers, wish.grant_app)
    return [Step("granted", text, statement) for text, statement in wanted]


def _run(connection: psycopg.Connection, steps: Iterable[Step]) -> None:
    for step in steps:
        try:
            connection.execute((step.secret or step.sql).encode())
        except psycopg.errors.LockNotAvailable as error:
            raise RolesError(
                f"another session holds a lock that this needs: {step.sql}; nothing inside the database was changed, "
                "run this again when its transaction has ended"
            ) from error
        except psycopg.Error as error:
            # The server quotes the statement's text in some messages, and it may have a verifier in it.
            reason = error.diag.message_primary or "the connection was lost"
            raise RolesError(f"the server refused {step.sql}: {reason}") from None


def _refuse_server(admin: psycopg.Connection, wish: Wish) -> None:
    if admin.info.server_version < OLDEST_SERVER:
        raise RolesError(f"the server is PostgreSQL {admin.info.server_version // 10000}; 15 or later is needed")
    row = admin.execute("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user").fetchone()
    if not (row and row[0]):
        raise RolesError(
            f"{admin.info.user} is no superuser, and only one can make these roles; name one in "
            "habitat_postgres_admin, or type the statements of docs/bootstrap.md by hand"
        )
    names = [wish.database, wish.owner, *wish.writers]
    wrong = [name for name in names if not name or len(name.encode()) > _LONGEST_NAME or "\0" in name]
    reserved = [name for name in names[1:] if name.startswith("pg_") or name in ("public", "none")]
    if wrong or reserved:
        raise RolesError(f"{(wrong or reserved)[0]!r} cannot be the name of a role or database; correct the inventory")


def _lock(admin: psycopg.Connection, database: str) -> None:
    """Hold the run lock to the end of this session, so that no run of the runbook begins meanwhile."""
    taken = lock_session.try_lock(admin, lock_session.lock_key(database))
    if not taken:
        held = lock_session.held_by(admin, database) or {}
        raise RolesError(f"run {held.get('run_id') or 'of somebody else'} holds {database}; wait for its end")


def read_roles(admin: psycopg.Connection, names: list[str]) -> dict[str, dict[str, Any]]:
    """Those of the roles that exist, by name: oid, superuser, bypassrls, createrole, login, inherit, createdb,
    verifier (what the server keeps for the password, or None)."""
    cursor = admin.cursor(row_factory=dict_row)
    return {row["name"]: row for row in cursor.execute(_ROLES, [names])}


def _refuse_roles(admin: psycopg.Connection, wish: Wish, roles: dict[str, dict[str, Any]]) -> None:
    unknown = sorted(set(wish.passwords) - {wish.owner, *wish.writers})
    if unknown:
        raise RolesError(f"there is a password for {unknown[0]}, which is neither owner nor in habitat_writer_roles")
    if wish.owner in wish.writers:
        raise RolesError(f"{wish.owner} is both the owner and the application's role; name two different roles")
    members = {name for (name,) in admin.execute(_MEMBERS, [wish.writers, wish.owner])}
    for name in wish.writers:
        role = roles.get(name, {})
        for fault, word, cure in (
            ("superuser", "is a superuser", "NOSUPERUSER"),
            ("bypassrls", "may pass by row-level security", "NOBYPASSRLS"),
            ("createrole", "may make roles, so it could give itself any right", "NOCREATEROLE"),
        ):
            if role.get(fault):
                raise RolesError(
                    f"the application's role {name} {word}; name another one in habitat_writer_roles, or: "
                    f"ALTER ROLE {quoted(name)} {cure}"
                )
        if name in members:
            raise RolesError(
                f"the application's role {name} is a member of the owner {wish.owner}, so it could change the schema; "
                f"REVOKE {quoted(wish.owner)} FROM {quoted(name)}, or name another role in habitat_writer_roles"
            )


def _refuse_sessions(found: take_over.Found, wish: Wish) -> None:
    losing = [one for one in found.sessions if not one["superuser"] and one["role"] in found.former]
    if losing:
        one = losing[0]
        raise RolesError(
            f"{one['role']} has {count(one['sessions'], 'session')} in {wish.database} and would lose its rights "
            f"on what goes to {wish.owner}; stop the services and run this again, or set "
            "habitat_bootstrap_take_over: false"
        )


def _role_steps(admin: psycopg.Connection, wish: Wish, roles: dict[str, dict[str, Any]]) -> list[Step]:
    steps = []
    for name in (wish.owner, *wish.writers):
        wanted = {"login": "LOGIN", **({"createdb": "CREATEDB", "inherit": "INHERIT"} if name == wish.owner else {})}
        role, password = roles.get(name), wish.passwords.get(name) or ""
        if role is None:
            steps.append(_role_step(admin, "CREATE", name, list(wanted.values()), password))
            continue
        missing = [word for key, word in wanted.items() if not (role[key] or (role["superuser"] and key != "login"))]
        stale = password if password and not scram.is_of(role["verifier"], password) else ""
        if missing or stale:
            steps.append(_role_step(admin, "ALTER", name, missing, stale))
    return steps


def _role_step(admin: psycopg.Connection, verb: str, name: str, options: list[str], password: str) -> Step:
    """CREATE ROLE or ALTER ROLE; the password travels as a verifier, so that no log of the server can show it."""
    start = " ".join([f"{verb} ROLE {quoted(name)}", *options])
    changes = [word for word in (*options, "password" if password else "") if word]
    kind, text = ("created", f"role {name}") if verb == "CREATE" else ("altered", f"role {name}: {', '.join(changes)}")
    if not password:
        return Step(kind, text, start)
    verifier = admin.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    return Step(
        kind, text, f"{start} PASSWORD '********'", f"{start} PASSWORD {sql.Literal(verifier).as_string(admin)}"
    )


def _membership_steps(admin: psycopg.Connection, wish: Wish, roles: dict[str, dict[str, Any]]) -> list[Step]:
    if roles.get(wish.owner, {}).get("superuser"):
        return []
    has = {name for (name,) in admin.execute(_MAY_USE, [list(_OWNERS_ROLES), wish.owner])}
    inherit = " WITH INHERIT TRUE" if admin.info.server_version >= _INHERITS_BY_GRANT else ""
    return [
        Step("granted", f"{name} to {wish.owner}", f"GRANT {name} TO {quoted(wish.owner)}{inherit}")
        for name in _OWNERS_ROLES
        if name not in has
    ]


def _create_database(wish: Wish) -> str:
    return f"CREATE DATABASE {quoted(wish.database)} OWNER {quoted(wish.owner)}"


def _notes(wish: Wish, roles: dict[str, dict[str, Any]]) -> list[str]:
    notes = []
    if roles.get(wish.owner, {}).get("superuser"):
        notes.append(f"the owner {wish.owner} is a superuser: migrations may do anything to the whole server")
    for name in (wish.owner, *wish.writers):
        if not (wish.passwords.get(name) or roles.get(name, {}).get("verifier")):
            notes.append(f"role {name} has no password: it logs in only where pg_hba.conf asks for none")
    return notes
