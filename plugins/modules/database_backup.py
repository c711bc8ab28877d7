#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: database_backup
short_description: Take a proved backup of a database
description:
  - Dumps a database with C(pg_dump), compressed with zstd where the client can do that, and proves the dump - restores
    it into the new database C(<database>_verify_<run id>), compares that with what was dumped and drops it again. Only
    then the dump gets its name, and a manifest is written beside it.
  - The manifest holds what a restored copy can be compared with, taken in the snapshot of the dump itself - the
    number of rows and a digest of every table, the values of sequences, a hash of the schema, the versions in the
    ledger, and the database's encoding, locale, owner and extensions. It also holds what no dump of the contents
    brings along - the database's settings, access rights, comment and connection limit - and how long restoring took.
  - The server's roles, memberships and tablespaces are written beside it as SQL, without passwords.
  - The database stays in use meanwhile. Tables are locked in C(ACCESS SHARE) mode, which stops schema changes only.
  - A backup is refused rather than incomplete, for example when row-level security would hide rows.
  - When the module fails or is killed, nothing stays under a final name, and C(pg_dump) and its session end with it.
    What a killed run left half written is removed by the next backup into the same folder.
version_added: "0.1.0"
author:
  - The Habitat team (@habitat)
options:
  login_db:
    description: Name of the database to back up.
    type: str
    required: true
  run_id:
    description:
      - The run that takes the backup, such as V(20261122t100211z-k3f). A run takes one backup.
      - The sessions of the backup have the application name C(runbook/<run_id>).
    type: str
    required: true
  another:
    description:
      - Whether this is one more backup of the same run, such as the one after its migrations.
      - Its id is not C(<env>-<run_id>) then but has the time of its own beginning in it.
    type: bool
    default: false
  env:
    description: Environment the database belongs to. The backup's id is C(<env>-<run_id>).
    type: str
    required: true
  backup_dir:
    description:
      - Folder of the backups on the host this module runs on.
      - Created when missing. It must belong to the user who runs the module, and loses the access of all others.
    type: path
    required: true
  bin_dir:
    description:
      - Folder of C(pg_dump) and C(pg_restore), by default they are looked up on E(PATH).
      - When they are not there or are older than the server, those inside the database's O(container) are used.
    type: path
  form:
    description:
      - V(custom) is one file. V(directory) is a folder of files, which O(jobs) sessions of C(pg_dump) write at once; it
        needs the programs on the host.
    type: str
    choices: [custom, directory]
    default: custom
  compression:
    description: Left out, it is V(zstd) where C(pg_dump) can do that, else V(gzip).
    type: str
    choices: [zstd, gzip, none]
  jobs:
    description:
      - Number of sessions that dump in the directory form and restore for the proof, at most. With more than two, one
        fewer count rows while C(pg_dump) works, else they count when it has ended.
      - As many as the host has processors, at most 4, when V(0).
    type: int
    default: 0
  proof:
    description:
      - How the dump is proved. V(restore) restores it beside the database and compares schema, rows, digests and
        sequences; this needs room for the database once more and a role that may create databases.
      - V(read) reads it back whole, which does not show that it can be restored.
    type: str
    choices: [restore, read]
    default: restore
  tag:
    description: A word for this backup, such as V(before-sale). A backup with a tag is never removed by retention.
    type: str
  data_dir:
    description:
      - Data folder of the server when it is on this host, to see whether there is room for the proof. With O(container)
        that is seen without it.
    type: path
  operator:
    description: Person behind the run, written into the manifest.
    type: str
    default: unknown
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  platform:
    support: full
    platforms: linux
requirements:
  - psycopg >= 3.1
  - pg_dump and pg_restore, not older than the server, on the host or in the database's container
extends_documentation_fragment:
  - community.postgresql.postgres
  - habitat.runbook.run
  - habitat.runbook.job
  - ansible.builtin.action_common_attributes
seealso:
  - module: habitat.runbook.database_backup_info
"""

EXAMPLES = r"""
- name: Take a backup
  habitat.runbook.database_backup:
    login_db: habitat
    login_host: 127.0.0.1
    login_user: habitat_owner
    login_password: "{{ habitat_password }}"
    run_id: 20261122t100211z-k3f
    env: staging
    backup_dir: /var/backups/habitat
    operator: alice
  register: result

- name: Show which backup that is
  ansible.builtin.debug:
    var: result.backup.id
