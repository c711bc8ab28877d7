# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Wait for a long step that works on by itself on the host, and show meanwhile what it does."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.habitat.runbook.plugins.module_utils.screens import progress
from ansible_collections.habitat.runbook.plugins.plugin_utils.shown import show

TERMINAL_SECONDS, LOG_SECONDS = 2.0, 30.0
"""How often there is a line of progress: on a terminal, and in a log."""

LINK_SECONDS = 120.0
"""How long a link that is lost is tried again. The step goes on meanwhile, and its guard sees that it does."""

_RETRY_SECONDS = 2.0
_LOST = "  warn  the link to the host is lost; the step goes on there, trying again"
_PLACE = ("login_db", "env", "run_id", "run_dir", "container")


def run_watched(
    action: ActionBase, arguments: dict[str, Any], task_vars: dict[str, Any] | None, job: str
) -> dict[str, Any]:
    """Run the task's module, as a job if it takes long, and return its result.

    job: its name on the host.
    """
    every = TERMINAL_SECONDS if on_terminal() else LOG_SECONDS
    started = time.monotonic()
    look = {name: value for name, value in arguments.items() if name in _PLACE or name.startswith("login_")}
    look.update(wait=every, name=job)
    try:
        result = action._execute_module(module_args={**arguments, "wait": every}, task_vars=task_vars)
    except AnsibleConnectionFailure:
        if not arguments.get("run_dir"):
            raise
        show(_LOST, task_vars)
        result = _look(action, look, task_vars, told=True)
        if result.get("result", {}).get("gone"):
            raise
    warned = False
    while result.get("running"):
        show(progress(job, time.monotonic() - started, result.get("progress", [])), task_vars)
        warned = warned or _warn(result.get("warning"), task_vars)
        result = _look(action, look, task_vars)
    return result.get("result", result)


def on_terminal() -> bool:
    """Whether somebody watches: a worker's own streams lead nowhere, those of its parent are the playbook's."""
    try:
        return str(Path(f"/proc/{os.getppid()}/fd/1").readlink()).startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False


def _look(
    action: ActionBase, look: dict[str, Any], task_vars: dict[str, Any] | None, told: bool = False
) -> dict[str, Any]:
    deadline = time.monotonic() + LINK_SECONDS
    while True:
        try:
            return action._execute_module("habitat.runbook.job", look, task_vars=task_vars)
        except AnsibleConnectionFailure:
            if time.monotonic() > deadline:
                raise
            if not told:
                show(_LOST, task_vars)
            told = True
            time.sleep(_RETRY_SECONDS)
            action._connection.reset()


def _warn(warning: dict[str, Any] | None, task_vars: dict[str, Any] | None) -> bool:
    if warning:
        so_far, ends = (round(warning[name] / 60) for name in ("open_for", "ends_at"))
        text = f"the services are stopped for {so_far} min; after {ends} min the guard ends the run"
        show(f"  warn  {text}", task_vars)
    return bool(warning)
