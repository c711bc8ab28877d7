# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Controller side of habitat.runbook.backup_copy: waits for its end and shows what it does meanwhile."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.habitat.runbook.plugins.plugin_utils.watching import run_watched


class ActionModule(ActionBase):
    """Runs the module as a job of its own on the host."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        arguments = {name: value for name, value in self._task.args.items() if value is not None}
        result.update(run_watched(self, arguments, task_vars, "copy"))
        return result
