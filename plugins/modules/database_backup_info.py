#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: database_backup_info
short_description: List the backups in a folder
description:
  - Lists the backups that M(habitat.runbook.database_backup) took, newest first, and says which of them are whole.
  - Files that are no manifests of backups are ignored. A broken manifest is listed with what is wrong with it.
version_added: "0.1.0"
author:
  - The Habitat team (@habitat)
options:
  backup_dir:
    description: Folder of the backups on the host this module runs on. A folder that does not exist holds no backups.
    type: path
    required: true
  id:
    description: List only the backup with this id, and fail when there is none.
    type: str
  check:
    description: Read every dump and compare it with its checksum, which takes as long as reading it takes.
    type: bool
    default: false
  state_dir:
    description: Folder of all runs on the host; with it and O(database) the last drill is told, too.
    type: path
  database:
    description: Name of the database whose last drill is told.
    type: str
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
  platform:
    support: full
    platforms: linux
extends_documentation_fragment:
  - ansible.builtin.action_common_attributes
seealso:
  - module: habitat.runbook.database_backup
"""

EXAMPLES = r"""
- name: List the backups
  habitat.runbook.database_backup_info:
    backup_dir: /var/backups/habitat
  register: found

- name: Read one backup whole before trusting it
  habitat.runbook.database_backup_info:
    backup_dir: /var/backups/habitat
    id: staging-20261122t100211z-k3f
    check: true
"""

RETURN = r"""
backups:
  description: The backups, newest first by the time they were taken, broken ones last.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Id of the backup.
      type: str
      sample: staging-20261122t100211z-k3f
    dump:
      description: Path of the dump.
      type: str
    taken_at:
      description: Time of the snapshot in UTC by the database's clock.
      type: str
      sample: "2026-11-22T10:02:15.120311Z"
    size:
      description: Size of the dump in bytes.
      type: int
    environment:
      description: Environment the database belongs to.
      type: str
    database:
      description: Name of the database.
      type: str
    ledger_version:
      description: Highest version in the ledger, V(null) without a ledger.
      type: str
      sample: "07"
    form:
      description: V(custom) or V(directory); then the dump is a folder.
      type: str
    tag:
      description: The word the backup was tagged with, V(null) without one; tagged backups are not removed.
      type: str
    proof:
      description: How it was proved when it was taken, V(restore) or V(read).
      type: str
    restore_seconds:
      description: How long restoring and comparing took when it was taken; V(null) when it was only read back.
      type: float
    verified:
      description:
        - Whether the manifest is whole and the dump has the size it tells.
        - With O(check=true) also whether the dump has the checksum it tells.
      type: bool
    problems:
      description: What is wrong with the backup.
      type: list
      elements: str
last_drill:
  description:
    - The last drill of the database, with id, at, ok, seconds, error, operator and run_id; null when there was none.
    - See M(habitat.runbook.backup_drill).
  returned: with O(state_dir)
  type: dict
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.drill_record import read_last
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, find_backup, list_backups


def main() -> None:
    spec = {
        "backup_dir": {"type": "path", "required": True},
        "id": {"type": "str"},
        "check": {"type": "bool", "default": False},
        "state_dir": {"type": "path"},
        "database": {"type": "str"},
    }
    together = [("state_dir", "database")]
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True, required_together=together)
    folder, asked, check = (module.params[key] for key in ("backup_dir", "id", "check"))
    try:
        backups = [find_backup(folder, asked, check)] if asked else list_backups(folder, check)
    except BackupError as error:
        module.fail_json(msg=str(error))
    result: dict[str, Any] = {"backups": [asdict(backup) for backup in backups]}
    if module.params["state_dir"]:
        result["last_drill"] = read_last(Path(module.params["state_dir"]), module.params["database"])
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
