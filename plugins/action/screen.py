# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Controller side of habitat.runbook.screen: prints, live and as plain text, under any stdout callback."""

from __future__ import annotations

import json
import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.habitat.runbook.plugins.module_utils import (
    backup_screens,
    bootstrap_screen,
    rollback_screens,
    salvage_screen,
    screens,
)
from ansible_collections.habitat.runbook.plugins.plugin_utils.shown import show

SCREENS = {
    "applied": screens.applied,
    "backup": screens.backup,
    "backup_after": backup_screens.backup_after,
    "baseline": screens.baseline,
    "boot_hook": bootstrap_screen.boot_hook,
    "bootstrap": bootstrap_screen.bootstrap,
    "cancelled": screens.cancelled,
    "choices": rollback_screens.choices,
    "copied": backup_screens.copied,
    "drill": backup_screens.drill,
    "drill_begun": backup_screens.drill_begun,
    "healthy": screens.healthy,
    "held": screens.held,
    "left_out": rollback_screens.left_out,
    "nothing": screens.nothing,
    "nothing_to_revert": screens.nothing_to_revert,
    "plan": screens.plan,
    "preflight": screens.preflight,
    "refusals": screens.refusals,
    "resumed": screens.resumed,
    "restored": rollback_screens.restored,
    "revert_plan": rollback_screens.revert_plan,
    "retained": backup_screens.retained,
    "reverted": rollback_screens.reverted,
    "rollback_plan": rollback_screens.rollback_plan,
    "salvage_imported": salvage_screen.salvage_imported,
    "salvage_plan": salvage_screen.salvage_plan,
    "salvaged": salvage_screen.salvaged,
    "starting": screens.starting,
    "stopping": screens.stopping,
    "swapped": rollback_screens.swapped,
    "version": rollback_screens.version,
}


class ActionModule(ActionBase):
    """Shows one screen and tells when it did; fails when the screen says that the run is refused."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {
                "show": {"type": "str", "required": True, "choices": sorted(SCREENS)},
                "data": {"type": "dict", "required": True},
                "output": {"type": "str", "choices": ["table", "json"], "default": "table"},
            }
        )
        now = time.time()
        data = arguments["data"]
        as_json = arguments["output"] == "json"
        text = json.dumps(data, indent=2) if as_json else SCREENS[arguments["show"]](dict(data, now=now))
        if text:
            show(text, task_vars if not as_json else None)
        result.update(changed=False, at=now)
        refused = screens.refused(data) or backup_screens.drill_failure(data)
        if refused:
            result.update(failed=True, msg=refused, said=True)
        return result
