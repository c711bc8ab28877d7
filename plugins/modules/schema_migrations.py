#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: schema_migrations
short_description: Apply pending migrations to a PostgreSQL database and keep its ledger
version_added: 0.1.0
description:
  - Applies the files of C(schema/) that the table C(schema_migrations) does not have, in the order of their numbers.
  - Each migration is one transaction that holds its SQL and its ledger row. What cannot run in a transaction is
    recognised beforehand and runs step by step, each step on record, so that a later run goes on where it stopped.
  - Stops at the first failure. What was applied before stays, what failed is rolled back by PostgreSQL.
  - Refuses before the first statement when the files and the ledger do not fit together.
options:
  state:
    description:
      - V(applied) applies what is pending.
      - V(baseline) records the versions up to O(target) as already there, without running them.
      - V(reverted) runs the down migrations of what was applied, the newest first, until O(target) is the newest one
        left, or O(steps) are taken back. Each is one transaction with the end of its ledger row. The text is the
        file's, or the ledger's when the file is gone or was changed.
    type: str
    choices: [applied, baseline, reverted]
    default: applied
  schema_dir:
    description: Folder of the migration files on the controller.
    type: path
    required: true
  target:
    description:
      - Last version to apply or to record. Required with O(state=baseline).
      - With O(state=reverted) the version that stays; V(0) takes everything back.
    type: str
  steps:
    description: How many migrations to take back, with O(state=reverted).
    type: int
  accept_data_loss:
    description: Whether O(state=reverted) may drop or change rows. Refused otherwise, telling which and how many.
    type: bool
    default: false
  restore_point:
    description:
      - Whether to copy the database inside the server when the writers are gone and before the first migration.
      - V(wanted) goes on without when it cannot be taken, V(required) refuses.
    type: str
    choices: [none, wanted, required]
    default: none
  plan:
    description:
      - A parsed plan on the host, as M(habitat.runbook.preflight) returns it. Made of O(schema_dir) when left out.
    type: path
  operator:
    description: Person behind the run, written into the ledger.
    type: str
    default: unknown
  origin:
    description: Where the run comes from, written into the history.
    type: str
    default: unknown
  lock_timeout:
    description: Longest wait for a lock, as PostgreSQL writes it; a file can set its own.
    type: str
    default: 5s
  statement_timeout:
    description: Longest time for one statement, as PostgreSQL writes it; a file can set its own.
    type: str
    default: 10min
  writer_roles:
    description: Database roles of the stopped services; nothing is applied while a session of one of them is left.
    type: list
    elements: str
    default: []
  drain:
    description: Seconds to wait for the sessions of O(writer_roles) to end.
    type: float
    default: 10
  fence_by_right:
    description:
      - Whether O(writer_roles) are kept out by taking the right to connect away until the step is done. Else their
        sessions are ended as they come, which is weaker, but lets a migration change who may connect.
      - With O(state=reverted) the module finds out for itself.
    type: bool
    default: true
extends_documentation_fragment:
  - community.postgresql.postgres
  - habitat.runbook.run
  - habitat.runbook.job
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
seealso:
  - module: habitat.runbook.schema_migrations_info
"""

EXAMPLES = r"""
- name: Apply what is pending
  habitat.runbook.schema_migrations:
    schema_dir: schema
    login_host: 127.0.0.1
    login_user: habitat
    login_password: "{{ vault_habitat_password }}"
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f

- name: Take the newest migration back
  habitat.runbook.schema_migrations:
    state: reverted
    steps: 1
    schema_dir: schema
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f

- name: Record that the database already has everything up to 06
  habitat.runbook.schema_migrations:
    state: baseline
    target: "06"
    schema_dir: schema
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
"""

RETURN = r"""
applied:
  description: Versions applied (in check mode, that would be), with name, file, mode, statements and duration_ms.
  returned: always
  type: list
  elements: dict
  sample: [{version: "07", name: email_verifications, mode: transaction, statements: 3, duration_ms: 12}]
recorded:
  description: Versions recorded by O(state=baseline).
  returned: success
  type: list
  elements: str
reverts:
  description: What is taken back, newest first, with version, name, source (file or ledger), note, file and statements.
  returned: with O(state=reverted)
  type: list
  elements: dict
