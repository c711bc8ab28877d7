# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Drills: which backup is restored to see that it can be. Reads only."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils import checks
from ansible_collections.habitat.runbook.plugins.module_utils.choice import LATEST
from ansible_collections.habitat.runbook.plugins.module_utils.command_line import command
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import Backup, list_backups
from ansible_collections.habitat.runbook.plugins.module_utils.retention import is_of

if TYPE_CHECKING:
    import psycopg

_SHOWN = 3


def choose(connection: psycopg.Connection, given: dict[str, Any]) -> dict[str, Any]:
    """The backup to restore, as ``{"backup": fields of manifest.Backup or None, "older", "unusable", "refusals"}``.

    given: login_db, env, backup (an id; None or "latest": the newest verified one), backup_dir, bin_dir, programs_in
    (id of the database's container or None), room (bytes free for the server's data, or why that is not known).
    older: id of the verified backup before it, or None; unusable: ids of newer ones that cannot be used.
    Raises BackupError.
    """
    own = [one for one in list_backups(given["backup_dir"]) if is_of(one, given["env"], given["login_db"])]
    good = [one for one in own if one.verified]
    asked = None if given["backup"] in (None, "", LATEST) else given["backup"]
    chosen = next((one for one in good if asked in (None, one.id)), None)
    found: dict[str, Any] = {"backup": chosen and asdict(chosen), "older": None, "unusable": []}
    if chosen is None:
        return {**found, "refusals": [_none(own, asked, given)]}
    behind = good[good.index(chosen) + 1 :]
    found["older"] = behind[0].id if behind else None
    # Ids of one environment sort by their time, which a broken manifest may not tell.
    found["unusable"] = [one.id for one in own if not one.verified and one.id > chosen.id and asked is None]
    server = checks.read_server(connection)
    looked = [checks.check_tools(given["bin_dir"], server["number"], given["programs_in"])]
    if isinstance(given["room"], int):
        what, where = "space for the restored database", "the server's data folder"
        looked.append(checks.check_room(given["room"], server["size"], what, where))
    failed = [{"what": one.text, "found": "", "next": one.next} for one in looked if one.state == "fail"]
    return {**found, "refusals": failed}


def _none(own: list[Backup], asked: str | None, given: dict[str, Any]) -> dict[str, str]:
    where = f"{given['env']} / {given['login_db']} in {given['backup_dir']}"
    broken = [f"{one.id}: {'; '.join(one.problems)}" for one in own if not one.verified and asked in (None, one.id)]
    if asked is None:
        take = f"take one: {command('playbooks/backup.yml', given['env'])}"
        return {"what": f"there is no verified backup of {where}", "found": ", ".join(broken[:_SHOWN]), "next": take}
    known = [one.id for one in own if one.verified][:_SHOWN]
    return {
        "what": f"there is no verified backup {asked} of {where}",
        "found": broken[0] if broken else f"there are: {', '.join(known) or 'none'}",
        "next": "name another one, or leave -e backup= out for the newest",
    }
