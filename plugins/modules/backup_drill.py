#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_drill
short_description: Choose a backup to restore as a drill, or keep how the drill went
version_added: 0.1.0
description:
  - Chooses the newest verified backup of a database, or a named one, and looks whether there are room and programs to
    restore it. M(habitat.runbook.database_restore) then restores it beside the database.
  - Keeps when the last drill was and how it went in C(reports/drill.json) of the folder of runs, for C(status.yml).
options:
  state:
    description: V(chosen) chooses and changes nothing, V(recorded) keeps how the drill went.
    type: str
    choices: [chosen, recorded]
    default: chosen
  backup:
    description: Id of the backup. The newest verified one when left out, or V(latest).
    type: str
  backup_dir:
    description: Folder of the backups on the host.
    type: path
    required: true
  bin_dir:
    description:
      - Folder of C(pg_restore) on the host; the PATH when left out.
      - When it is not there or is older than the server, that inside the database's O(container) is used.
    type: path
  data_dir:
    description: The server's data folder when it is on this host, to see whether there is room.
    type: path
  state_dir:
    description: Folder of all runs on the host.
    type: path
    required: true
  seconds:
    description: With O(state=recorded), how long restoring and comparing took; left out when it failed.
    type: float
  error:
    description: With O(state=recorded), why it failed.
    type: str
  operator:
    description: Person behind the run.
    type: str
    default: unknown
extends_documentation_fragment:
  - community.postgresql.postgres
  - habitat.runbook.run
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
seealso:
  - module: habitat.runbook.database_restore
"""

EXAMPLES = r"""
- name: Choose the newest verified backup
  habitat.runbook.backup_drill:
    backup_dir: /var/backups/habitat
    state_dir: /var/lib/habitat-runbook
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
  register: chosen
"""

RETURN = r"""
backup:
  description: The chosen backup, with the keys of M(habitat.runbook.database_backup_info); null when there is none.
  returned: with O(state=chosen)
  type: dict
older:
  description: Id of the verified backup before it; null when there is none.
  returned: with O(state=chosen)
  type: str
unusable:
  description: Ids of newer backups that are not usable.
  returned: with O(state=chosen)
  type: list
  elements: str
refusals:
  description: Why no drill can be held, each with what, found and next.
  returned: with O(state=chosen)
  type: list
  elements: dict
drill:
  description: What is kept, with id, at, ok, seconds, error, operator and run_id.
  returned: with O(state=recorded)
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connection_parameters,
    container_of,
    data_room,
    database_argument_spec,
    open_connection,
    require_psycopg,
)
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import utc_now


def choose(module: AnsibleModule) -> dict[str, Any]:
    from ansible_collections.habitat.runbook.plugins.module_utils import drill

    place = {"programs_in": container_of(module), "room": data_room(module)}
    with open_connection(module, connection_parameters(module, module.params["run_id"])) as connection:
        return drill.choose(connection, {**module.params, **place})


def record(module: AnsibleModule) -> dict[str, Any]:
    from ansible_collections.habitat.runbook.plugins.module_utils import drill_record

    given = module.params
    kept = {name: given[name] for name in ("seconds", "error", "operator", "run_id")}
    entry = {"id": given["backup"], "at": utc_now(), "ok": given["error"] is None, **kept}
    if not module.check_mode:
        drill_record.record(Path(given["state_dir"]), given["login_db"], entry)
    return {"drill": entry}


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        state={"type": "str", "choices": ["chosen", "recorded"], "default": "chosen"},
        backup={"type": "str"},
        backup_dir={"type": "path", "required": True},
        bin_dir={"type": "path"},
        data_dir={"type": "path"},
        state_dir={"type": "path", "required": True},
        seconds={"type": "float"},
        error={"type": "str"},
        operator={"type": "str", "default": "unknown"},
    )
    module = AnsibleModule(
        argument_spec=spec, supports_check_mode=True, required_if=[("state", "recorded", ["backup"])]
    )
    require_psycopg(module)
    import psycopg

    recorded = module.params["state"] == "recorded"
    try:
        result = record(module) if recorded else choose(module)
    except (BackupError, OSError, psycopg.Error) as error:
        module.fail_json(msg=" ".join(str(error).split()))
    module.exit_json(changed=recorded, **result)


if __name__ == "__main__":
    main()
