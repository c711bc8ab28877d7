# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a database can be rolled back to, and what going back to one of these would mean. Reads only."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import checks, history, ledger, manifest
from ansible_collections.habitat.runbook.plugins.module_utils.adoption import adoption
from ansible_collections.habitat.runbook.plugins.module_utils.choice import LATEST, latest
from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import find_tools
from ansible_collections.habitat.runbook.plugins.module_utils.comparison import refuse_environment
from ansible_collections.habitat.runbook.plugins.module_utils.copies import (
    BEFORE,
    RESTORE,
    VERIFY,
    Copy,
    copy_name,
    list_copies,
    read_sessions,
)
from ansible_collections.habitat.runbook.plugins.module_utils.inputs import Refused
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, sorted_versions
from ansible_collections.habitat.runbook.plugins.module_utils.properties import (
    differences,
    missing_roles,
    read_properties,
)
from ansible_collections.habitat.runbook.plugins.module_utils.restore_comparison import major
from ansible_collections.habitat.runbook.plugins.module_utils.restore_point import ConnectTo
from ansible_collections.habitat.runbook.plugins.module_utils.swap_checks import check_swap
from ansible_collections.habitat.runbook.plugins.module_utils.written_since import count_newer, count_written

_LISTED = 10


def list_choices(connection: psycopg.Connection, connect_to: ConnectTo, given: dict[str, Any]) -> dict[str, Any]:
    """Backups of this environment and database with the rows written since, copies, and what has a way down.

    given: login_db, env, backup_dir.
    """
    backups = _backups(given)
    usable = [one for one in backups if one["verified"]][:_LISTED]
    counted = count_written(connection, [_manifest(given, one["id"]) for one in usable])
    written = {one["id"]: dict(asdict(found), tables=len(found.tables)) for one, found in zip(usable, counted)}
    rows = ledger.read_ledger(connection)["rows"]
    newest = sorted(rows, key=lambda row: (row["applied_at"], len(row["version"]), row["version"]), reverse=True)
    return {
        "backups": [dict(one, written=written.get(one["id"])) for one in backups],
        "copies": [_copy(connect_to, copy) for copy in _copies(connection, given)],
        "reversible": [{"version": row["version"], "name": row.get("name")} for row in newest],
    }


def choose(connection: psycopg.Connection, connect_to: ConnectTo, given: dict[str, Any]) -> dict[str, Any]:
    """What going back to ``given["backup"]`` means; see RETURN of rollback_info for the keys.

    given: login_db, env, backup_dir, bin_dir, programs_in (id of the database's container or None), room (bytes free
    for its data, or why that is not known), run_id, backup (an id, a copy's name, or "latest"), adopt_identity and
    reason (or None). What stands in the way is returned as ``refusals``.
    """
    server, sessions = checks.read_server(connection), checks.read_sessions(connection)
    known = ledger.read_ledger(connection)
    applied = {row["version"]: row.get("name") for row in known["rows"]}
    in_the_copy = read_sessions(connection, given["backup"])
    looked = [*checks.check_server(server), *check_swap(connection, server, [*sessions, *in_the_copy])]
    found: dict[str, Any] = {
        "server": server,
        "current": manifest.latest_version(applied),
        "kept_as": copy_name(given["login_db"], BEFORE, given["run_id"]),
    }
    elsewhere = refuse_environment(known, given["env"])
    if elsewhere:
        return {**found, "source": None, "refusals": [asdict(one) for one in elsewhere]}
    try:
        source, versions, more, about_it = _source(connection, connect_to, given, server)
    except Refused as refused:
        return {**found, "source": None, "refusals": [refused.as_data()]}
    looked += about_it
    names = {**versions, **applied}
    gone, back = set(applied) - set(versions), set(versions) - set(applied)
    listed = {"removed": gone, "returning": back}
    for key, those in listed.items():
        found[key] = [{"version": version, "name": names[version]} for version in sorted_versions(those)]
    found["notes"] = [one.text for one in looked if one.state == "warn"]
    if given["adopt_identity"] and not more["adopts"]:
        found["notes"].append(f"adopt_identity is not needed, {source['id']} is of {given['env']} already")
    if known["foreign"]:
        found["notes"].append(f"which migrations are applied now is not known: {known['foreign']}")
    failed = [{"what": one.text, "found": "", "next": one.next} for one in looked if one.state == "fail"]
    return {**found, **more, "source": source, "refusals": failed}


def count_kept(connect_to: ConnectTo, given: dict[str, Any]) -> dict[str, Any] | None:
    """After a swap: the rows in the kept database that the backup ``given["backup"]`` has not. None for a copy.

    With ``given["since"]``, a snapshot of that database, the rows written since.
    """
    if given["since"]:
        with connect_to(given["kept"]) as connection:
            return asdict(count_newer(connection, given["since"]))
    if not manifest.NAME.match(given["backup"]):
        return None
    with connect_to(given["kept"]) as connection:
        return asdict(count_written(connection, [_manifest(given, given["backup"])])[0])


