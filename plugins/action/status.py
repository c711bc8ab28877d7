# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Controller side of habitat.runbook.status: puts together what was read and shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.habitat.runbook.plugins.module_utils import status_screen


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
        data = status_screen.build(dict(facts, last_run=newest_report(Path(arguments["reports_dir"]), facts["env"])))
        as_json = arguments["output"] == "json"
        Display().display(json.dumps(data, indent=2) if as_json else status_screen.status(data))
        result.update(changed=False, status=data)
        return result


def newest_report(folder: Path, env: str) -> dict[str, Any] | None:
    """The newest run's report of an environment on this controller; run ids sort by their time."""
    for path in sorted(folder.glob("*/report.json"), reverse=True):
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if found.get("run", {}).get("env") == env:
            return {name: found[name] for name in ("run", "outcome", "schema", "finished_at", "state", "next")}
    return None
