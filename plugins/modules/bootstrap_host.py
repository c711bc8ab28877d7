#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: bootstrap_host
short_description: See whether a host has what the runbook needs there, and make its folders
version_added: 0.1.0
description:
  - Looks for psycopg, client programs and the way to Docker, and makes the folders of the runbook with mode 0700.
  - Needs no rights. What only root could do is returned and not tried.
options:
  folders:
    description: Folders that are to belong to this user alone.
    type: list
    elements: path
    default: []
  programs:
    description: Client programs that have to be there, such as V(pg_dump).
    type: list
    elements: str
    default: []
  bin_dir:
    description: Folder of the client programs; when it is empty they are looked for on the PATH.
    type: str
    default: ""
  docker:
    description: Whether this user has to reach Docker.
    type: bool
    default: false
  complete:
    description: Whether to fail when something is missing.
    type: bool
    default: false
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
- name: See what the host has
  habitat.runbook.bootstrap_host:
    folders: [/var/lib/habitat-runbook, /var/backups/habitat]
    docker: true
"""

RETURN = r"""
user:
  description: Who runs the runbook's steps on this host.
  returned: success
  type: str
python:
  description: The Python that runs them.
  returned: success
  type: str
psycopg:
  description: Version of its psycopg, empty when there is none.
  returned: success
  type: str
programs:
  description: Path of each of O(programs), empty when there is none.
  returned: success
  type: dict
missing:
  description: What has to be installed.
  returned: success
  type: list
  elements: str
folders:
  description: By folder V(ok), V(made), V(closed) (others had access) or V(rights) (only root can make it so).
  returned: success
  type: dict
need_rights:
  description: Those of the folders that only root can make.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils import docker
from ansible_collections.habitat.runbook.plugins.module_utils.bootstrap_host import HostError, prepare


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "folders": {"type": "list", "elements": "path", "default": []},
            "programs": {"type": "list", "elements": "str", "default": []},
            "bin_dir": {"type": "str", "default": ""},
            "docker": {"type": "bool", "default": False},
            "complete": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        if given["docker"]:
            docker.docker("version", "--format={{.Server.Version}}")
        result = prepare(given["folders"], given["programs"], given["bin_dir"], module.check_mode)
    except (docker.DockerError, HostError, OSError) as error:
        module.fail_json(msg=str(error))
    if given["complete"] and result["missing"]:
        module.fail_json(
            msg=f"there is still no {', no '.join(result['missing'])}; install it by hand, then run this again"
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
