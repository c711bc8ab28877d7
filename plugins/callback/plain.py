# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: plain
type: stdout
short_description: Show the runbook's own screens and nothing else
version_added: 0.1.0
description:
  - Leaves out the banners and results of single tasks; what the runbook has to say, its screens say.
  - A failure that no screen explains is shown as one line. With C(-v) everything is shown as by the default callback.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

from typing import Any

from ansible.executor.task_result import TaskResult
from ansible.playbook.block import Block
from ansible.plugins.callback.default import CallbackModule as Default
from ansible_collections.habitat.runbook.plugins.filter.reason import reason
from ansible_collections.habitat.runbook.plugins.module_utils.inputs import plain
from ansible_collections.habitat.runbook.plugins.module_utils.screens import refusals


class CallbackModule(Default):
    """The default callback, silent about what goes well."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "habitat.runbook.plain"

    def __init__(self) -> None:
        super().__init__()
        self._json = False
        self._env = ""
        self._several = False

    @property
    def _quiet(self) -> bool:
        return self._display.verbosity == 0

    def v2_playbook_on_play_start(self, play: Any) -> None:
        known = play.get_variable_manager()
        self._several = len(known.get_vars(play=play).get("ansible_play_hosts_all", ())) > 1
        given = known.extra_vars
        self._json = given.get("output") == "json"
        if "env" in given:
            self._env = f" -e env={plain(given['env'])}"
        if not self._quiet:
            super().v2_playbook_on_play_start(play)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        if not self._quiet:
            super().v2_playbook_on_task_start(task, is_conditional)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        if not self._quiet:
            super().v2_playbook_on_include(included_file)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        self._display.display("REFUSED   no host matched; nothing was changed")

    def v2_runner_on_ok(self, result: TaskResult) -> None:
        # A backup's id names the environment, too.
        run = result._result.get("ansible_facts", {}).get("habitat_run")
        if run:
            self._env = f" -e env={run['env']}"
        if not self._quiet:
            super().v2_runner_on_ok(result)

    def v2_runner_on_skipped(self, result: TaskResult) -> None:
        if not self._quiet:
            super().v2_runner_on_skipped(result)

    def v2_runner_item_on_ok(self, result: TaskResult) -> None:
        if not self._quiet:
            super().v2_runner_item_on_ok(result)

    def v2_runner_item_on_skipped(self, result: TaskResult) -> None:
        if not self._quiet:
            super().v2_runner_item_on_skipped(result)

    def v2_runner_retry(self, result: TaskResult) -> None:
        if not self._quiet:
            super().v2_runner_retry(result)

    def v2_runner_item_on_failed(self, result: TaskResult) -> None:
        if not self._quiet:
            super().v2_runner_item_on_failed(result)

    def v2_runner_on_failed(self, result: TaskResult, ignore_errors: bool = False) -> None:
        if not self._quiet:
            super().v2_runner_on_failed(result, ignore_errors)
        elif not (ignore_errors or result._result.get("said") or _is_rescued(result._task)):
            text = _explanation(result._task.get_name(), result._result)
            self._display.display(f"{result._host.get_name()} | {text}" if self._several else text)

    def v2_runner_on_unreachable(self, result: TaskResult) -> None:
        if self._quiet:
            self._display.display(f"FAILED    {result._host.get_name()} cannot be reached: {reason(result._result)}")
            self._display.display(f"  what became of it: ansible-playbook playbooks/status.yml{self._env}")
        else:
            super().v2_runner_on_unreachable(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if not self._json:
            super().v2_playbook_on_stats(stats)


def _is_rescued(task: Any) -> bool:
    """Whether the playbook itself deals with the failure and says so at its end."""
    inside, parent = {task._uuid}, task._parent
    while parent is not None:
        if isinstance(parent, Block) and parent.rescue and inside & {one._uuid for one in parent.block}:
            return True
        inside.add(parent._uuid)
        parent = parent._parent
    return False


def _explanation(task: str, result: dict[str, Any]) -> str:
    return refusals(result) if result.get("refusals") else f"FAILED    {task}: {reason(result)}"
