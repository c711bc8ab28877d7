# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Controller side of habitat.runbook.database_salvage: waits for its end and shows what it does meanwhile."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.habitat.runbook.plugins.plugin_utils.watching import run_watched

_JOBS = {"written": "salvage", "imported": "import"}


class ActionModule(ActionBase):
    """Runs what takes long as a job of its own on the host."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = {name: value for name, value in self._task.args.items() if value is not None}
        job = _JOBS.get(arguments.get("state", "written"))
        if job:
            result.update(run_watched(self, arguments, task_vars, job))
        else:
            result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        return result
