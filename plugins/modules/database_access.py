#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: database_access
short_description: Let the application into its database again
version_added: 0.1.0
description:
  - While a step of a run changes the database, nobody but its owner and superusers may connect to it. A step that ends
    well gives the right back itself. After one that failed the application stays out until things are put right, and
    this module ends that.
  - What is given back is exactly what was taken, as the run's folder has it on record. Without such a record nothing is
    done.
options:
  run_dir:
    description: Folder of the run on the host.
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
  - module: habitat.runbook.schema_migrations
"""

EXAMPLES = r"""
- name: Let the application in again
  habitat.runbook.database_access:
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
    run_dir: /var/lib/habitat-runbook/20261122t100211z-k3f
"""

RETURN = r"""
opened:
  description: Whether the application had been kept out and is not any more.
  returned: success
  type: bool
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connect_to,
    connection_parameters,
    database_argument_spec,
    require_psycopg,
)


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        run_dir={"type": "path", "required": True},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    require_psycopg(module)
    import psycopg
    from ansible_collections.habitat.runbook.plugins.module_utils import fence_record, lock_session, run_folder

    closed = fence_record.read_fence(Path(module.params["run_dir"])) is not None
    if not closed or module.check_mode:
        module.exit_json(changed=closed, opened=closed)
    parameters = connection_parameters(module, module.params["run_id"])
    try:
        # The fenced database may have another name by now, or be gone.
        with (
            run_folder.step(Path(module.params["run_dir"]), "ACCESS"),
            connect_to(parameters, lock_session.LOCK_DATABASE) as connection,
        ):
            opened = fence_record.open_fence(connection, Path(module.params["run_dir"]))
    except run_folder.Ended as error:
        module.fail_json(msg=str(error))
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        module.fail_json(msg=f"the application is still kept out of {module.params['login_db']}: {reason}")
    module.exit_json(changed=opened, opened=opened)


if __name__ == "__main__":
    main()
