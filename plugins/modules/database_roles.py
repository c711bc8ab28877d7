#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: database_roles
short_description: Give a database an owner who migrates and roles for the application
version_added: 0.1.0
description:
  - Makes the roles, the database and the rights that are missing, and nothing that is there already.
  - The owner owns the database and what is in it, may make databases, see what other sessions do and end them. That is
    what a migration with backup, restore point and rollback needs; it is no superuser.
  - The application's roles may connect. What they may read and write is granted by the migrations, or by O(grant_app).
  - Nobody else connects, except superusers and roles that are granted CONNECT by name.
  - Passwords travel to the server as SCRAM verifiers only, so that its log cannot show them.
  - Connects as a superuser, and refuses while a run of the runbook holds the database.
options:
  login_user:
    description:
      - A superuser of the server.
      - When it is empty, it is the role that the image of O(container) made, or C(postgres) without a container.
    type: str
    default: ""
  owner:
    description: Role that migrates and owns the database.
    type: str
    required: true
  owner_password:
    description: Its password; when it is empty, the role's password stays as it is.
    type: str
    default: ""
  writer_roles:
    description: Roles of the application; none may be a superuser or a member of O(owner).
    type: list
    elements: str
    default: []
  writer_passwords:
    description: Passwords of O(writer_roles) by name; a role that is not named keeps its own.
    type: dict
    default: {}
  take_over:
    description:
      - Whether the database and the objects in it that belong to a superuser, to its former owner or to
        O(writer_roles) go to O(owner), in one transaction, with the default privileges of the former ones.
      - Extensions with what is theirs stay, and so does what only a superuser can own.
    type: bool
    default: true
  grant_app:
    description:
      - Whether O(writer_roles) may read and write all tables in schema C(public), those to come included. The ledger
        of migrations is left out.
      - Not needed where migrations grant what each table needs.
    type: bool
    default: false
  lock_timeout:
    description: How long to wait for an object that another session has locked, as PostgreSQL writes it.
    type: str
    default: 5s
extends_documentation_fragment:
  - community.postgresql.postgres
  - habitat.runbook.run
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
"""

EXAMPLES = r"""
- name: Make the roles of the database in a container
  habitat.runbook.database_roles:
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
    container:
      folder: /srv/habitat
      file: docker-compose.prod.yml
      service: postgres
    owner: habitat_owner
    owner_password: "{{ vault_habitat_owner_password }}"
    writer_roles: [habitat_app]
    writer_passwords:
      habitat_app: "{{ vault_habitat_app_password }}"
"""

RETURN = r"""
created:
  description: Roles and databases that were made, or would be in check mode.
  returned: success
  type: list
  elements: str
altered:
  description: Roles that got other properties or another password, and what went to the owner.
  returned: success
  type: list
  elements: str
granted:
  description: Rights that were given or taken away.
  returned: success
  type: list
  elements: str
notes:
  description: What somebody should know besides, such as roles that are connected and cannot come back.
  returned: success
  type: list
  elements: str
statements:
  description: The statements that were run, in order, without secrets.
  returned: success
  type: list
  elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connect_to,
    connection_parameters,
    database_argument_spec,
    open_connection,
    require_psycopg,
)
from ansible_collections.habitat.runbook.plugins.module_utils.docker import DockerError


def superuser(module: AnsibleModule) -> str:
    """The role to connect as: the one named, else the one the container's image made, else postgres.

    Raises DockerError.
    """
    wanted = module.params["container"]
    if module.params["login_user"] or not wanted.get("service"):
        return module.params["login_user"] or "postgres"
    from ansible_collections.habitat.runbook.plugins.module_utils import container

    found = container.find(wanted["folder"], wanted["file"], wanted["service"])
    return container.reach(found, "", None)[0].superuser


def work(module: AnsibleModule) -> dict[str, Any]:
    from ansible_collections.habitat.runbook.plugins.module_utils import lock_session, roles

    given = module.params
    wish = roles.Wish(
        database=given["login_db"],
        owner=given["owner"],
        writers=given["writer_roles"],
        # One that YAML takes for a number was meant as it was written.
        passwords={
            given["owner"]: given["owner_password"],
            **{role: str(password) for role, password in given["writer_passwords"].items()},
        },
        take_over=given["take_over"],
        grant_app=given["grant_app"],
    )
    parameters = connection_parameters(
        module, given["run_id"], lock_timeout=given["lock_timeout"], statement_timeout="10min"
    )
    with open_connection(module, dict(parameters, dbname=lock_session.LOCK_DATABASE)) as admin:
        outcome = roles.ensure(admin, lambda name: connect_to(parameters, name), wish, module.check_mode)
    return {
        "changed": bool(outcome.steps),
        "diff": {"prepared": "".join(f"{step.sql};\n" for step in outcome.steps)},
        **outcome.as_data(),
    }


def main() -> None:
    spec = database_argument_spec()
    spec["login_user"] = dict(spec["login_user"], default="")
    spec.update(
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        owner={"type": "str", "required": True},
        owner_password={"type": "str", "default": "", "no_log": True},
        writer_roles={"type": "list", "elements": "str", "default": []},
        writer_passwords={"type": "dict", "default": {}, "no_log": True},
        take_over={"type": "bool", "default": True},
        grant_app={"type": "bool", "default": False},
        lock_timeout={"type": "str", "default": "5s"},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    require_psycopg(module)
    import psycopg
    from ansible_collections.habitat.runbook.plugins.module_utils.roles import RolesError

    try:
        module.params["login_user"] = superuser(module)
        result = work(module)
    except (DockerError, RolesError, psycopg.Error, ValueError) as error:
        module.fail_json(msg=" ".join(str(error).split()))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
