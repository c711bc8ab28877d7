#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: job
short_description: Wait for a long step of a run that works on by itself
version_added: 0.1.0
description:
  - Waits until a step that M(habitat.runbook.database_backup), M(habitat.runbook.database_restore) or
    M(habitat.runbook.schema_migrations) started as a job is over, and returns its result.
  - When it is not over in time, tells what it is doing, by PostgreSQL's own views of progress.
options:
  run_dir:
    description: Folder of the run on the host.
    type: path
    required: true
  name:
    description: Name of the job.
    type: str
    required: true
  wait:
    description: Seconds to wait.
    type: float
    default: 2
extends_documentation_fragment:
  - community.postgresql.postgres
  - habitat.runbook.run
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Wait for the backup
  habitat.runbook.job:
    name: backup
    run_dir: /var/lib/habitat-runbook/20261122t100211z-k3f
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
"""

RETURN = r"""
running:
  description: Name of the job when it is not over.
  returned: when it is not over
  type: str
result:
  description: What the job's module returned.
  returned: when it is over
  type: dict
progress:
  description: What its sessions do, each with kind, what, doing, done, total, unit, seconds and blockers.
  returned: when it is not over
  type: list
  elements: dict
warning:
  description: What the run's guard warns of; null without a warning.
  returned: when it is not over
  type: dict
"""

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils import jobs, run_folder
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connect_to,
    connection_parameters,
    database_argument_spec,
    require_psycopg,
)


def look(module: AnsibleModule) -> list[dict[str, Any]]:
    """What the job is doing; nothing when the server cannot be asked, which the job itself will tell."""
    import psycopg
    from ansible_collections.habitat.runbook.plugins.module_utils import copies, lock_session, progress

    given = module.params
    verify, restore = (
        copies.copy_name(given["login_db"], kind, given["run_id"]) for kind in (copies.VERIFY, copies.RESTORE)
    )
    # While a backup is being proved there is a copy, and before that there is none.
    places = {"backup": [verify, given["login_db"]], "restore": [restore]}
    connect = connection_parameters(module, given["run_id"], statement_timeout="5s")
    # Not that of the run's working sessions: those are what is looked at.
    connect["application_name"] = f"runbook-look/{given['run_id']}"
    for name in (*places.get(given["name"], []), lock_session.LOCK_DATABASE):
        try:
            with connect_to(connect, name) as connection:
                return progress.read_progress(connection, given["run_id"])
        except psycopg.Error:
            continue
    return []


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        run_dir={"type": "path", "required": True},
        name={"type": "str", "required": True},
        wait={"type": "float", "default": 2},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    require_psycopg(module)
    folder, name = Path(module.params["run_dir"]), module.params["name"]
    path = jobs.output(folder, name)
    if jobs.wait_for(path, module.params["wait"]):
        try:
            run_folder.refuse_ended(folder)
        except run_folder.Ended as error:
            module.exit_json(changed=False, result={"failed": True, "msg": str(error)})
        module.exit_json(changed=False, result=json.loads(jobs.read(path)))
    notes = [line for line in run_folder.read_journal(folder) if line["what"] == "window"]
    module.exit_json(changed=False, running=name, progress=look(module), warning=notes[-1] if notes else None)


if __name__ == "__main__":
    main()
