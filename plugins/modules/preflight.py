#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Check everything a migration run needs before its first side effect
version_added: 0.1.0
description:
  - Checks the server (version, primary, writable), the role's rights, the way to it (no pooler), free connections, the
    client programs, the space for backup and data, long and prepared transactions, and sessions of nobody known.
  - Names what the role could not restore from a backup of this database, such as event triggers, publications for all
    tables, extensions that are not trusted, and what belongs to roles it cannot become.
  - Compares the migration files with the ledger again, now under the run lock, and keeps the parsed plan in the run's
    folder for the step that applies it.
  - Changes nothing in the database. In check mode nothing is kept either.
options:
  schema_dir:
    description: Folder of the migration files on the controller.
    type: path
    required: true
  target:
    description: Version up to which pending migrations are planned; all of them when left out.
    type: str
  plan:
    description: The parsed migrations on the database's host. Set by the controller's side of this module.
    type: path
  run_dir:
    description: Folder of the run on the database's host, made when the run lock was taken.
    type: path
    required: true
  writer_roles:
    description: Database roles of the application's services.
    type: list
    elements: str
    required: true
  max_transaction:
    description: A transaction open for this many seconds or longer is a reason to refuse.
    type: float
    default: 300
  bin_dir:
    description: Folder of C(pg_dump) and C(pg_restore) on the host; the PATH when left out.
    type: path
  backup_dir:
    description: Folder of the backups on the host.
    type: path
    required: true
  data_dir:
    description: Data folder of the server when it is on this host, to see whether a table could be rewritten.
    type: path
  proof:
    description:
      - How the backup of the run is proved. With V(read), what the role could not restore is a warning, otherwise a
        reason to refuse.
    type: str
    choices: [restore, read]
    default: restore
  on_partial:
    description:
      - What happens when the run fails with something committed. V(auto) puts a restore point back when there is one,
        V(restore) insists on one, V(start) starts the services on what is there.
    type: str
    choices: [auto, restore, start]
    default: start
  restore_point_budget:
    description: Seconds that taking a restore point may take inside the window.
    type: float
    default: 5
extends_documentation_fragment:
  - community.postgresql.postgres
  - habitat.runbook.run
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
seealso:
  - module: habitat.runbook.run_lock
  - module: habitat.runbook.schema_migrations
"""

EXAMPLES = r"""
- name: Check before anything is touched
  habitat.runbook.preflight:
    schema_dir: schema
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
    run_dir: /var/lib/habitat-runbook/20261122t100211z-k3f
    backup_dir: /var/backups/habitat
    writer_roles: [habitat_app]
  register: checked
"""

RETURN = r"""
checks:
  description: Every check with state (ok, warn or fail), text and next.
  returned: always
  type: list
  elements: dict
  sample: [{state: ok, text: PostgreSQL 17.10, next: ""}]
fence_by_right:
  description: What M(habitat.runbook.schema_migrations) takes; false when a migration changes who may connect.
  returned: always
  type: bool
staged_plan:
  description: Where the parsed plan lies on the host until the run is over; null in check mode.
  returned: always
  type: str
pending:
  description: What this run applies, as in M(habitat.runbook.schema_migrations_info).
  returned: always
  type: list
  elements: dict
versions:
  description: State of every version, as in M(habitat.runbook.schema_migrations_info).
  returned: always
  type: list
  elements: dict
current:
  description: Version of the schema before the run.
  returned: always
  type: str
refusals:
  description: Why the ledger and the files do not allow a run.
  returned: always
  type: list
  elements: dict
