# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Read schema/ on the controller and put the parsed plan on the database's host, as one streamed file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.habitat.runbook.plugins.module_utils.bundle_writer import write_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.schema_folder import SchemaFolder, read_schema


def stage(action: ActionBase, schema_dir: str) -> tuple[SchemaFolder, str]:
    """Parse the folder and transfer the plan into the task's temporary folder on the host.

    The action plugin must set TRANSFERS_FILES, so that the folder exists and is removed after the task.
    """
    folder = read_schema(schema_dir)
    remote = action._connection._shell.join_path(action._connection._shell.tmpdir, "plan")
    with tempfile.TemporaryDirectory(prefix="habitat-plan-") as local:
        plan = Path(local) / "plan"
        write_bundle(plan, folder.migrations)
        action._transfer_file(str(plan), remote)
        action._fixup_perms2((action._connection._shell.tmpdir, remote), execute=False)
    return folder, remote


def file_refusals(folder: SchemaFolder) -> list[dict[str, str]]:
    """Problems in the files as refusals: nothing is compared or applied while there is one."""
    return [
        {"what": str(problem), "found": "", "next": "correct the file, then run the same command again"}
        for problem in folder.problems
    ]


def file_warnings(folder: SchemaFolder) -> list[str]:
    """What is odd in the files, as lines for the plan."""
    own = [warning for migration in folder.migrations for warning in migration.warnings]
    return [str(warning) for warning in folder.warnings] + own


def with_files(result: dict[str, Any], folder: SchemaFolder) -> dict[str, Any]:
    """Add what was found in the files to a module's result."""
    result["warnings_in_files"] = file_warnings(folder)
    if folder.problems:
        result["refusals"] = file_refusals(folder)
        result["pending"] = []
    return result
