#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: database_copies
short_description: Remove the restore points and half-made restores of a database
version_added: 0.1.0
description:
  - Removes restore points (C(<database>_point_<run id>)) and what a dead run left half restored
    (C(<database>_restore_<run id>)).
  - The databases kept from before a swap (C(<database>_before_<run id>)) hold rows that are nowhere else and are never
    removed.
options:
  keep:
    description: Name of a restore point that stays.
    type: str
    default: ""
  kinds:
    description: Which copies are removed; V(restore) means what was restored to prove a backup, too.
    type: list
    elements: str
    choices: [point, restore]
    default: [point, restore]
  run_dir:
    description: Folder of the run on the host. The module works only while this run holds the run lock.
    type: path
    required: true
extends_documentation_fragment:
  - community.postgresql.postgres
  - habitat.runbook.run
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
seealso:
  - module: habitat.runbook.database_swap
"""

EXAMPLES = r"""
- name: Remove the restore points that nobody needs any more
  habitat.runbook.database_copies:
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
    run_dir: /var/lib/habitat-runbook/20261122t100211z-k3f
"""

RETURN = r"""
removed:
  description: Names of the databases that were removed, or would be in check mode.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connection_parameters,
    database_argument_spec,
    open_connection,
    require_psycopg,
)
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import Ended


def remove(module: AnsibleModule) -> list[str]:
    from ansible_collections.habitat.runbook.plugins.module_utils import copies, lock_session, run_folder

    given = module.params
    kinds = [*given["kinds"], *([copies.VERIFY] if copies.RESTORE in given["kinds"] else [])]
    connect = connection_parameters(module, given["run_id"], lock_timeout="30s", statement_timeout="0")
    with open_connection(module, dict(connect, dbname=lock_session.LOCK_DATABASE)) as admin:
        if module.check_mode:
            found = copies.list_copies(admin, given["login_db"])
            return [copy.name for copy in found if copy.kind in kinds and copy.name != given["keep"]]
        lock_session.require(admin, given["login_db"], given["run_dir"], given["run_id"])
        with run_folder.step_of(given["run_dir"], "CLEAN UP"):
            return copies.drop_copies(admin, given["login_db"], kinds, given["keep"])


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        keep={"type": "str", "default": ""},
        kinds={
            "type": "list",
            "elements": "str",
            "choices": ["point", "restore"],
            "default": ["point", "restore"],
        },
        run_dir={"type": "path", "required": True},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    require_psycopg(module)
    import psycopg

    try:
        removed = remove(module)
    except (BackupError, Ended, OSError, psycopg.Error) as error:
        module.fail_json(msg=" ".join(str(error).split()))
    module.exit_json(changed=bool(removed), removed=removed)


if __name__ == "__main__":
    main()
