# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Controller side of habitat.runbook.environment."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterable
from typing import Any

from ansible import context
from ansible.parsing.splitter import parse_kv
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible.utils.vars import load_extra_vars
from ansible_collections.habitat.runbook.plugins.module_utils.adoption import typed
from ansible_collections.habitat.runbook.plugins.module_utils.choice import environment_of, reduce_backup
from ansible_collections.habitat.runbook.plugins.module_utils.inputs import (
    Refused,
    check_environment,
    check_inputs,
    check_required,
    new_run_id,
    plain,
)
from ansible_collections.habitat.runbook.plugins.module_utils.screens import refusal


class ActionModule(ActionBase):
    """Refuses a wrong environment or input before anything else happens, and names the run."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _, arguments = self.validate_argument_spec(
            {
                "inputs": {"type": "list", "elements": "str", "required": True},
                "required": {"type": "list", "elements": "str", "default": []},
                "harmless": {"type": "bool", "default": False},
            }
        )
        try:
            given = whole_reason(load_extra_vars(self._loader), context.CLIARGS.get("extra_vars") or ())
            inputs = _with_environment(check_inputs(given, arguments["inputs"]))
            groups = {name: hosts for name, hosts in task_vars["groups"].items() if name not in ("all", "ungrouped")}
            limit = task_vars.get("ansible_limit")
            # Without a way to go the playbook that rolls back only lists the ways.
            chooses = {"backup", "output"} <= set(arguments["inputs"])
            only_lists = chooses and not {"backup", "to", "steps"} & set(inputs)
            confirmed = "confirm" in arguments["inputs"] and not (only_lists or arguments["harmless"])
            env = check_environment(inputs, groups, task_vars["hostvars"], limit, confirmed)
            check_required(inputs, arguments["inputs"], arguments["required"])
        except Refused as refused:
            Display().display(refusal(refused.what, refused.found, refused.next))
            result.update(failed=True, msg=refused.what, said=True, refusal=refused.as_data())
            return result
        run = {
            "id": new_run_id(),
            "env": env,
            "operator": operator(given),
            "origin": origin(given),
            "serial": task_vars["hostvars"][groups[env][0]].get("habitat_serial", 1),
            "inputs": {name: inputs[name] for name in sorted(inputs)},
            "check": bool(task_vars.get("ansible_check_mode")),
            "command": context.CLIARGS.get("args", ("",))[0],
        }
        result.update(changed=False, ansible_facts={"habitat_run": run})
        return result


def whole_reason(given: dict[str, Any], options: Iterable[str]) -> dict[str, Any]:
    """The inputs with the reason as one text: Ansible takes ``reason=two words`` apart at the blank."""
    name = "reason="
    for option in options:
        if option.startswith(name) and set(parse_kv(option)) == {"reason", "_raw_params"}:
            text = option[len(name) :].strip()
            return {**{key: value for key, value in given.items() if key != "_raw_params"}, "reason": text}
    return given


def _with_environment(inputs: dict[str, str]) -> dict[str, str]:
    """The inputs with the backup reduced to its id, which names its environment."""
    if "backup" not in inputs:
        return inputs
    backup = reduce_backup(inputs["backup"])
    implied = environment_of(backup)
    env = inputs.get("env", implied)
    if implied and env != implied and "adopt_identity" not in inputs:
        next = f"leave -e env= out; or, to make it one of {plain(env)}'s: add {typed(plain(env))}"
        raise Refused(f"backup {backup} is of environment {implied}", f"env is {plain(env)}", next)
    return {**inputs, "backup": backup, **({"env": env} if env else {})}


def operator(given: dict[str, Any]) -> str:
    """The person behind the run: as AWX or the CI job says, else who is logged in."""
    named = given.get("awx_user_name") or given.get("tower_user_name") or os.environ.get("GITHUB_ACTOR")
    return str(named or os.environ.get("SUDO_USER") or _logged_in())


def _logged_in() -> str:
    """The user's name; a container may run as a number that has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def origin(given: dict[str, Any]) -> str:
    """Where the run comes from: an AWX job, a GitHub run, or a host."""
    job = given.get("awx_job_id") or given.get("tower_job_id")
    if job:
        return f"AWX job {job}"
    if os.environ.get("GITHUB_RUN_ID"):
        return f"GitHub run {os.environ['GITHUB_RUN_ID']}"
    return socket.gethostname()
