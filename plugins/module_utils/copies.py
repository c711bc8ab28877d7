# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Copies of a database inside its server: their names, a restore point, swapping one in, removing what is left over.

The swap is two renames in one transaction. ALTER DATABASE RENAME locks the database's name for itself alone before it
waits for the sessions in it to end, and whoever connects meanwhile waits for that lock (InitPostgres in PostgreSQL's
postinit.c). So connections are kept out without ALLOW_CONNECTIONS false, which would survive a crash of ours: whatever
kills us, the transaction is gone and the database is as it was.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import reopened
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, quoted
from ansible_collections.habitat.runbook.plugins.module_utils.table import session as described

BEFORE = "before"
"""The database as it was before a swap; it holds the rows that the one swapped in has not, and is never removed."""
POINT = "point"
"""A restore point: the database after the writers are gone and before the first migration."""
RESTORE = "restore"
"""A backup being restored; nothing anybody could need."""

VERIFY = "verify"
"""A dump being restored to prove it; nothing anybody could need."""

_KINDS = (BEFORE, POINT, RESTORE, VERIFY)
_LONGEST_NAME = 63  # bytes: NAMEDATALEN - 1
_RUN_ID_LENGTH = 20
_RUN_ID = r"[0-9]{8}t[0-9]{6}z-[a-z0-9]{3}"
_POLL_SECONDS = 0.01

_SUBSCRIPTIONS = """
SELECT s.subname::text FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
WHERE d.datname = pg_catalog.current_database()"""
_FORGET = ("ALTER SUBSCRIPTION {} DISABLE", "ALTER SUBSCRIPTION {} SET (slot_name = NONE)", "DROP SUBSCRIPTION {}")
_RETRY_SECONDS = 0.2
_RECONNECT_SECONDS = 30
_OBJECT_IN_USE = "55006"
_NOT_ALLOWED = "42501"

# Seconds a copy takes, measured (PostgreSQL 17, 2 cores): WAL_LOG has no checkpoint to wait for but writes every page
# twice; FILE_COPY waits for two checkpoints and is then twice as fast.
_SMALL_BYTES = 128 * 1024 * 1024
_SMALL = ("WAL_LOG", 0.3, 4.4)
_LARGE = ("FILE_COPY", 1.5, 2.1)

_COPIES = """
SELECT datname, pg_catalog.pg_database_size(oid) FROM pg_catalog.pg_database
WHERE pg_catalog.starts_with(datname::text, %s)"""

_END_SESSION = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE pid = %s AND pid <> pg_catalog.pg_backend_pid()
AND application_name = pg_catalog.current_setting('application_name')"""
_SESSIONS = """
SELECT pid, usename AS role, application_name AS app, state, query FROM pg_catalog.pg_stat_activity
WHERE datname = %s AND pid <> pg_catalog.pg_backend_pid() ORDER BY backend_start"""


class SwapUnknown(BackupError):
    """The server was lost during the swap and does not say what became of it."""


@dataclass(frozen=True)
class Copy:
    """A copy made by a run; ``size`` in bytes, ``kind`` one of BEFORE, POINT, RESTORE and VERIFY."""

    name: str
    kind: str
    run_id: str
    size: int


@dataclass(frozen=True)
class Swapped:
    """What a swap did: the name the former database has now, how long it took, how many sessions it ended."""

    kept_as: str
    seconds: float
    sessions_ended: int


def copy_name(database: str, kind: str, run_id: str) -> str:
    """Name of a run's copy, ``<database>_<kind>_<run id>``; too long a database's name is cut and gets a checksum."""
    return f"{_stem(database)}_{kind}_{run_id}"


def _stem(database: str) -> str:
    room = _LONGEST_NAME - max(map(len, _KINDS)) - _RUN_ID_LENGTH - 2
    raw = database.encode()
    if len(raw) <= room:
        return database
    check = f"~{zlib.crc32(raw):08x}"
    return raw[: room - len(check)].decode(errors="ignore") + check


def copy_kind(database: str, name: str) -> tuple[str, str] | None:
    """Kind and run id of a copy of this database, None when the name is not one of such a copy."""
    found = re.fullmatch(f"{re.escape(_stem(database))}_({'|'.join(_KINDS)})_({_RUN_ID})", name)
    return (found[1], found[2]) if found else None


def list_copies(connection: psycopg.Connection, database: str) -> list[Copy]:
    """The copies of a database on this server, newest first."""
    copies = []
    for name, size in connection.execute(_COPIES, [_stem(database) + "_"]).fetchall():
        known = copy_kind(database, name)
        if known:
            copies.append(Copy(name, known[0], known[1], size))
    return sorted(copies, key=lambda copy: (copy.run_id, copy.kind), reverse=True)


def predict_point(size: int) -> tuple[str, float]:
    """CREATE DATABASE's strategy for a copy of ``size`` bytes, and the seconds it is predicted to take."""
    strategy, start, per_gb = _SMALL if size < _SMALL_BYTES else _LARGE
    return strategy, start + per_gb * size / 1024**3


