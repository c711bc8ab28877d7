# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Controller side of habitat.runbook.schema_migrations_info: reads and parses schema/."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.habitat.runbook.plugins.plugin_utils.staging import stage, with_files


class ActionModule(ActionBase):
    """Stages the parsed files on the host and lets the module compare them with the ledger."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        folder, plan = stage(self, self._task.args["schema_dir"])
        arguments = dict(self._task.args, plan=plan)
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        return result if result.get("failed") else with_files(result, folder)
