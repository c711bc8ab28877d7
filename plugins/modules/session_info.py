#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: session_info
short_description: Tell who holds the run lock and who else is connected to a database
version_added: 0.1.0
description:
  - Reads facts about the server and the database, the other sessions in it, and the run lock. Changes nothing.
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
server:
  description: Facts about server and database, such as version, size (bytes) and role.
  returned: success
  type: dict
sessions:
  description: Other sessions in the database (pid, role, app, state, query, seconds in transaction).
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connection_parameters,
    database_argument_spec,
    open_connection,
    require_psycopg,
)


def main() -> None:
    spec = database_argument_spec()
    spec.update(env={"type": "str", "required": True}, run_id={"type": "str", "required": True})
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    require_psycopg(module)
    from ansible_collections.habitat.runbook.plugins.module_utils.surroundings import read_surroundings

    with open_connection(module, connection_parameters(module, module.params["run_id"])) as connection:
        around = read_surroundings(connection)
    module.exit_json(changed=False, **around)


if __name__ == "__main__":
    main()