def take_point(admin: psycopg.Connection, database: str, run_id: str) -> str:
    """Copy the database inside the server and return the copy's name.

    admin: autocommit, in another database. Raises BackupError when a session is still in the database.
    """
    name = copy_name(database, POINT, run_id)
    row = admin.execute(
        "SELECT pg_catalog.pg_database_size(oid), pg_catalog.pg_get_userbyid(datdba) FROM pg_catalog.pg_database "
        "WHERE datname = %s",
        [database],
    ).fetchone()
    size, owner = row or (0, "")
    strategy, _ = predict_point(size)
    statement = f"CREATE DATABASE {quoted(name)} TEMPLATE {quoted(database)} STRATEGY {strategy} OWNER {quoted(owner)}"
    try:
        admin.execute(statement.encode())
    except psycopg.Error as error:
        raise BackupError(_in_use(admin, (database,), error)) from error
    return name


def drop_copies(admin: psycopg.Connection, database: str, kinds: Iterable[str], keep: str = "") -> list[str]:
    """Drop the copies of these kinds, whatever sessions they have, but not the one called ``keep``; returns names.

    The caller holds the run lock, so that nobody is making one.
    """
    wanted, failed = set(kinds), None
    if BEFORE in wanted:
        raise ValueError("the databases kept from before a swap hold rows that are nowhere else")
    dropped = []
    for copy in list_copies(admin, database):
        if copy.kind in wanted and copy.name != keep:
            try:
                drop_copy(admin, copy.name)
                dropped.append(copy.name)
            except psycopg.Error as error:
                failed = failed or BackupError(f"{copy.name} cannot be dropped: {error.diag.message_primary or error}")
    if failed:
        raise failed
    return dropped


def drop_copy(admin: psycopg.Connection, name: str) -> None:
    """Drop a database that a run has made, with all sessions in it; it may be gone already. Raises psycopg.Error."""
    statement = f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)".encode()
    try:
        admin.execute(statement)
    except psycopg.errors.ObjectInUse:
        _forget_subscriptions(admin, name)
        admin.execute(statement)


def _forget_subscriptions(admin: psycopg.Connection, name: str) -> None:
    """Drop the subscriptions of a restored copy, with which it cannot be dropped.

    Their replication slots are those of the database that was backed up, so nobody is told to drop them.
    """
    with reopened(admin, name) as session:
        for (subscription,) in session.execute(_SUBSCRIPTIONS).fetchall():
            for text in _FORGET:
                session.execute(text.format(quoted(subscription)).encode())


def end_sessions(connection: psycopg.Connection, database: str, states: Iterable[str] | None = None) -> set[int]:
    """End the sessions in a database (in these states only, when given); returns the pids of those that were told to.

    A session of a role that ours may not end is left.
    """
    ended: set[int] = set()
    for one in read_sessions(connection, database):
        if states is None or one["state"] in states:
            try:
                row = connection.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [one["pid"]]).fetchone()
                ended |= {one["pid"]} if row and row[0] else set()
            except psycopg.errors.InsufficientPrivilege:
                continue
    return ended


