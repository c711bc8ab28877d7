#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: run_lock
short_description: Take and release the lock that lets one run at a time work on a database
version_added: 0.1.0
description:
  - Starts a small process on the database's host that holds a session advisory lock in the database C(postgres) until
    the run is over, and ends it again.
  - A run that finds the lock taken fails at once and says who holds it, since when, from where and in which phase.
  - The lock is gone with the run. Nothing has to be cleaned up by hand after a crash.
  - When a dead run on this host has left the application kept out of the database, the one that takes the lock lets it
    in again.
  - Taking and releasing leaves no trace, so neither counts as a change. In check mode the lock is only looked at.
options:
  state:
    description: Whether this run is to hold the lock.
    type: str
    choices: [present, absent]
    default: present
  run_dir:
    description: Folder of the run on the host. It is made with the lock and removed with it.
    type: path
    required: true
  operator:
    description: Person behind the run, shown to others who find the lock taken.
    type: str
    default: unknown
  origin:
    description: Where the run comes from (a host, an AWX job), shown to others who find the lock taken.
    type: str
    default: unknown
  controller_pid:
    description: Process of the controller when it runs on this very machine. The lock ends with it, and with the step
      that is at work then.
    type: int
  silence:
    description: Seconds without a sign of life from any step after which the lock ends by itself.
    type: float
    default: 120
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
- name: Let no other run in
  habitat.runbook.run_lock:
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
    run_dir: /var/lib/habitat-runbook/20261122t100211z-k3f
    operator: alice
    origin: AWX job 811

- name: Let others in again
  habitat.runbook.run_lock:
    state: absent
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
    run_dir: /var/lib/habitat-runbook/20261122t100211z-k3f
"""

RETURN = r"""
held:
  description: Whether this run holds the lock now.
  returned: always
  type: bool
holder:
  description: Who holds the lock instead (run_id, operator, from, since, phase); null when nobody else does.
  returned: always
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connection_parameters,
    database_argument_spec,
    open_connection,
    require_psycopg,
)


def take(module: AnsibleModule) -> None:
    from ansible_collections.habitat.runbook.plugins.module_utils import run_lock

    parameters = module.params
    connect = connection_parameters(module, parameters["run_id"], statement_timeout="0")
    if module.check_mode:
        with open_connection(module, connect) as connection:
            holder = run_lock.held_by(connection, parameters["login_db"])
    else:
        label = {
            "run_id": parameters["run_id"],
            "operator": parameters["operator"],
            "from": parameters["origin"],
            "phase": "PREFLIGHT",
        }
        watch = {"controller_pid": parameters["controller_pid"], "silence": parameters["silence"]}
        try:
            holder = run_lock.acquire(Path(parameters["run_dir"]), connect, parameters["login_db"], label, watch)
        except (run_lock.LockError, OSError) as error:
            module.fail_json(msg=f"the run lock cannot be taken: {error}", held=False, holder=None)
        if holder is None:
            open_fences(module, connect)
    if holder is not None:
        text = f"another run holds {parameters['env']}/{parameters['login_db']}: {holder.get('run_id')}"
        module.fail_json(msg=text, held=False, holder=holder)
    module.exit_json(changed=False, held=not module.check_mode, holder=None)


def open_fences(module: AnsibleModule, connect: dict[str, Any]) -> None:
    """Let the application in where a dead run has left it kept out."""
    import psycopg
    from ansible_collections.habitat.runbook.plugins.module_utils import fence

    folders = fence.left_over(Path(module.params["run_dir"]))
    if not folders:
        return
    try:
        with open_connection(module, connect) as connection:
            for run_id in fence.open_left_over(connection, folders, module.params["login_db"]):
                module.warn(f"run {run_id} was cut off and had kept the application out; it may connect again")
    except (psycopg.Error, OSError, ValueError, KeyError) as error:
        there = ", ".join(str(folder) for folder in folders)
        module.warn(
            f"what a dead run has on record about who may connect cannot be used ({there}): {error}; see status.yml"
        )


def give_back(module: AnsibleModule) -> None:
    from ansible_collections.habitat.runbook.plugins.module_utils import run_lock

    parameters = module.params
    with open_connection(module, connection_parameters(module, parameters["run_id"])) as connection:
        if not module.check_mode:
            try:
                run_lock.release(connection, Path(parameters["run_dir"]), parameters["run_id"])
            except run_lock.LockError as error:
                module.fail_json(msg=str(error), held=True, holder=None)
    module.exit_json(changed=False, held=False, holder=None)


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        state={"type": "str", "choices": ["present", "absent"], "default": "present"},
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        run_dir={"type": "path", "required": True},
        operator={"type": "str", "default": "unknown"},
        origin={"type": "str", "default": "unknown"},
        controller_pid={"type": "int"},
        silence={"type": "float", "default": 120},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    require_psycopg(module)
    if module.params["state"] == "present":
        take(module)
    give_back(module)


if __name__ == "__main__":
    main()
