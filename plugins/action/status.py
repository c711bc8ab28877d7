# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Controller side of habitat.runbook.status: puts together what was read and shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.habitat.runbook.plugins.module_utils import backup_screens, last_run, status_screen
from ansible_collections.habitat.runbook.plugins.plugin_utils import reports
from ansible_collections.habitat.runbook.plugins.plugin_utils.shown import show


class ActionModule(ActionBase):
    """Shows the status as a table or as JSON."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {
                "facts": {"type": "dict", "required": True},
                "reports_dir": {"type": "path", "required": True},
                "output": {"type": "str", "choices": ["table", "json"], "default": "table"},
            }
        )
        facts = arguments["facts"]
        here = newest_report(Path(arguments["reports_dir"]), facts["env"], facts["host"])
        there = facts["around"].get("last_run")
        last = max(filter(None, (there, here)), key=lambda report: report["run"]["id"], default=None)
        data = status_screen.build({"last_drill": None, **facts, "last_run": last})
        as_json = arguments["output"] == "json"
        text = json.dumps(data, indent=2) if as_json else status_screen.status(data, backup_screens.utc_now())
        show(text, None if as_json else task_vars)
        result.update(changed=False, status=data)
        return result


def newest_report(folder: Path, env: str, host: str) -> dict[str, Any] | None:
    """The newest report of a host on this controller; run ids sort by their time."""
    own = reports.of_host(Path(), host)
    for path in sorted([*folder.glob("*/report.json"), *folder.glob(f"*/{own}/report.json")], reverse=True):
        found = last_run.read(path)
        if found and found["run"]["env"] == env and found["host"] == host:
            return found
    return None