planned_version:
  description: Version of the schema when all of RV(reverts) are taken back; null when none is left.
  returned: with O(state=reverted), when it is not refused before
  type: str
accepted:
  description: O(accept_data_loss) as it was given.
  returned: with O(state=reverted)
  type: bool
losses:
  description: What goes with it, with version, file, line, kind, what, rows (null when not known), estimated and note.
  returned: with O(state=reverted)
  type: list
  elements: dict
reverted:
  description: What was taken back, with version, name, source and duration_ms.
  returned: with O(state=reverted)
  type: list
  elements: dict
remarks:
  description: Harmless differences to the schema before, such as another order of columns, and what was not compared.
  returned: when something was reverted
  type: list
  elements: str
restore_point:
  description: Name and seconds of the restore point; the name is null, and reason says why, when it was not taken.
  returned: when one was wanted
  type: dict
snapshot:
  description: Which server and database this is, and the transactions seen when everything was applied.
  returned: when a restore point was taken and nothing failed
  type: dict
from_version:
  description: Version of the schema before; null when the ledger was empty.
  returned: always
  type: str
to_version:
  description: Version of the schema after.
  returned: always
  type: str
failure:
  description: >-
    Why a migration failed: version, file, line, column, statement, sqlstate, message, detail, hint, context, advice,
    and state, which is rolled_back, partial or unknown.
  returned: when a migration failed
  type: dict
refusals:
  description: Why nothing was begun, each with what, found and next.
  returned: when refused
  type: list
  elements: dict
settings:
  description: lock_timeout and statement_timeout as the server reported them back.
  returned: when something was applied
  type: dict
other_sessions:
  description: Sessions that are no service of ours and stayed connected.
  returned: when something was applied
  type: list
  elements: dict
"""

import functools
from collections.abc import Callable
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils import jobs
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connect_to,
    connection_parameters,
    database_argument_spec,
    open_connection,
    require_psycopg,
)
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import Ended


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        state={"type": "str", "choices": ["applied", "baseline", "reverted"], "default": "applied"},
        schema_dir={"type": "path", "required": True},
        target={"type": "str"},
        steps={"type": "int"},
        accept_data_loss={"type": "bool", "default": False},
        restore_point={"type": "str", "choices": ["none", "wanted", "required"], "default": "none"},
        plan={"type": "path"},
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        operator={"type": "str", "default": "unknown"},
        origin={"type": "str", "default": "unknown"},
        lock_timeout={"type": "str", "default": "5s"},
        statement_timeout={"type": "str", "default": "10min"},
        writer_roles={"type": "list", "elements": "str", "default": []},
        drain={"type": "float", "default": 10},
        fence_by_right={"type": "bool", "default": True},
        **jobs.OPTIONS,
    )
    module = AnsibleModule(
        argument_spec=spec,
        supports_check_mode=True,
        required_if=[("state", "baseline", ["target"]), ("state", "reverted", ["target", "steps"], True)],
        mutually_exclusive=[("target", "steps")],
    )
    require_psycopg(module)
    jobs.run(module, module.params["state"], functools.partial(act, module))


def act(module: AnsibleModule) -> None:
    parameters = module.params
    timeouts = {name: parameters[name] for name in ("lock_timeout", "statement_timeout")}
    try:
        connect = connection_parameters(module, parameters["run_id"], **timeouts)
    except ValueError as error:
        module.fail_json(msg=str(error))
    try:
        with open_connection(module, connect) as connection:
            result = work(module, connection, functools.partial(connect_to, connect))
    except Ended as error:
        module.fail_json(msg=str(error))
    finish(module, result)


def work(module: AnsibleModule, connection: Any, to: Callable[[str], Any]) -> dict[str, Any]:
    """Do what ``state`` says; the downs are loaded only when they are wanted."""
    from ansible_collections.habitat.runbook.plugins.module_utils import migrate

    if module.params["state"] == "baseline":
        return migrate.baseline(connection, module.params, module.check_mode, module._diff)
    if module.params["state"] == "reverted":
        from ansible_collections.habitat.runbook.plugins.module_utils import migrate_down

        return migrate_down.revert(connection, to, module.params, module.check_mode, module._diff)
    return migrate.migrate(connection, to, module.params, module.check_mode, module._diff)


def finish(module: AnsibleModule, result: dict[str, Any]) -> None:
    if result.get("msg"):
        module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
