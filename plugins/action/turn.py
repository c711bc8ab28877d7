# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Controller side of habitat.runbook.turn: begins no further host after one that did not succeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.habitat.runbook.plugins.module_utils import fleet
from ansible_collections.habitat.runbook.plugins.module_utils.screens import refusal
from ansible_collections.habitat.runbook.plugins.plugin_utils import reports
from ansible_collections.habitat.runbook.plugins.plugin_utils.shown import show


class ActionModule(ActionBase):
    """Fails when another host of the same run has failed."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {"reports_dir": {"type": "path", "required": True}, "run_id": {"type": "str", "required": True}}
        )
        folder = Path(arguments["reports_dir"]) / arguments["run_id"]
        why = fleet.stopped_by(reports.of_hosts(folder), reports.begun(task_vars or {}))
        result.update(changed=False)
        if why:
            show(refusal(why, "", "put that right first, then run the same command again"), task_vars)
            result.update(failed=True, said=True, msg=why)
        return result
