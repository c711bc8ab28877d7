#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: schema_migrations_info
short_description: Compare the migration files with the ledger of a PostgreSQL database
version_added: 0.1.0
description:
  - Reads C(schema/) on the controller and the table C(schema_migrations) in the database, and tells the state of every
    version, what is pending, and what a run would refuse.
  - Changes nothing and takes no lock above ACCESS SHARE; a role that may SELECT the ledger is enough.
options:
  schema_dir:
    description: Folder of the migration files on the controller.
    type: path
    required: true
  target:
    description: Version up to which pending migrations are listed in RV(pending); all of them when left out.
    type: str
  plan:
    description: The parsed migrations on the database's host. Set by the controller's side of this module.
    type: path
  state_dir:
    description:
      - Folder with a folder for each run on the host.
      - With it, a run that was cut off and not put right is a refusal, and nothing is pending before that.
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
  - module: habitat.runbook.schema_migrations
"""

EXAMPLES = r"""
- name: Compare the files with the ledger
  habitat.runbook.schema_migrations_info:
    schema_dir: schema
    login_host: 127.0.0.1
    login_user: habitat
    login_password: "{{ vault_habitat_password }}"
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
  register: migrations
"""

RETURN = r"""
current:
  description: Version of the schema, the highest in the ledger; null when the ledger is empty.
  returned: success
  type: str
  sample: "05"
versions:
  description: >-
    Every version known to the files or to the ledger, in order. RV(versions[].state) is one of applied, baseline,
    by hand, pending, partial, out of order, changed, missing; RV(versions[].label) is the state as people read it.
  returned: success
  type: list
  elements: dict
  sample: [{version: "05", name: indexes, state: applied, label: applied, applied_at: "2026-02-10T09:00:00+00:00"}]
pending:
  description: >-
    What a run would apply, in order: version, name, file, mode (transaction, steps, as_written), statements,
    down (state and reason), timeouts and warnings.
  returned: success
  type: list
  elements: dict
refusals:
  description: Why a run would be refused, each with what, found and next; empty when it would not.
  returned: success
  type: list
  elements: dict
warnings_in_files:
  description: What is odd in the files but no reason to refuse, each as C(file:line) and a sentence.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connection_parameters,
    database_argument_spec,
    open_connection,
    require_psycopg,
)


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        schema_dir={"type": "path", "required": True},
        plan={"type": "path"},
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        target={"type": "str"},
        state_dir={"type": "path"},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    require_psycopg(module)
    from ansible_collections.habitat.runbook.plugins.module_utils import interrupted
    from ansible_collections.habitat.runbook.plugins.module_utils.state import read_state

    looked = module.params["state_dir"] is not None
    with open_connection(module, connection_parameters(module, module.params["run_id"])) as connection:
        state = read_state(connection, module.params["plan"], module.params["env"], module.params["target"])
    cut_off = interrupted.refusals(Path(module.params["state_dir"]), module.params["login_db"]) if looked else []
    if cut_off:
        state.update(refusals=cut_off + state["refusals"], pending=[])
    module.exit_json(changed=False, **state)


if __name__ == "__main__":
    main()