def read_sessions(connection: psycopg.Connection, database: str) -> list[dict[str, Any]]:
    """The sessions in a database, background workers too: pid, role, app, state, query."""
    return [
        dict(zip(("pid", "role", "app", "state", "query"), row))
        for row in connection.execute(_SESSIONS, [database]).fetchall()
    ]


def swap(connect: Callable[[], psycopg.Connection], database: str, incoming: str, run_id: str) -> Swapped:
    """Give ``database`` the name it is kept under, and its own to the database ``incoming``, both or neither.

    connect: opens an autocommit connection to another database of the server. Raises BackupError, and then nothing has
    changed but that sessions were ended; SwapUnknown when the server could not be asked any more, or does not end the
    session that renames.
    """
    kept_as, begun = copy_name(database, BEFORE, run_id), time.monotonic()
    with connect() as admin, connect() as ender, ThreadPoolExecutor(1) as pool:
        renamer = admin.info.backend_pid
        ended = end_sessions(ender, database)
        renaming: Future[None] = pool.submit(_rename, admin, ((database, kept_as), (incoming, database)))
        try:
            while not renaming.done():
                ended |= end_sessions(ender, database) | end_sessions(ender, incoming)
                time.sleep(_POLL_SECONDS)
            renaming.result()
        except psycopg.Error as error:
            failed = error
        else:
            return Swapped(kept_as, time.monotonic() - begun, len(ended))
        # A rename that is still under way may yet be committed.
        lost = admin.broken or ender.broken or not renaming.done()
        why = "the connection to the server was lost" if lost else _in_use(ender, (database, incoming), failed)
    if lost and _swapped(connect, kept_as, renamer):
        return Swapped(kept_as, time.monotonic() - begun, len(ended))
    raise BackupError(why) from failed


def _swapped(connect: Callable[[], psycopg.Connection], kept_as: str, renamer: int) -> bool:
    """Whether the renames were committed although nobody could say so; asked as soon as the server answers again.

    A server that goes on does not know yet that nobody listens: the session with pid ``renamer`` is ended first.
    """
    deadline = time.monotonic() + _RECONNECT_SECONDS
    while True:
        try:
            with connect() as connection:
                _end(connection, renamer, deadline)
                row = connection.execute(
                    "SELECT count(*) FROM pg_catalog.pg_database WHERE datname = %s", [kept_as]
                ).fetchone()
                return bool(row and row[0])
        except (psycopg.OperationalError, psycopg.errors.InsufficientPrivilege) as error:
            if time.monotonic() > deadline:
                why = "the server does not answer" if error.sqlstate is None else " ".join(str(error).split())
                raise SwapUnknown(f"whether {kept_as} was made is not known, {why}") from error
            time.sleep(_RETRY_SECONDS)


def _end(connection: psycopg.Connection, pid: int, deadline: float) -> None:
    """End the session with this pid that has the same name as ours, and wait until it is gone."""
    while connection.execute(_END_SESSION, [pid]).fetchall():
        if time.monotonic() > deadline:
            raise SwapUnknown(f"whether the databases were renamed is not known, session {pid} does not end")
        time.sleep(_POLL_SECONDS)


def _rename(admin: psycopg.Connection, renames: Iterable[tuple[str, str]]) -> None:
    with admin.transaction():
        for old, new in renames:
            admin.execute(f"ALTER DATABASE {quoted(old)} RENAME TO {quoted(new)}".encode())


def _in_use(connection: psycopg.Connection, databases: Iterable[str], error: psycopg.Error) -> str:
    if error.sqlstate == _NOT_ALLOWED:
        role = connection.info.user
        return f"role {role} may not copy or rename a database; ALTER ROLE {quoted(role)} CREATEDB as a superuser"
    if error.sqlstate != _OBJECT_IN_USE:
        return " ".join((error.diag.message_primary or str(error)).split())
    for database in databases:
        left = read_sessions(connection, database)
        if left:
            who = "; ".join(described(one) for one in left[:3])
            return f"database {database} is still in use by {who}; end that and run this again"
    return " ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))