def _source(
    connection: psycopg.Connection, connect_to: ConnectTo, given: dict[str, Any], server: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, str | None], dict[str, Any], list[checks.Check]]:
    copy = next((one for one in _copies(connection, given) if one.name == given["backup"]), None)
    if copy:
        described = _copy(connect_to, copy)
        if "error" in described:
            raise Refused(f"the copy {copy.name} cannot be read", described["error"], "")
        source = {"kind": "copy", "id": copy.name, "taken_at": None, "size": copy.size}
        more: dict[str, Any] = {
            "written": None,
            "settings": [],
            "adopts": adoption(f"copy {copy.name}", described["environment"], given),
        }
        return dict(source, ledger_version=described["version"]), described["names"], more, []
    one = _chosen_backup(connection, given)
    told = _manifest(given, one["id"])
    adopts = adoption(f"backup {one['id']}", manifest_environment(told), given)
    if one["database"] != given["login_db"] and not adopts:
        what = f"backup {one['id']} is of database {one['database']}, not of {given['login_db']}"
        raise Refused(what, "", "choose another one")
    now = read_properties(connection, given["login_db"])
    shown = ("id", "taken_at", "size", "ledger_version", "restore_seconds", "dump")
    source = {"kind": "backup", **{key: one[key] for key in shown}}
    more = {
        "written": asdict(count_written(connection, [told])[0]),
        "settings": differences(told["database"]["properties"], now),
        "adopts": adopts,
    }
    # A manifest has the versions alone.
    return source, dict.fromkeys(told["ledger_versions"] or ()), more, _check_backup(connection, given, told, server)


def manifest_environment(told: dict[str, Any]) -> str:
    """The environment a backup is of: as its database said, else as the run said that took it."""
    return str(told["database"].get("environment") or told["environment"])


def _chosen_backup(connection: psycopg.Connection, given: dict[str, Any]) -> dict[str, Any]:
    backups = _backups(given)
    if given["backup"] == LATEST:
        return latest(backups, history.last_commit(connection))
    try:
        one = asdict(manifest.find_backup(given["backup_dir"], given["backup"]))
    except BackupError as error:
        raise Refused(str(error), "", "leave -e backup= out to see what there is") from error
    if not one["verified"]:
        raise Refused(f"backup {one['id']} cannot be used", "; ".join(one["problems"]), "choose another one")
    return one


def _check_backup(
    connection: psycopg.Connection, given: dict[str, Any], told: dict[str, Any], server: dict[str, Any]
) -> list[checks.Check]:
    found = [_check_programs(given, told, server)]
    missing = missing_roles(connection, told)
    if missing:
        text = f"the backup needs roles that are not there: {', '.join(missing)}"
        found.append(checks.Check("fail", text, "; ".join(f"CREATE ROLE {manifest.quoted(role)}" for role in missing)))
    if isinstance(given["room"], int):
        # What a database needs is known best of the one that is there; a dump says little about it.
        where = "the server's data folder"
        found.append(checks.check_room(given["room"], server["size"], "space for the restored database", where))
    return found


def _check_programs(given: dict[str, Any], told: dict[str, Any], server: dict[str, Any]) -> checks.Check:
    """The programs are not older than the server, nor than those that made the dump."""
    found = checks.check_tools(given["bin_dir"], server["number"], given["programs_in"])
    if found.state == "fail":
        return found
    tools, needed = find_tools(given["bin_dir"], server["number"], given["programs_in"]), major(told["pg_dump_version"])
    if major(tools.version) < needed:
        text = f"pg_restore {tools.version}{tools.place} cannot read a dump by pg_dump {told['pg_dump_version']}"
        return checks.Check("fail", text, f"install the client programs of PostgreSQL {needed} or set habitat_pg_bin")
    return found


def _backups(given: dict[str, Any]) -> list[dict[str, Any]]:
    """This database's backups, newest first; those whose manifest does not tell whose they are, too."""
    wanted = {"environment": given["env"], "database": given["login_db"]}
    listed = [asdict(one) for one in manifest.list_backups(given["backup_dir"])]
    return [one for one in listed if all(one[key] in (None, value) for key, value in wanted.items())]


def _manifest(given: dict[str, Any], backup: str) -> dict[str, Any]:
    return manifest.read(Path(given["backup_dir"]) / f"{backup}.json")


def _copies(connection: psycopg.Connection, given: dict[str, Any]) -> list[Copy]:
    return [copy for copy in list_copies(connection, given["login_db"]) if copy.kind not in (RESTORE, VERIFY)]


def _copy(connect_to: ConnectTo, copy: Copy) -> dict[str, Any]:
    try:
        with connect_to(copy.name) as connection:
            known = ledger.read_ledger(connection)
    except psycopg.Error as error:
        return {**asdict(copy), "version": None, "names": {}, "error": " ".join(str(error).split())}
    names = {row["version"]: row.get("name") for row in known["rows"]}
    said = {"version": manifest.latest_version(names), "names": names, "environment": known["environment"]}
    return {**asdict(copy), **said}
