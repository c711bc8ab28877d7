#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: database_salvage
short_description: Bring back what only the database kept from before a rollback has
version_added: 0.1.0
description:
  - Compares the database that was kept when a backup was put back with that backup, restored beside it, by primary key,
    and writes what was written since as SQL - inserts, updates and deletes.
  - The file is proved before it gets its name - imported into the restored copy it makes it equal to the kept database.
  - It can be imported into the live database again and again. It never changes a row that is not as in the backup.
  - Tables without a key, and tables and columns that only the kept database has, are reported.
options:
  state:
    description:
      - V(chosen) tells which kept database and which backup are meant and what stands in the way, and changes nothing.
      - V(written) writes and proves the file.
      - V(imported) imports it into the live database in one transaction, and tells what was left alone.
      - V(removed) drops the restored copy.
    type: str
    choices: [chosen, written, imported, removed]
    default: written
  kept:
    description: Name of the kept database; the newest one with O(state=chosen) when left out.
    type: str
  base:
    description:
      - Name of the database that M(habitat.runbook.database_restore) restored the backup into. It is changed.
      - Required with O(state=written).
    type: str
  backup:
    description: Id of the backup; with O(state=chosen) the one the history tells of when left out.
    type: str
  backup_dir:
    description: Folder of the backups on the host; the file is written there.
    type: path
    required: true
  bin_dir:
    description: Folder of C(pg_dump) and C(pg_restore) on the host; the PATH when left out.
    type: path
  data_dir:
    description: Data folder of the server when it is on this host, to see whether there is room for another database.
    type: path
extends_documentation_fragment:
  - community.postgresql.postgres
  - habitat.runbook.run
  - habitat.runbook.job
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
seealso:
  - module: habitat.runbook.database_restore
  - module: habitat.runbook.rollback_info
"""

EXAMPLES = r"""
- name: Write what only the kept database has
  habitat.runbook.database_salvage:
    kept: habitat_before_20261122t100211z-k3f
    base: habitat_restore_20261122t113005z-b7q
    backup: staging-20261122t093000z-p02
    backup_dir: /var/backups/habitat
    login_db: habitat
    env: staging
    run_id: 20261122t113005z-b7q
  register: salvaged
"""

RETURN = r"""
kept:
  description: Name of the kept database; null when there is none that is meant.
  returned: with O(state=chosen)
  type: str
kept_size:
  description: Its size in bytes.
  returned: with O(state=chosen), when it was found
  type: int
backup:
  description: Id of the backup; null when it is not known or of no use.
  returned: with O(state=chosen)
  type: str
taken_at:
  description: When it was taken.
  returned: with O(state=chosen), when it was found
  type: str
backup_size:
  description: Size of its dump in bytes.
  returned: with O(state=chosen), when it was found
  type: int
refusals:
  description: Why nothing can be salvaged, each with what, found and next.
  returned: with O(state=chosen)
  type: list
  elements: dict
file:
  description: The file; null when there is nothing to bring back.
  returned: with O(state=chosen) and O(state=written)
  type: str
size:
  description: Its size in bytes.
  returned: with O(state=written) and not in check mode
  type: int
sha256:
  description: Its sha256.
  returned: with O(state=written) and not in check mode
  type: str
command:
  description: What to type on the host to import it, without a password.
  returned: with O(state=written) and not in check mode
  type: str
tables:
  description:
    - By table the numbers of statements - insert, update and delete - with O(state=written), and what became of them -
      applied, there (it was done before) and left (the live row is another by now) - with O(state=imported).
  returned: with O(state=written) and O(state=imported), not in check mode
  type: dict
reported:
  description:
    - What is left out, each with table, what (no_key, only_kept, only_base, new_columns or missing_columns), columns,
      and the number of rows that only the kept database (kept) and only the backup (base) has where it was counted.
  returned: with O(state=written) and not in check mode
  type: list
  elements: dict
sequences:
  description: Number of sequences that go on, or went on.
  returned: with O(state=written) and O(state=imported), not in check mode
  type: int
compared:
  description: Number of tables compared.
  returned: with O(state=written) and not in check mode
  type: int
left_file:
  description: File with the statements that were left alone; null when there is none.
  returned: with O(state=imported) and not in check mode
  type: str
seconds:
  description: How long it took.
  returned: with O(state=written) and O(state=imported), not in check mode
  type: float
removed:
  description: Databases that were dropped.
  returned: with O(state=removed) and not in check mode
  type: list
  elements: str
