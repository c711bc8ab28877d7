#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_retention
short_description: Remove old backups that nothing refers to
version_added: 0.1.0
description:
  - Keeps the newest O(keep) verified backups of a database and environment, and of the older ones those that are
    tagged, those that the ledger or a kept copy of the database refers to, and the one that C(-e backup=latest) means.
    The others are removed.
  - What is not usable is neither counted nor removed, nor is a backup of another environment or database.
  - A removal that was cut off is finished by the next one. At no moment is there a manifest without its dump.
options:
  backup_dir:
    description: Folder of the backups on the host.
    type: path
    required: true
  keep:
    description: How many of the newest verified backups stay in any case; V(0) keeps all.
    type: int
    default: 14
  taken:
    description: Id of the backup this run has taken, or in check mode would take. It counts, and is never removed.
    type: str
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
    support: full
seealso:
  - module: habitat.runbook.database_backup
  - module: habitat.runbook.database_backup_info
"""

EXAMPLES = r"""
- name: Keep the newest fourteen
  habitat.runbook.backup_retention:
    backup_dir: /var/backups/habitat
    keep: 14
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
    run_dir: /var/lib/habitat-runbook/20261122t100211z-k3f
"""

RETURN = r"""
removed:
  description: The backups that were removed, or would be in check mode, newest first.
  returned: always
  type: list
  elements: dict
  contains:
    id:
      description: Id of the backup.
      type: str
      sample: staging-20260822t100211z-k3f
    reason:
      description: Why it may go.
      type: str
      sample: there are 14 newer ones, and nothing refers to it
    size:
      description: Size of its dump in bytes.
      type: int
kept:
  description: The backups that stay, newest first, those that are not usable last; with the same keys.
  returned: always
  type: list
  elements: dict
finished:
  description: Ids of backups whose removal had been cut off and was finished, or would be in check mode.
  returned: always
  type: list
  elements: str
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connection_parameters,
    database_argument_spec,
    open_connection,
    require_psycopg,
)
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import Ended


def retain(module: AnsibleModule, result: dict[str, Any]) -> None:
    """Decide and remove; ``result`` says at any moment what was done so far."""
    from ansible_collections.habitat.runbook.plugins.module_utils import (
        backup_removal,
        lock_session,
        manifest,
        references,
        retention,
        run_folder,
    )
    from ansible_collections.habitat.runbook.plugins.module_utils import history as of_database

    given, folder = module.params, Path(module.params["backup_dir"])
    with open_connection(module, connection_parameters(module, given["run_id"])) as connection:
        referred = references.read_references(connection, given["login_db"], given["env"])
        last_commit = of_database.last_commit(connection)
        listed = manifest.list_backups(folder)
        backups = [one for one in listed if retention.is_of(one, given["env"], given["login_db"])]
        if module.check_mode and given["taken"]:
            # As if it was there already, so that what is foretold is what happens.
            backups.append(manifest.Backup(given["taken"], "", True, (), taken_at=run_folder.utc_now()))
        choices = retention.decide(backups, given["keep"], referred, last_commit, given["taken"])
        result["kept"] = [_told(one) for one in choices if one.keep]
        going = [_told(one) for one in choices if not one.keep]
        if module.check_mode:
            result.update(removed=going, finished=backup_removal.half_removed(folder))
            return
        lock_session.require(connection, given["login_db"], given["run_dir"], given["run_id"])
        with run_folder.step_of(given["run_dir"], "RETAIN", ids=[one["id"] for one in going]):
            result["finished"] = backup_removal.finish(folder)
            for one in going:
                backup_removal.remove(folder, one["id"])
                result["removed"].append(one)


def _told(choice: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(choice).items() if name != "keep"}


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        backup_dir={"type": "path", "required": True},
        keep={"type": "int", "default": 14},
        taken={"type": "str"},
        run_dir={"type": "path", "required": True},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    if module.params["keep"] < 0:
        module.fail_json(msg=f"keep is {module.params['keep']}; expected a number of backups, or 0 to keep all")
    require_psycopg(module)
    import psycopg

    result: dict[str, Any] = {"removed": [], "kept": [], "finished": []}
    try:
        retain(module, result)
    except (BackupError, Ended, OSError, psycopg.Error) as error:
        done = bool(result["removed"] or result["finished"])
        module.fail_json(msg=" ".join(str(error).split()), changed=done, **result)
    if module._diff:
        stay, went = ([one["id"] for one in result[name]] for name in ("kept", "removed"))
        before = sorted([*stay, *went, *result["finished"]], reverse=True)
        result["diff"] = {
            "before": "".join(f"{one}\n" for one in before),
            "after": "".join(f"{one}\n" for one in sorted(stay, reverse=True)),
        }
    module.exit_json(changed=bool(result["removed"] or result["finished"]), **result)


if __name__ == "__main__":
    main()
