#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: database_swap
short_description: Swap a copy of a database in, and keep the database under another name
version_added: 0.1.0
description:
  - Renames the database to C(<database>_before_<run id>) and the copy to the database's name, in one transaction.
    Whatever happens, the database is either as it was or swapped whole.
  - Sessions in the database are ended. Whoever connects meanwhile waits, is refused once, and reaches the new database
    at the next attempt.
  - The history of the database goes on in the copy, with an entry about this swap.
  - A copy that says it is of another environment is swapped in only when it is adopted.
options:
  incoming:
    description: Name of the copy, on the same server.
    type: str
    required: true
  source:
    description: What the copy is, for the history, such as the id of the backup it was restored from.
    type: str
    required: true
  adopted_from:
    description: Environment the copy is of; from now on it is one of O(env), as its own table and its history say.
    type: str
  reason:
    description: Why it is adopted, written into both.
    type: str
  run_dir:
    description:
      - Folder of the run on the host.
      - When it is given, the module works only while this run holds the run lock.
    type: path
  operator:
    description: Person behind the run, written into the history.
    type: str
    default: unknown
  origin:
    description: Where the run comes from, written into the history.
    type: str
    default: unknown
extends_documentation_fragment:
  - community.postgresql.postgres
  - habitat.runbook.run
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
seealso:
  - module: habitat.runbook.database_restore
  - module: habitat.runbook.database_copies
"""

EXAMPLES = r"""
- name: Swap the restored database in
  habitat.runbook.database_swap:
    incoming: habitat_restore_20261122t100211z-k3f
    source: staging-20261122t093000z-p02
    login_host: 127.0.0.1
    login_user: habitat
    login_password: "{{ vault_habitat_password }}"
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
"""

RETURN = r"""
kept_as:
  description: Name the former database has now.
  returned: always
  type: str
  sample: habitat_before_20261122t100211z-k3f
seconds:
  description: How long the swap took, ending the sessions included.
  returned: success and not in check mode
  type: float
sessions_ended:
  description: How many sessions were told to end.
  returned: success and not in check mode
  type: int
from_version:
  description: Version of the schema before; null when the ledger was empty.
  returned: success and not in check mode
  type: str
to_version:
  description: Version of the schema after.
  returned: success and not in check mode
  type: str
unknown:
  description: Whether nobody could tell what became of the swap.
  returned: failure
  type: bool
"""

import functools
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.copies import BEFORE, SwapUnknown, copy_name
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connect_to,
    connection_parameters,
    database_argument_spec,
    require_psycopg,
)
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import Ended

OPTIONS = {
    "env": {"type": "str", "required": True},
    "run_id": {"type": "str", "required": True},
    "incoming": {"type": "str", "required": True},
    "source": {"type": "str", "required": True},
    "adopted_from": {"type": "str"},
    "reason": {"type": "str"},
    "run_dir": {"type": "path"},
    "operator": {"type": "str", "default": "unknown"},
    "origin": {"type": "str", "default": "unknown"},
}


def swap(module: AnsibleModule, connect: dict[str, Any]) -> dict[str, Any]:
    from ansible_collections.habitat.runbook.plugins.module_utils import lock_session, put_back, run_folder
    from ansible_collections.habitat.runbook.plugins.module_utils.history import Run

    given = module.params
    with connect_to(connect, lock_session.LOCK_DATABASE) as connection:
        lock_session.require(connection, given["login_db"], given["run_dir"], given["run_id"])
    who = Run(given["run_id"], given["operator"], given["origin"], given["env"])
    adopted = (given["adopted_from"], given["reason"])
    with run_folder.step_of(given["run_dir"], "SWAP", incoming=given["incoming"]):
        to = functools.partial(connect_to, connect)
        return put_back.put_back(to, given["login_db"], given["incoming"], who, given["source"], *adopted)


def main() -> None:
    module = AnsibleModule(
        argument_spec={**database_argument_spec(), **OPTIONS},
        supports_check_mode=True,
        required_together=[("adopted_from", "reason")],
    )
    require_psycopg(module)
    import psycopg

    given = module.params
    kept_as = copy_name(given["login_db"], BEFORE, given["run_id"])
    result: dict[str, Any] = {"changed": True, "kept_as": kept_as}
    if module._diff:
        before = f"{given['login_db']}\n{given['incoming']}\n"
        result["diff"] = {"before": before, "after": f"{kept_as}\n{given['login_db']}\n"}
    if not module.check_mode:
        connect = connection_parameters(module, given["run_id"], lock_timeout="10s")
        try:
            result.update(swap(module, connect))
        except SwapUnknown as error:
            module.fail_json(msg=str(error), unknown=True, kept_as=kept_as)
        except (BackupError, Ended, OSError, psycopg.Error) as error:
            module.fail_json(msg=" ".join(str(error).split()), unknown=False, kept_as=kept_as)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