restore_point:
  description:
    - Whether one is planned, with seconds (a prediction), bytes, the reason when not, and use, what
      M(habitat.runbook.schema_migrations) takes for O(habitat.runbook.schema_migrations#module:restore_point).
  returned: always
  type: dict
server:
  description: Facts about server and database, as in M(habitat.runbook.session_info).
  returned: always
  type: dict
sessions:
  description: Other sessions in the database, as in M(habitat.runbook.session_info).
  returned: always
  type: list
  elements: dict
"""

import shutil
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

JOURNAL_BYTES = 16 * 1024**2
"""Ten answers a second of the application for half a day, and the plan."""


def run_checks(
    module: AnsibleModule, state: dict[str, Any], looked: list[Any], room: int | str, largest: int
) -> list[dict[str, str]]:
    from ansible_collections.habitat.runbook.plugins.module_utils import checks, manifest

    parameters, server = module.params, state["server"]
    found = checks.check_server(server)
    found.append(checks.check_tools(parameters["bin_dir"], server["number"], container_of(module)))
    found.append(checks.check_space(parameters["backup_dir"], server["size"], "space for the backup"))
    if parameters["run_dir"]:
        state_dir = str(Path(parameters["run_dir"]).parent)
        journal = checks.check_space(state_dir, JOURNAL_BYTES, "space for the journal")
        # Nearly always it is the disk of the data or of the backups, which are said.
        found += [journal] if journal.state == "fail" else []
    proved_by_restoring = parameters["proof"] == "restore"
    if isinstance(room, int):
        needed = max(largest, server["size"]) if proved_by_restoring else largest
        found.append(checks.check_room(room, needed, "space for the data", "the server's data folder"))
    if proved_by_restoring and not server["may_copy"]:
        text = f"role {server['role']} may not create the database that the backup is restored into to prove it"
        hint = f"ALTER ROLE {manifest.quoted(server['role'])} CREATEDB, or set habitat_backup_proof to read"
        found.append(checks.Check("fail", text, hint))
    limit = parameters["max_transaction"]
    found += checks.check_sessions(state["sessions"], server["prepared"], parameters["writer_roles"], limit)
    found += looked
    if parameters["on_partial"] == "restore" and not state["restore_point"]["planned"]:
        text = f"no restore point can be taken: {state['restore_point']['reason']}"
        found.append(checks.Check("fail", text, "put that right, or set habitat_on_partial to auto"))
    return [check.as_data() for check in found]


def changes_access(plan: str, versions: set[str]) -> bool:
    """Whether one of these migrations changes who may connect to a database."""
    from ansible_collections.habitat.runbook.plugins.module_utils import fence
    from ansible_collections.habitat.runbook.plugins.module_utils.bundle import read_bundle

    streams = (stream for head, stream in read_bundle(plan) if head["version"] in versions)
    return any(fence.touches(statement.text for _, statement in stream()) for stream in streams)


def keep_plan(plan: str, run_dir: str) -> str:
    kept = Path(run_dir) / "plan"
    shutil.copyfile(plan, kept)
    return str(kept)


def look(module: AnsibleModule) -> dict[str, Any]:
    """Everything the module returns."""
    from ansible_collections.habitat.runbook.plugins.module_utils import checks, fence, fidelity, restore_point
    from ansible_collections.habitat.runbook.plugins.module_utils.state import read_state
    from ansible_collections.habitat.runbook.plugins.module_utils.surroundings import read_surroundings
    from ansible_collections.habitat.runbook.plugins.module_utils.swap_checks import check_swap

    parameters = module.params
    with open_connection(module, connection_parameters(module, parameters["run_id"])) as connection:
        state = read_state(connection, parameters["plan"], parameters["env"], parameters["target"])
        state.update(read_surroundings(connection))
        largest = checks.read_largest(connection)
        in_the_way = check_swap(connection, state["server"], state["sessions"])
        by_right = not changes_access(parameters["plan"], {one["version"] for one in state["pending"]})
        looked = [fidelity.check_fidelity(connection, parameters["proof"])]
        looked += fence.check_fence(connection, parameters["writer_roles"], parameters["env"], by_right=by_right)
    room, budget = data_room(module), parameters["restore_point_budget"]
    point = restore_point.plan_point(state["server"], in_the_way, parameters["on_partial"], budget, room)
    state["restore_point"] = point.as_data()
    found = run_checks(module, state, looked, room, largest)
    kept = None if module.check_mode else keep_plan(parameters["plan"], parameters["run_dir"])
    return {"checks": found, "staged_plan": kept, "fence_by_right": by_right, **state}


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        schema_dir={"type": "path", "required": True},
        plan={"type": "path"},
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        run_dir={"type": "path", "required": True},
        target={"type": "str"},
        writer_roles={"type": "list", "elements": "str", "required": True},
        max_transaction={"type": "float", "default": 300},
        bin_dir={"type": "path"},
        backup_dir={"type": "path", "required": True},
        data_dir={"type": "path"},
        proof={"type": "str", "choices": ["restore", "read"], "default": "restore"},
        on_partial={"type": "str", "choices": ["auto", "restore", "start"], "default": "start"},
        restore_point_budget={"type": "float", "default": 5},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    require_psycopg(module)
    from ansible_collections.habitat.runbook.plugins.module_utils import run_folder

    parameters = module.params
    # A slow look at a slow host is no dead run; in check mode there is no lock that could end.
    try:
        with run_folder.step_of(None if module.check_mode else parameters["run_dir"], "PREFLIGHT"):
            result = look(module)
    except run_folder.Ended as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
