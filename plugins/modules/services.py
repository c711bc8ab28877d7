#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: services
short_description: Read, stop and start the services that write to the database
version_added: 0.1.0
description:
  - Works on all services in one call, since every call counts while the application is down, and looks afterwards
    whether they are as ordered.
  - Stopping and starting is limited to the services named; what is already as wanted is left alone.
  - No container and no unit is made, changed or removed; with Compose, existing containers are stopped and started.
options:
  manager:
    description: What starts and watches the services on the host.
    type: str
    choices: [supervisor, compose, systemd]
    required: true
  state:
    description: V(read) changes nothing and tells which run.
    type: str
    choices: [read, stopped, started]
    default: read
  names:
    description:
      - With O(manager=supervisor) processes (V(group:process)) or whole groups (V(group:)).
      - With O(manager=compose) services, which stands for all containers of a service, or containers.
      - With O(manager=systemd) units; name the sockets and timers that start a unit as well.
    type: list
    elements: str
    required: true
  server_url:
    description: Address of Supervisor's interface, such as V(unix:///run/supervisor.sock).
    type: str
  folder:
    description: Folder in which C(docker compose up) was called.
    type: path
  file:
    description: Name of the Compose file, relative to O(folder); several have commas between them.
    type: str
  scope:
    description: V(system) for units of the system, V(user) for those of the user who is logged in.
    type: str
    choices: [system, user]
    default: system
  log_lines:
    description:
      - How many lines from the end of each service's log are returned.
      - Supervisor keeps two logs of a process, stdout and stderr, and this many lines of each are returned.
    type: int
    default: 0
  log_since:
    description:
      - Only lines of the logs that are newer than this, in seconds since the epoch by the host's clock.
      - Supervisor keeps no times, so it does not count there.
    type: float
  run_dir:
    description:
      - Folder of the run on the host. The run's guard sees there that a step is at work, and starts again what was
        stopped when the run goes silent.
      - When it is given, nothing is done once the run was ended.
    type: path
author:
  - The Habitat team (@habitat)
attributes:
  check_mode:
    description: Can run in check_mode and return changed status prediction without modifying target.
    support: full
  diff_mode:
    description: Will return details on what has changed, or would change in check mode, when in diff mode.
    support: none
"""

EXAMPLES = r"""
- name: See which services run under Supervisor
  habitat.runbook.services:
    manager: supervisor
    server_url: unix:///run/supervisor.sock
    names: ["habitat:"]
  register: found

- name: See which containers run
  habitat.runbook.services:
    manager: compose
    folder: /srv/habitat
    file: docker-compose.prod.yml
    names: [api, worker]
  register: found

- name: Stop exactly those
  habitat.runbook.services:
    state: stopped
    manager: compose
    folder: /srv/habitat
    file: docker-compose.prod.yml
    names: "{{ found.running }}"

- name: Start units and show what they write
  habitat.runbook.services:
    state: started
    manager: systemd
    names: [habitat-api.service, habitat-worker.service]
    log_lines: 20
"""

RETURN = r"""
running:
  description: Processes, containers or units that ran before the module did anything.
  returned: success
  type: list
  elements: str
  sample: [habitat-api-1, habitat-worker-1]
stopped:
  description: Processes, containers or units that did not run before the module did anything.
  returned: success
  type: list
  elements: str
begun_at:
  description: When the module began, in seconds since the epoch by this host's clock.
  returned: success
  type: float
start_with:
  description: What is typed on the host to start all of them by hand.
  returned: success
  type: str
  sample: docker start habitat-api-1 habitat-worker-1
logs:
  description:
    - The last lines of each service's log after everything else, by its name in RV(running) or RV(stopped).
    - Control characters are written out, and lines are cut at 300 characters.
    - A log that cannot be read is one line in brackets that says why.
  returned: success
  type: dict
  sample: {habitat-api-1: [listening on port 8000]}
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import Ended, require_guard, step_of
from ansible_collections.habitat.runbook.plugins.module_utils.services import (
    ServiceError,
    read_logs,
    read_services,
    start_services,
    stop_services,
)
from ansible_collections.habitat.runbook.plugins.module_utils.services_kinds import OPTIONS, manager_of

_VERBS = {"stopped": (stop_services, "STOP", "running"), "started": (start_services, "START", "stopped")}


def work(options: dict[str, Any], check: bool) -> dict[str, Any]:
    manager, names, state = manager_of(options), options["names"], options["state"]
    changed, begun_at = False, time.time()
    if state in _VERBS:
        act, phase, to_do = _VERBS[state]
        told = {"names": names, "manager": {name: options[name] for name in OPTIONS}}
        run_dir = None if check else options["run_dir"]
        if state == "stopped":
            require_guard(run_dir)
        with step_of(run_dir, phase, **told) as after:
            found = act(manager, names, check)
            after["names"] = names
        changed = bool(found[to_do])
    else:
        found = read_services(manager, names)
    start_with = manager.command_to_start(found["running"] + found["stopped"])
    logs = read_logs(manager, found, options["log_lines"], options["log_since"])
    return dict(found, changed=changed, begun_at=begun_at, start_with=start_with, logs=logs)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "manager": {"type": "str", "choices": ["supervisor", "compose", "systemd"], "required": True},
            "state": {"type": "str", "choices": ["read", "stopped", "started"], "default": "read"},
            "names": {"type": "list", "elements": "str", "required": True},
            "server_url": {"type": "str"},
            "folder": {"type": "path"},
            "file": {"type": "str"},
            "scope": {"type": "str", "choices": ["system", "user"], "default": "system"},
            "log_lines": {"type": "int", "default": 0},
            "log_since": {"type": "float"},
            "run_dir": {"type": "path"},
        },
        required_if=[("manager", "supervisor", ["server_url"]), ("manager", "compose", ["folder", "file"])],
        supports_check_mode=True,
    )
    try:
        result = work(module.params, module.check_mode)
    except (ServiceError, Ended) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
