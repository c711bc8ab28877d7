# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which kept database is salvaged, and against which backup. Reads only."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import checks, history, manifest
from ansible_collections.habitat.runbook.plugins.module_utils.copies import (
    BEFORE,
    POINT,
    Copy,
    copy_kind,
    list_copies,
)
from ansible_collections.habitat.runbook.plugins.module_utils.inputs import Refused
from ansible_collections.habitat.runbook.plugins.module_utils.restore_point import ConnectTo

_SOURCES = f"""
SELECT run_id, detail ->> 'source' FROM {history.TABLE}
WHERE event = '{history.RESTORE}' AND detail ->> 'source' IS NOT NULL ORDER BY at DESC"""  # noqa: S608
_GIVE = "name it: add -e backup=ID"
_SHOWN = 5


def choose(connection: psycopg.Connection, connect_to: ConnectTo, given: dict[str, Any]) -> dict[str, Any]:
    """The kept database and the backup it is compared with; see RETURN of database_salvage for the keys.

    given: login_db, env, kept and backup (or None), backup_dir, bin_dir, programs_in (id of the database's container or
    None), room (bytes free for the server's data, or why that is not known). What stands in the way is returned as
    ``refusals``.
    """
    found: dict[str, Any] = {"kept": None, "backup": None, "refusals": []}
    try:
        copy = _kept(connection, given)
        found.update(kept=copy.name, kept_size=copy.size, file=str(file_of(given["backup_dir"], copy.name)))
        backup = _usable(given, given["backup"] or _backup_of(connection, connect_to, copy, given))
    except Refused as refused:
        return {**found, "refusals": [refused.as_data()]}
    found.update(backup=backup.id, taken_at=backup.taken_at, backup_size=backup.size)
    looked = [checks.check_tools(given["bin_dir"], connection.info.server_version, given["programs_in"])]
    if isinstance(given["room"], int):
        text = "space for the restored backup"
        looked.append(checks.check_room(given["room"], copy.size, text, "the server's data folder"))
    looked.append(checks.check_space(given["backup_dir"], copy.size // 10, "space for the file"))
    failed = [{"what": one.text, "found": "", "next": one.next} for one in looked if one.state == "fail"]
    return {**found, "refusals": failed}


def file_of(backup_dir: str, kept: str) -> Path:
    """The file that holds what only a kept database has."""
    return Path(backup_dir) / f"{kept.replace('/', '_')}.sql"


def _kept(connection: psycopg.Connection, given: dict[str, Any]) -> Copy:
    copies = [copy for copy in list_copies(connection, given["login_db"]) if copy.kind == BEFORE]
    if not copies:
        what = f"no database is kept from before a rollback of {given['login_db']}"
        raise Refused(what, "there is nothing that rows could be brought back from", "")
    if not given["kept"]:
        return copies[0]
    for copy in copies:
        if copy.name == given["kept"]:
            return copy
    more = f" and {len(copies) - _SHOWN} more" if len(copies) > _SHOWN else ""
    there = f"kept are: {', '.join(copy.name for copy in copies[:_SHOWN])}{more}"
    raise Refused(f"there is no kept database {given['kept']}", there, f"add -e kept={shlex.quote(copies[0].name)}")


def _backup_of(connection: psycopg.Connection, connect_to: ConnectTo, copy: Copy, given: dict[str, Any]) -> str:
    """The backup that the kept database and the live one have in common, as the history tells."""
    source = dict(reversed(_sources(connection))).get(copy.run_id)
    if source is None:
        raise Refused(f"what {copy.name} was rolled back to is not known", "no history tells of it", _GIVE)
    kind = copy_kind(given["login_db"], source)
    if kind is None:
        return source
    if kind[0] == POINT:
        # A restore point is gone once it is in use; the backup of its run is from shortly before.
        return f"{given['env']}-{kind[1]}"
    # It went out when an earlier one came in again, and was itself restored from a backup before.
    with connect_to(copy.name) as kept:
        own = [one for _, one in _sources(kept) if copy_kind(given["login_db"], one) is None]
    if not own:
        raise Refused(f"{copy.name} was replaced by {source}, which is no backup", "no history tells of one", _GIVE)
    return own[0]


def _sources(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """Runs that put something back and what that was, newest first."""
    if not history.exists(connection):
        return []
    return connection.cursor(row_factory=psycopg.rows.tuple_row).execute(_SOURCES.encode()).fetchall()


def _usable(given: dict[str, Any], asked: str) -> manifest.Backup:
    try:
        one = manifest.find_backup(given["backup_dir"], asked)
    except manifest.BackupError as error:
        found = "without it nobody can tell what was written since"
        raise Refused(str(error), found, f"bring it back, or {_GIVE}") from error
    if not one.verified:
        raise Refused(f"backup {one.id} cannot be used", "; ".join(one.problems), f"bring it back, or {_GIVE}")
    return one


def command(connection: psycopg.Connection, path: str, container: str | None) -> str:
    """What an operator types on the database's host to import the file; never with a password in it."""
    info, words = connection.info, ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"]
    who = ["-U", info.user, "-d", info.dbname]
    if container:
        return f"{shlex.join(['docker', 'exec', '-i', container[:12], *words, *who])} < {shlex.quote(path)}"
    where = [*(["-h", info.host] if info.host else []), "-p", str(info.port)]
    return shlex.join([*words, *where, *who, "-f", path])
