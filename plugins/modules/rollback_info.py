#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: rollback_info
short_description: Tell what a database can be rolled back to and what that would mean
version_added: 0.1.0
description:
  - Without O(backup), lists the backups of the environment with the rows written since, the copies kept inside the
    server, and the migrations that can be taken back.
  - With O(backup), tells which one is meant, what would be removed, which rows would not be there, and what stands in
    the way.
  - With O(kept) and O(backup), counts in the database kept from before a swap which rows the backup has not.
  - Changes nothing. Rows are counted by the transaction that wrote them; tables are locked in C(ACCESS SHARE) mode.
options:
  backup:
    description:
      - Id of a backup, name of a copy inside the server, or V(latest), the newest verified backup taken before the last
        run that committed something.
    type: str
  adopt_identity:
    description: With the name of O(env), a backup or copy of another environment is allowed, to become one of it.
    type: str
  reason:
    description: Why it is adopted.
    type: str
  kept:
    description: Name of the database kept from before a swap.
    type: str
  since:
    description:
      - The moment from which on rows in O(kept) are counted instead, as returned by
        M(habitat.runbook.schema_migrations).
    type: dict
  backup_dir:
    description: Folder of the backups on the host.
    type: path
    required: true
  bin_dir:
    description: Folder of C(pg_dump) and C(pg_restore) on the host; the PATH when left out.
    type: path
  data_dir:
    description: Data folder of the server when it is on this host, to see whether there is room for another database.
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
  - module: habitat.runbook.database_restore
  - module: habitat.runbook.database_backup_info
"""

EXAMPLES = r"""
- name: See what going back to the newest backup would mean
  habitat.runbook.rollback_info:
    backup: latest
    backup_dir: /var/backups/habitat
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
  register: way_back
"""

RETURN = r"""
backups:
  description: The backups, newest first, as in M(habitat.runbook.database_backup_info), each with RV(written).
  returned: without O(backup)
  type: list
  elements: dict
copies:
  description: Copies inside the server with name, kind (before or point), run_id, size (bytes) and version.
  returned: without O(backup)
  type: list
  elements: dict
reversible:
  description: Applied migrations, the newest first, with version and name.
  returned: without O(backup)
  type: list
  elements: dict
source:
  description: What is going to be put back, with kind (backup or copy), id, taken_at, size and ledger_version.
  returned: with O(backup)
  type: dict
current:
  description: Version of the schema now; null when the ledger is empty.
  returned: with O(backup)
  type: str
adopts:
  description: Null, or from, to and reason when it is of another environment and is to become one of this.
  returned: with O(backup), when it was found
  type: dict
removed:
  description: Migrations that are applied now and not in the source, with version and name.
  returned: with O(backup), when it was found
  type: list
  elements: dict
returning:
  description: Migrations that are in the source and not applied now.
  returned: with O(backup), when it was found
  type: list
  elements: dict
written:
  description:
    - Rows that the backup has not, with exact, rows, uncertain, uncounted and tables, each with table, then, now, newer
      and gone. Null for a copy.
  returned: with O(backup), when it was found
  type: dict
settings:
  description: Properties of the database that would change, one line each.
  returned: with O(backup), when it was found
  type: list
  elements: str
kept_as:
  description: Name the database would be kept under.
  returned: with O(backup)
  type: str
server:
  description: Facts about server and database, as in M(habitat.runbook.session_info).
  returned: with O(backup)
  type: dict
notes:
  description: What is odd but does not stand in the way, one line each.
  returned: with O(backup), when it was found
  type: list
  elements: str
refusals:
  description: Why one cannot go back, each with what, found and next.
  returned: with O(backup)
  type: list
  elements: dict
"""

import functools
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connect_to,
    connection_parameters,
    container_of,
    data_room,
    database_argument_spec,
    open_connection,
    require_psycopg,
)
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError


def look(module: AnsibleModule) -> dict[str, Any]:
    from ansible_collections.habitat.runbook.plugins.module_utils import way_back

    given = module.params
    connect = connection_parameters(module, given["run_id"], statement_timeout="0")
    to = functools.partial(connect_to, connect)
    if given["kept"]:
        return {"written": way_back.count_kept(to, given)}
    with open_connection(module, connect) as connection:
        if given["backup"]:
            place = {"programs_in": container_of(module), "room": data_room(module)}
            return way_back.choose(connection, to, {**given, **place})
        return way_back.list_choices(connection, to, given)


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        backup={"type": "str"},
        adopt_identity={"type": "str"},
        reason={"type": "str"},
        kept={"type": "str"},
        since={"type": "dict"},
        backup_dir={"type": "path", "required": True},
        bin_dir={"type": "path"},
        data_dir={"type": "path"},
    )
    module = AnsibleModule(
        argument_spec=spec,
        supports_check_mode=True,
        required_by={"since": ["kept"]},
        required_together=[("adopt_identity", "reason")],
    )
    require_psycopg(module)
    import psycopg

    try:
        result = look(module)
    except (BackupError, psycopg.Error) as error:
        module.fail_json(msg=" ".join(str(error).split()))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
