# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Controller side of habitat.runbook.report: judges the run, writes its report here and there, prints its end."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.habitat.runbook.plugins.filter.reason import reason
from ansible_collections.habitat.runbook.plugins.module_utils import fleet, report, verdict
from ansible_collections.habitat.runbook.plugins.plugin_utils import reports
from ansible_collections.habitat.runbook.plugins.plugin_utils.shown import show


class ActionModule(ActionBase):
    """Fails when the run did not succeed, after everything was said and written."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _, arguments = self.validate_argument_spec(
            {
                "reports_dir": {"type": "path", "required": True},
                "host_dir": {"type": "path", "required": True},
                "facts": {"type": "dict", "required": True},
            }
        )
        facts = report.gather(arguments["facts"])
        judged = verdict.judge(facts)
        written = report.build(facts, judged, datetime.now(timezone.utc).isoformat())
        folder = Path(arguments["reports_dir"]) / facts["run"]["id"]
        hosts = task_vars["groups"][facts["run"]["env"]]
        own = reports.of_host(folder, facts["host"]) if len(hosts) > 1 else folder
        if not self._task.check_mode:
            reports.write(own, written, report.markdown(written))
            show(report.result_screen(written, shortest(own / "report.md")), task_vars)
            if len(hosts) > 1:
                show(combined(folder, hosts, reports.begun(task_vars)), None)
            self.keep_on_host(written, arguments["host_dir"], task_vars)
        elif judged.outcome == verdict.SUCCEEDED:
            show("CHECK     this is what a run would do; nothing was changed", task_vars)
        else:
            show(report.result_screen(written, None), task_vars)
        result.update(changed=True, outcome=judged.outcome, report=str(own / "report.json"))
        if judged.outcome != verdict.SUCCEEDED:
            result.update(failed=True, said=True, msg=f"{judged.outcome}: {judged.state}")
        return result

    def keep_on_host(self, written: dict[str, Any], host_dir: str, task_vars: dict[str, Any]) -> None:
        """Write the report on the host, too. That it could not be kept there does not change how the run ended."""
        arguments = {"host_dir": host_dir, "written": written, "text": report.markdown(written)}
        try:
            kept = self._execute_module("habitat.runbook.report", arguments, task_vars=task_vars)
        except AnsibleConnectionFailure as error:
            kept = {"failed": True, "msg": str(error)}
        if kept.get("failed"):
            show(f"  warn  the report could not be kept on {written['host']}: {reason(kept)}", task_vars)


def shortest(path: Path) -> str:
    """The path as it is typed from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def combined(folder: Path, hosts: list[str], begun: dict[str, str]) -> str:
    """Write the report over all hosts and return its table."""
    with reports.alone(folder):
        whole = fleet.combine(reports.of_hosts(folder), hosts, begun)
        reports.write(folder, whole, fleet.markdown(whole))
    return fleet.screen(whole)
