#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_copy
short_description: Copy a backup off its host and read it back there
version_added: 0.1.0
description:
  - Copies dump, globals and manifest of a backup into a folder (a disk of another machine that is mounted here), or has
    a program copy them. Then the copy is read back, and its checksum has to be that of the manifest.
  - Programs are given their words as they are, without a shell. Everybody on the host can see the words, so passwords
    belong into the programs' own configuration. Of what a program prints only one line is shown, when it fails.
  - In check mode it is looked whether the folder and the programs are there.
options:
  backup:
    description: Id of the backup.
    type: str
    required: true
  backup_dir:
    description: Folder of the backups on the host.
    type: path
    required: true
  folder:
    description:
      - Folder to copy into. It has to be there. The manifest comes last, and what is half copied carries C(.part).
      - A backup that is there already is not copied again.
    type: path
  command:
    description:
      - Words of the command that copies. V({id}) is the backup's id, V({dump}), V({manifest}) and V({globals}) are the
        paths of its files; in the directory form V({dump}) is a folder.
    type: list
    elements: str
  verify:
    description:
      - Words of the command that reads the copy and prints its SHA-256 as C(sha256sum) does. In the directory form it
        prints one line for each file of the dump.
    type: list
    elements: str
  to:
    description: What the place is called on the screen; the folder, or the name of the program, when left out.
    type: str
  time_limit:
    description: Seconds after which a command is ended.
    type: float
    default: 3600
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
"""

EXAMPLES = r"""
- name: Copy a backup to a disk of another machine
  habitat.runbook.backup_copy:
    backup: staging-20261122t100211z-k3f
    backup_dir: /var/backups/habitat
    folder: /mnt/vault/habitat
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f

- name: Copy a backup by rsync
  habitat.runbook.backup_copy:
    backup: staging-20261122t100211z-k3f
    backup_dir: /var/backups/habitat
    command: [rsync, -a, "{dump}", "{globals}", "{manifest}", "backup@vault:/srv/habitat/"]
    verify: [ssh, backup@vault, sha256sum, "/srv/habitat/{id}.dump"]
    to: vault:/srv/habitat
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
"""

RETURN = r"""
to:
  description: What the place is called.
  returned: always
  type: str
  sample: vault:/srv/habitat
seconds:
  description: How long copying and reading back took.
  returned: success and not in check mode
  type: float
notes:
  description: What is odd about the place, as clauses.
  returned: success
  type: list
  elements: str
"""

import functools
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils import jobs
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connection_parameters,
    database_argument_spec,
    open_connection,
    require_psycopg,
)
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, find_backup, read
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import Ended


def copy(module: AnsibleModule, place: str) -> dict[str, Any]:
    """Copy and read back, or in check mode see whether that could be begun. Raises BackupError."""
    from ansible_collections.habitat.runbook.plugins.module_utils import lock_session, off_host, run_folder

    given, notes = module.params, []
    backup_dir = Path(given["backup_dir"])
    if given["folder"]:
        notes = off_host.check_folder(Path(given["folder"]), backup_dir)
    else:
        off_host.check_commands(given["command"], given["verify"])
    if module.check_mode:
        return {"changed": True, "notes": notes}
    started = time.monotonic()
    with open_connection(module, connection_parameters(module, given["run_id"])) as connection:
        lock_session.require(connection, given["login_db"], given["run_dir"], given["run_id"])
    found = find_backup(backup_dir, given["backup"])
    if not found.verified:
        raise BackupError(f"backup {found.id} cannot be copied: {'; '.join(found.problems)}")
    told, changed = read(Path(found.dump).with_suffix(".json")), True
    with run_folder.step_of(given["run_dir"], "COPY", to=place):
        if given["folder"]:
            changed = off_host.into_folder(backup_dir, told, Path(given["folder"]))
        else:
            off_host.by_command(backup_dir, told, given["command"], given["verify"], given["time_limit"])
    return {"changed": changed, "notes": notes, "seconds": round(time.monotonic() - started, 3)}


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        backup={"type": "str", "required": True},
        backup_dir={"type": "path", "required": True},
        folder={"type": "path"},
        command={"type": "list", "elements": "str"},
        verify={"type": "list", "elements": "str"},
        to={"type": "str"},
        time_limit={"type": "float", "default": 3600},
        **jobs.OPTIONS,
    )
    module = AnsibleModule(
        argument_spec=spec,
        supports_check_mode=True,
        mutually_exclusive=[("folder", "command")],
        required_one_of=[("folder", "command")],
        required_together=[("command", "verify")],
    )
    require_psycopg(module)
    jobs.run(module, "copy", functools.partial(work, module))


def work(module: AnsibleModule) -> None:
    import psycopg

    given = module.params
    place = given["to"] or given["folder"] or " ".join(given["command"][:1])
    try:
        result = copy(module, place)
    except (BackupError, Ended, OSError, psycopg.Error) as error:
        module.fail_json(msg=" ".join(str(error).split()), to=place)
    module.exit_json(to=place, **result)


if __name__ == "__main__":
    main()
