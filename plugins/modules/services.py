#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: services
short_description: Read, stop and start the services that write to the database
version_added: 0.1.0
description:
  - Works on all processes in one call, through Supervisor's own interface, since every call counts while the
    application is down.
  - Stopping and starting is limited to the processes named; what is already as wanted is left alone.
options:
  state:
    description: V(read) changes nothing and tells which run.
    type: str
    choices: [read, stopped, started]
    default: read
  names:
    description: Processes (V(group:process)) or whole groups (V(group:)).
    type: list
    elements: str
    required: true
  server_url:
    description: Address of Supervisor's interface, such as V(unix:///run/supervisor.sock).
    type: str
    required: true
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
- name: See which services run
  habitat.runbook.services:
    names: ["habitat:"]
    server_url: unix:///run/supervisor.sock
  register: found

- name: Stop exactly those
  habitat.runbook.services:
    state: stopped
    names: "{{ found.running }}"
    server_url: unix:///run/supervisor.sock
"""

RETURN = r"""
running:
  description: Processes that ran before the module did anything.
  returned: success
  type: list
  elements: str
stopped:
  description: Processes that did not run before the module did anything.
  returned: success
  type: list
  elements: str
"""

import socket
from http.client import HTTPConnection, HTTPException
from typing import Any
from xmlrpc.client import ServerProxy, Transport

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.services import (
    ServiceError,
    read_services,
    start_services,
    stop_services,
)

UNIX = "unix://"


class UnixTransport(Transport):
    """XML-RPC over a Unix socket. Supervisor's own transport would load all of Supervisor, 0.12 s in the window."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def make_connection(self, host: Any) -> HTTPConnection:
        connection = HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(self.path)
        return connection


def interface(url: str) -> Any:
    """Supervisor's interface at a Unix socket or an http address."""
    if url.startswith(UNIX):
        return ServerProxy("http://localhost/RPC2", transport=UnixTransport(url[len(UNIX) :]))
    return ServerProxy(f"{url.rstrip('/')}/RPC2")


def work(orders: Any, state: str, names: list[str], check: bool) -> dict[str, Any]:
    found = read_services(orders, names)
    if state == "stopped":
        changed = bool(found["running"] if check else stop_services(orders, found["running"]))
    elif state == "started":
        changed = bool(found["stopped"] if check else start_services(orders, found["stopped"]))
    else:
        changed = False
    return dict(found, changed=changed)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["read", "stopped", "started"], "default": "read"},
            "names": {"type": "list", "elements": "str", "required": True},
            "server_url": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    url = module.params["server_url"]
    try:
        result = work(interface(url).supervisor, module.params["state"], module.params["names"], module.check_mode)
    except ServiceError as error:
        module.fail_json(msg=str(error))
    except (OSError, HTTPException) as error:
        module.fail_json(msg=f"Supervisor does not answer at {url}: {error}; start it, then run the same command again")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
