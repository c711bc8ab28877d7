#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: session_info
short_description: Tell who holds the run lock, who else is connected to a database, and what happened to it
version_added: 0.1.0
description:
  - Reads facts about the server and the database, the other sessions in it, the run lock, the copies of the database
    inside the server and the newest entries of its history. Changes nothing.
options:
  on_partial:
    description:
      - What a run would do when it fails with something committed, as in M(habitat.runbook.preflight).
      - When given, RV(restore_point) is returned.
    type: str
    choices: [auto, restore, start]
  restore_point_budget:
    description: Seconds that taking a restore point may take inside the window.
    type: float
    default: 5
  data_dir:
    description: Data folder of the server when it is on this host.
    type: path
  writer_roles:
    description: Database roles of the application's services, for RV(kept_out).
    type: list
    elements: str
    default: []
  state_dir:
    description: Folder of the runs and of their reports on this host.
    type: path
extends_documentation_fragment:
  - community.postgresql.postgres
  - habitat.runbook.run
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
seealso:
  - module: habitat.runbook.schema_migrations_info
"""

EXAMPLES = r"""
- name: Look who is connected
  habitat.runbook.session_info:
    login_host: 127.0.0.1
    login_user: habitat
    login_password: "{{ vault_habitat_password }}"
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
  register: around
"""

RETURN = r"""
holder:
  description: Who holds the run lock (run_id, operator, from, since, phase); null when it is free.
  returned: success
  type: dict
restore_point:
  description: Whether a run would take one, as in M(habitat.runbook.preflight).
  returned: with O(on_partial)
  type: dict
last_run:
  description: >-
    The newest report kept on this host: run, host, outcome, schema, finished_at, state and next; null without one.
  returned: with O(state_dir)
  type: dict
interrupted:
  description:
    - Runs on this host and database that were cut off and not put right, with run_id, operator, origin, where, at,
      stopped (services) and next.
  returned: with O(state_dir)
  type: list
  elements: dict
kept_out:
  description: Those of O(writer_roles) that may not connect to the database now.
  returned: success
  type: list
  elements: str
server:
  description: Facts about server and database, such as version, size (bytes) and role.
  returned: success
  type: dict
copies:
  description: Copies of the database inside the server with name, kind (before, point or restore), run_id and size.
  returned: success
  type: list
  elements: dict
history:
  description: >-
    The newest entries of the history, newest first, with at, event (apply, fail, revert, restore, baseline or adopt),
    version, name, run_id, operator, origin, duration_ms and error.
  returned: success
  type: list
  elements: dict
sessions:
  description: Other sessions in the database (pid, role, app, state, query, seconds in transaction).
  returned: success
  type: list
  elements: dict
"""

from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connection_parameters,
    data_room,
    database_argument_spec,
    open_connection,
    require_psycopg,
)

HISTORY_SHOWN = 10


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        on_partial={"type": "str", "choices": ["auto", "restore", "start"]},
        restore_point_budget={"type": "float", "default": 5},
        data_dir={"type": "path"},
        writer_roles={"type": "list", "elements": "str", "default": []},
        state_dir={"type": "path"},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    require_psycopg(module)
    from ansible_collections.habitat.runbook.plugins.module_utils import copies, fence, history, interrupted, last_run
    from ansible_collections.habitat.runbook.plugins.module_utils.restore_point import plan_point
    from ansible_collections.habitat.runbook.plugins.module_utils.surroundings import read_surroundings
    from ansible_collections.habitat.runbook.plugins.module_utils.swap_checks import check_swap

    with open_connection(module, connection_parameters(module, module.params["run_id"])) as connection:
        around = read_surroundings(connection)
        around["copies"] = [asdict(copy) for copy in copies.list_copies(connection, module.params["login_db"])]
        around["history"] = history.read_history(connection, HISTORY_SHOWN)
        if module.params["state_dir"]:
            state_dir = Path(module.params["state_dir"])
            around["last_run"] = last_run.newest(state_dir / "reports", module.params["env"])
            around["interrupted"] = interrupted.list_unsettled(state_dir, module.params["login_db"])
        around["kept_out"] = fence.kept_out(connection, module.params["writer_roles"])
        if module.params["on_partial"]:
            in_the_way = check_swap(connection, around["server"], around["sessions"])
            budget = module.params["restore_point_budget"]
            point = plan_point(around["server"], in_the_way, module.params["on_partial"], budget, data_room(module))
            around["restore_point"] = point.as_data()
    module.exit_json(changed=False, **around)


if __name__ == "__main__":
    main()
