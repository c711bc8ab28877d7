#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: database_restore
short_description: Restore a backup into a new database and compare it with its manifest
version_added: 0.1.0
description:
  - Restores a backup into the new database C(<database>_restore_<run id>) and compares it with the manifest - rows and
    digests of every table, sequences, materialized views, large objects, extensions, versions and schema.
  - The database that is in use is not touched. When anything is wrong the new database is dropped again.
  - Removes first what dead runs left half restored.
options:
  backup:
    description: Id of the backup.
    type: str
    required: true
  backup_dir:
    description: Folder of the backups on the host.
    type: path
    required: true
  bin_dir:
    description:
      - Folder of C(pg_dump) and C(pg_restore) on the host; the PATH when left out.
      - When they are not there or are older than the server, those inside the database's O(container) are used.
    type: path
  jobs:
    description:
      - Number of parallel jobs of C(pg_restore); as many as the host has processors, at most 4, when V(0).
      - Inside the container there is one only, since the dump is streamed there and cannot be read in several places.
    type: int
    default: 0
extends_documentation_fragment:
  - community.postgresql.postgres
  - habitat.runbook.run
  - habitat.runbook.job
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
seealso:
  - module: habitat.runbook.database_backup
  - module: habitat.runbook.database_swap
"""

EXAMPLES = r"""
- name: Restore a backup beside the database
  habitat.runbook.database_restore:
    backup: staging-20261122t093000z-p02
    backup_dir: /var/backups/habitat
    login_host: 127.0.0.1
    login_user: habitat
    login_password: "{{ vault_habitat_password }}"
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
  register: restored
"""

RETURN = r"""
name:
  description: Name of the new database.
  returned: success
  type: str
  sample: habitat_restore_20261122t100211z-k3f
jobs:
  description: Number of jobs that C(pg_restore) had.
  returned: success and not in check mode
  type: int
seconds:
  description: How long restoring and comparing took.
  returned: success and not in check mode
  type: float
tables:
  description: Number of tables compared.
  returned: success and not in check mode
  type: int
rows:
  description: Number of rows in them.
  returned: success and not in check mode
  type: int
size:
  description: Size of the new database in bytes.
  returned: success and not in check mode
  type: int
not_compared:
  description: What could not be compared, one line each.
  returned: success and not in check mode
  type: list
  elements: str
removed:
  description: Databases that dead runs had left half restored.
  returned: success and not in check mode
  type: list
  elements: str
"""

import contextlib
import functools
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils import jobs
from ansible_collections.habitat.runbook.plugins.module_utils.copies import RESTORE, copy_name
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connect_to,
    connection_parameters,
    container_of,
    database_argument_spec,
    most_jobs,
    open_connection,
    require_psycopg,
)
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, find_backup, read
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import Ended


def restore(module: AnsibleModule, name: str) -> dict[str, Any]:
    from ansible_collections.habitat.runbook.plugins.module_utils import (
        client_programs,
        copies,
        lock_session,
        run_folder,
    )
    from ansible_collections.habitat.runbook.plugins.module_utils.restore import restore_backup

    given = module.params
    connect = connection_parameters(module, given["run_id"], lock_timeout="0", statement_timeout="0")
    with open_connection(module, dict(connect, dbname=lock_session.LOCK_DATABASE)) as admin:
        tools = client_programs.find_tools(given["bin_dir"], admin.info.server_version, container_of(module))
        dump = Path(find_backup(given["backup_dir"], given["backup"]).dump)
        told = read(dump.with_suffix(".json"))
        if module.check_mode:
            return {}
        lock_session.require(admin, given["login_db"], given["run_dir"], given["run_id"])
        with run_folder.step_of(given["run_dir"], "RESTORE"):
            removed = copies.drop_copies(admin, given["login_db"], [RESTORE])
            jobs = tools.jobs(most_jobs(given["jobs"]))
            if jobs < given["jobs"]:
                module.warn(f"pg_restore{tools.place} reads a stream: it has {jobs} job, not {given['jobs']}")
            done = restore_backup(admin, functools.partial(connect_to, connect), tools, dump, told, name, jobs)
            row = admin.execute("SELECT pg_catalog.pg_database_size(%s)", [name]).fetchone()
            if done.differences:
                with contextlib.suppress(BackupError):
                    copies.drop_copies(admin, given["login_db"], [RESTORE])
                raise BackupError(f"the restored backup is not what was backed up: {'; '.join(done.differences)}")
    told_of = {"seconds": done.seconds, "tables": done.tables, "rows": done.rows, "not_compared": done.warnings}
    return {**told_of, "jobs": jobs, "removed": removed, "size": row[0] if row else None}


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        backup={"type": "str", "required": True},
        backup_dir={"type": "path", "required": True},
        bin_dir={"type": "path"},
        jobs={"type": "int", "default": 0},
        **jobs.OPTIONS,
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    require_psycopg(module)
    jobs.run(module, "restore", functools.partial(work, module))


def work(module: AnsibleModule) -> None:
    import psycopg

    name = copy_name(module.params["login_db"], RESTORE, module.params["run_id"])
    try:
        result = restore(module, name)
    except (BackupError, Ended, OSError, psycopg.Error) as error:
        module.fail_json(msg=" ".join(str(error).split()), name=name)
    module.exit_json(changed=True, name=name, **result)


if __name__ == "__main__":
    main()
