#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: run_lock
short_description: Take and release the lock that lets one run at a time work on a database
version_added: 0.1.0
description:
  - Starts the run's guard on the database's host, a small process that holds a session advisory lock in the database
    C(postgres) until the run is over, and ends it again.
  - The guard asks the application ten times a second whether it is well, and puts things right when the run goes
    silent, keeps the services stopped for too long or is cancelled. It ends the run's step and database sessions, lets
    the application in again and starts what the run had stopped. It never restores, drops or renames anything.
  - A run that finds the lock taken fails at once and says who holds it, since when, from where and in which phase.
  - A run that finds an earlier one which was cut off and not put right fails at once and says what to type.
  - Taking and releasing leaves no trace but the run's journal, so neither counts as a change. In check mode the lock is
    only looked at.
options:
  state:
    description: Whether this run is to hold the lock.
    type: str
    choices: [present, absent]
    default: present
  run_dir:
    description: Folder of the run on the host. It is made with the lock and removed with it; the journal is kept.
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
  inventory_host:
    description: Name of the database's host in the inventory, for the report of a run that is cut off.
    type: str
    default: localhost
  command:
    description: Playbook of the run as it was typed, for the commands that are suggested when it is cut off.
    type: str
    default: migrate.yml
  inputs:
    description: What was typed for the run behind C(-e), for the same purpose.
    type: dict
    default: {}
  silence:
    description: Seconds without a step at work after which the run is over, while services are stopped; up to four
      times as many on a machine whose processors are each wanted by more than four processes.
    type: float
    default: 15
  patience:
    description: The same while no service is stopped by the run; longer on a busy machine.
    type: float
    default: 60
  max_window:
    description: Seconds for which services may be stopped. At half of it a warning is shown.
    type: float
    default: 1800
  urls:
    description: Addresses at which the guard asks the application.
    type: list
    elements: str
    default: []
  body:
    description: Keys and values that the JSON body of a good answer has, among others.
    type: dict
    default: {}
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
refusals:
  description: Earlier runs that were cut off and not put right, each with what, found and next.
  returned: when there are any
  type: list
  elements: dict
ended:
  description: The guard's report when this run was ended by it or by an operator; null otherwise.
  returned: when released
  type: dict
probes:
  description: What the guard saw of the application, with asked, good and down_seconds (longest time without answer).
  returned: when released
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
    from ansible_collections.habitat.runbook.plugins.module_utils import lock_session, run_lock

    given = module.params
    connect = connection_parameters(module, given["run_id"], statement_timeout="0")
    if module.check_mode:
        with open_connection(module, connect) as connection:
            holder = lock_session.held_by(connection, given["login_db"])
    else:
        try:
            holder = run_lock.acquire(Path(given["run_dir"]), connect, run_of(given), watch_of(given))
        except (run_lock.LockError, OSError) as error:
            module.fail_json(msg=f"the run lock cannot be taken: {error}", held=False, holder=None)
    if holder is not None:
        text = f"another run holds {given['env']}/{given['login_db']}: {holder.get('run_id')}"
        module.fail_json(msg=text, held=False, holder=holder)
    module.exit_json(changed=False, held=not module.check_mode, holder=None)


def run_of(given: dict[str, Any]) -> dict[str, Any]:
    """The run as its run.json has it."""
    inside = given["container"] if given["container"].get("service") else None
    told = {name: given[name] for name in ("env", "operator", "origin", "command", "inputs")}
    place = {"database": given["login_db"], "host": given["inventory_host"], "container": inside}
    return {"id": given["run_id"], **place, **told}


def watch_of(given: dict[str, Any]) -> dict[str, Any]:
    """What the guard is told to watch for; the password goes to it through its standard input only."""
    names = ("silence", "patience", "max_window", "urls", "body")
    return {"given_password": given["login_password"] or None, **{name: given[name] for name in names}}


def refuse_interrupted(module: AnsibleModule) -> None:
    """Fail when an earlier run on this database was cut off and nobody has put things right yet."""
    from ansible_collections.habitat.runbook.plugins.module_utils import interrupted

    refusals = interrupted.refusals(Path(module.params["run_dir"]).parent, module.params["login_db"])
    if refusals:
        module.fail_json(msg=refusals[0]["what"], refusals=refusals, held=False, holder=None)


def give_back(module: AnsibleModule) -> None:
    from ansible_collections.habitat.runbook.plugins.module_utils import interrupted, run_lock

    given, folder = module.params, Path(module.params["run_dir"])
    with open_connection(module, connection_parameters(module, given["run_id"])) as connection:
        if not module.check_mode:
            try:
                run_lock.release(connection, folder, given["run_id"])
            except run_lock.LockError as error:
                module.fail_json(msg=str(error), held=True, holder=None)
    module.exit_json(changed=False, held=False, holder=None, **interrupted.seen(folder))


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        state={"type": "str", "choices": ["present", "absent"], "default": "present"},
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        run_dir={"type": "path", "required": True},
        operator={"type": "str", "default": "unknown"},
        origin={"type": "str", "default": "unknown"},
        inventory_host={"type": "str", "default": "localhost"},
        command={"type": "str", "default": "migrate.yml"},
        inputs={"type": "dict", "default": {}},
        silence={"type": "float", "default": 15},
        patience={"type": "float", "default": 60},
        max_window={"type": "float", "default": 1800},
        urls={"type": "list", "elements": "str", "default": []},
        body={"type": "dict", "default": {}},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    require_psycopg(module)
    if module.params["state"] == "present":
        refuse_interrupted(module)
        take(module)
    give_back(module)


if __name__ == "__main__":
    main()