"""

RETURN = r"""
backup:
  description: The backup that was taken. In check mode RV(backup.id), RV(backup.dump) and RV(backup.compression) only.
  returned: success
  type: dict
  contains:
    id:
      description: Id of the backup.
      type: str
      sample: staging-20261122t100211z-k3f
    dump:
      description: Path of the dump. The manifest is beside it, ending in C(.json).
      type: str
      sample: /var/backups/habitat/staging-20261122t100211z-k3f.dump
    compression:
      description: V(zstd), V(gzip) or V(none).
      type: str
    form:
      description: V(custom) or V(directory).
      type: str
    proof:
      description: How the dump was proved, V(restore) or V(read).
      type: str
    restore_seconds:
      description: How long restoring and comparing it took; V(null) when it was read only.
      type: float
      sample: 12.4
    tag:
      description: Its tag, V(null) without one.
      type: str
    size:
      description: Size of the dump in bytes.
      type: int
      sample: 412034101
    sha256:
      description: Checksum of the dump.
      type: str
    taken_at:
      description: Time of the snapshot in UTC by the database's clock.
      type: str
      sample: "2026-11-22T10:02:15.120311Z"
    database:
      description: Name of the database.
      type: str
    ledger_version:
      description: Highest version in the ledger, V(null) without a ledger.
      type: str
      sample: "07"
    schema_sha256:
      description: Hash of the schema.
      type: str
    tables:
      description: Number of tables, each partition counting as one.
      type: int
    rows:
      description: Number of rows in all tables.
      type: int
seconds:
  description: How long it took, the proof included.
  returned: success and not in check mode
  type: float
database_bytes:
  description: Size of the database in bytes.
  returned: in check mode
  type: int
removed:
  description: Names of half-written files of dead runs that were removed.
  returned: success and not in check mode
  type: list
  elements: str
"""

import functools
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils import jobs
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connection_parameters,
    container_of,
    data_room,
    database_argument_spec,
    most_jobs,
    open_connection,
    require_psycopg,
)
from ansible_collections.habitat.runbook.plugins.module_utils.inputs import new_run_id
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, backup_id, latest_version
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import Ended

OPTIONS = {
    "run_id": {"type": "str", "required": True},
    "another": {"type": "bool", "default": False},
    "env": {"type": "str", "required": True},
    "backup_dir": {"type": "path", "required": True},
    "bin_dir": {"type": "path"},
    "form": {"type": "str", "choices": ["custom", "directory"], "default": "custom"},
    "compression": {"type": "str", "choices": ["zstd", "gzip", "none"]},
    "jobs": {"type": "int", "default": 0},
    "proof": {"type": "str", "choices": ["restore", "read"], "default": "restore"},
    "tag": {"type": "str"},
    "data_dir": {"type": "path"},
    "operator": {"type": "str", "default": "unknown"},
    **jobs.OPTIONS,
}


def summary(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a task is told of a manifest: everything but the long lists."""
    told = {key: manifest[key] for key in ("id", "taken_at", "schema_sha256")}
    return {
        **told,
        **{key: manifest["dump"][key] for key in ("form", "compression", "size", "sha256")},
        "proof": manifest["proof"]["kind"],
        "restore_seconds": manifest["proof"]["restore_seconds"],
        "tag": manifest["tag"],
        "dump": str(folder / manifest["dump"]["file"]),
        "database": manifest["database"]["name"],
        "ledger_version": latest_version(manifest["ledger_versions"] or ()),
        "tables": len(manifest["tables"]),
        "rows": sum(table["rows"] for table in manifest["tables"].values()),
    }


def backup(module: AnsibleModule) -> dict[str, Any]:
    """Take the backup, or in check mode say which one it would be. Raises BackupError."""
    from ansible_collections.habitat.runbook.plugins.module_utils import dump, identity, lock_session, run_folder

    given = module.params
    backup_id(given["env"], given["run_id"])
    folder = Path(given["backup_dir"]).absolute()
    timeouts = {"lock_timeout": f"{dump.LOCK_WAIT_MS}ms", "statement_timeout": "0"}
    room = data_room(module)
    how = dump.How(
        jobs=most_jobs(given["jobs"]),
        room=room if isinstance(room, int) else None,
        container=container_of(module),
        by_run=given["run_id"],
        **{key: given[key] for key in ("form", "compression", "proof", "tag", "bin_dir")},
    )
    with open_connection(module, connection_parameters(module, given["run_id"], **timeouts)) as connection:
        elsewhere = identity.contradiction(identity.read(connection), given["env"])
        if elsewhere:
            raise BackupError(f"{elsewhere[0]}; {elsewhere[2]}")
        named = new_run_id() if given["another"] else given["run_id"]
        where = (connection, folder, given["env"], named)
        if module.check_mode:
            plan = dump.plan_backup(*where, how)
            return {"database_bytes": plan.pop("database_bytes"), "backup": plan}
        lock_session.require(connection, given["login_db"], given["run_dir"], given["run_id"])
        with run_folder.step_of(given["run_dir"], "BACKUP") as told:
            taken = dump.take_backup(*where, given["operator"], how)
            told["backup"] = taken.manifest["id"]
    for warning in taken.warnings:
        module.warn(warning)
    manifest = taken.manifest
    return {"backup": summary(manifest, folder), "seconds": manifest["seconds"], "removed": taken.removed}


def main() -> None:
    module = AnsibleModule(argument_spec={**database_argument_spec(), **OPTIONS}, supports_check_mode=True)
    require_psycopg(module)
    jobs.run(module, "backup", functools.partial(work, module))


def work(module: AnsibleModule) -> None:
    try:
        result = backup(module)
    except (BackupError, Ended, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, **result)


if __name__ == "__main__":
    main()