"""

import functools
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils import jobs
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connect_to,
    connection_parameters,
    container_of,
    data_room,
    database_argument_spec,
    open_connection,
    require_psycopg,
)
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import Ended


def chosen(module: AnsibleModule, connect: dict[str, Any]) -> dict[str, Any]:
    from ansible_collections.habitat.runbook.plugins.module_utils import salvage_choice

    place = {"programs_in": container_of(module), "room": data_room(module)}
    with open_connection(module, connect) as live:
        return salvage_choice.choose(live, functools.partial(connect_to, connect), {**module.params, **place})


def written(module: AnsibleModule, connect: dict[str, Any]) -> dict[str, Any]:
    from ansible_collections.habitat.runbook.plugins.module_utils import salvage, salvage_choice

    given = module.params
    path = salvage_choice.file_of(given["backup_dir"], given["kept"])
    with connect_to(connect, given["login_db"]) as live:
        command = salvage_choice.command(live, str(path), container_of(module))
    about = {name: given[name] for name in ("kept", "backup")}
    about.update(database=given["login_db"], run=given["run_id"], command=command)
    with connect_to(connect, given["kept"]) as kept, connect_to(connect, given["base"]) as base:
        return {**salvage.salvage(kept, base, path, about).as_data(), "command": command}


def imported(module: AnsibleModule, connect: dict[str, Any]) -> dict[str, Any]:
    from ansible_collections.habitat.runbook.plugins.module_utils import salvage_choice, salvage_file

    given, started = module.params, time.monotonic()
    path = salvage_choice.file_of(given["backup_dir"], given["kept"])
    with connect_to(connect, given["login_db"]) as live, salvage_file.Remains(path) as remains:
        done = salvage_file.play(live, path, remains.add)
    told = {"tables": done.tables, "sequences": done.sequences, "left_file": remains.written}
    return {**told, "seconds": round(time.monotonic() - started, 3)}


def removed(module: AnsibleModule, connect: dict[str, Any]) -> dict[str, Any]:
    from ansible_collections.habitat.runbook.plugins.module_utils import copies, lock_session

    with open_connection(module, dict(connect, dbname=lock_session.LOCK_DATABASE)) as admin:
        return {"removed": copies.drop_copies(admin, module.params["login_db"], [copies.RESTORE])}


WORK = {"chosen": chosen, "written": written, "imported": imported, "removed": removed}
PHASE = {"written": "SALVAGE", "imported": "IMPORT", "removed": "CLEAN UP"}


def under_the_lock(module: AnsibleModule, connect: dict[str, Any]) -> dict[str, Any]:
    from ansible_collections.habitat.runbook.plugins.module_utils import lock_session, run_folder

    given = module.params
    with connect_to(connect, lock_session.LOCK_DATABASE) as admin:
        lock_session.require(admin, given["login_db"], given["run_dir"], given["run_id"])
    with run_folder.step_of(given["run_dir"], PHASE[given["state"]]):
        return WORK[given["state"]](module, connect)


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        state={"type": "str", "choices": list(WORK), "default": "written"},
        kept={"type": "str"},
        base={"type": "str"},
        backup={"type": "str"},
        backup_dir={"type": "path", "required": True},
        bin_dir={"type": "path"},
        data_dir={"type": "path"},
        **jobs.OPTIONS,
    )
    needed = [("state", "written", ["kept", "base", "backup"]), ("state", "imported", ["kept"])]
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True, required_if=needed)
    require_psycopg(module)
    name = {"written": "salvage", "imported": "import"}.get(module.params["state"])
    if name:
        jobs.run(module, name, functools.partial(work, module))
    work(module)


def work(module: AnsibleModule) -> None:
    import psycopg

    state = module.params["state"]
    result: dict[str, Any] = {}
    try:
        connect = connection_parameters(module, module.params["run_id"], lock_timeout="30s", statement_timeout="0")
        if state == "chosen":
            result = chosen(module, connect)
        elif not module.check_mode:
            result = under_the_lock(module, connect)
    except (BackupError, Ended, OSError, psycopg.Error) as error:
        module.fail_json(msg=" ".join(str(error).split()))
    module.exit_json(changed=_changed(state, result, module.check_mode), **result)


def _changed(state: str, result: dict[str, Any], predicted: bool) -> bool:
    if state == "chosen":
        return False
    if predicted:
        return True
    if state == "imported":
        return bool(result["sequences"] or any(one["applied"] for one in result["tables"].values()))
    return bool(result["removed"] if state == "removed" else result["file"])


if __name__ == "__main__":
    main()
