# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Controller side of habitat.runbook.schema_migrations: reads and parses schema/ unless preflight already did."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.habitat.runbook.plugins.plugin_utils.staging import file_refusals, stage
from ansible_collections.habitat.runbook.plugins.plugin_utils.watching import run_watched


class ActionModule(ActionBase):
    """Gives the module a plan on the host: the one preflight kept, or a new one made of schema_dir."""

    @property
    def TRANSFERS_FILES(self) -> bool:
        """Whether a temporary folder is needed on the host: not for a plan that is there already."""
        return not self._task.args.get("plan")

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = {name: value for name, value in self._task.args.items() if value is not None}
        if not arguments.get("plan"):
            folder, arguments["plan"] = stage(self, arguments["schema_dir"])
            if folder.problems:
                result.update(failed=True, msg=str(folder.problems[0]), refusals=file_refusals(folder))
                return result
        result.update(run_watched(self, arguments, task_vars, str(arguments.get("state", "applied"))))
        return result
