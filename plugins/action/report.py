# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Controller side of habitat.runbook.report: judges the run, writes its report, prints its end."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.habitat.runbook.plugins.module_utils import report, verdict


class ActionModule(ActionBase):
    """Fails when the run did not succeed, after everything was said and written."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            {"reports_dir": {"type": "path", "required": True}, "facts": {"type": "dict", "required": True}}
        )
        facts = report.gather(arguments["facts"])
        judged = verdict.judge(facts)
        written = report.build(facts, judged, datetime.now(timezone.utc).isoformat())
        folder = Path(arguments["reports_dir"]) / facts["run"]["id"]
        if not self._task.check_mode:
            write_report(folder, written)
            Display().display(report.result_screen(written, os.path.relpath(folder / "report.md")))
        elif judged.outcome == verdict.SUCCEEDED:
            Display().display("CHECK     this is what a run would do; nothing was changed")
        else:
            Display().display(report.result_screen(written, None))
        result.update(changed=True, outcome=judged.outcome, report=str(folder / "report.json"))
        if judged.outcome != verdict.SUCCEEDED:
            result.update(failed=True, said=True, msg=f"{judged.outcome}: {judged.state}")
        return result


def write_report(folder: Path, written: dict[str, Any]) -> None:
    """Write report.json and report.md, readable by this user only: a statement in them may show data."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, text in (("report.json", json.dumps(written, indent=2)), ("report.md", report.markdown(written))):
        with os.fdopen(
            os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as handle:
            handle.write(text + "\n")
