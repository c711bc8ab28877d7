#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: report
short_description: Judge a run, write its report and show how it ended
version_added: 0.1.0
description:
  - Runs last in every run, whatever happened before.
  - Writes C(report.json) and C(report.md) into a folder named after the run, readable by the user only, on the
    controller and on the host, since a controller's checkout may be thrown away.
  - Where the environment has several hosts there is one such folder per host in it, and one report over all of them.
  - Fails when the run did not succeed, so that the exit code says so.
options:
  reports_dir:
    description: Folder of all reports on the controller.
    type: path
    required: true
  host_dir:
    description: Folder of all reports on the host.
    type: path
    required: true
  facts:
    description: What the steps of the run returned; what did not run is null.
    type: dict
    required: true
  written:
    description: The report for the host. Set by the controller's side of this module.
    type: dict
  text:
    description: The same for people. Set by the controller's side of this module.
    type: str
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
- name: Write the report
  habitat.runbook.report:
    reports_dir: reports
    host_dir: /var/lib/habitat-runbook/reports
    facts: "{{ report_facts }}"
"""

RETURN = r"""
outcome:
  description: One of succeeded, refused, stopped_safe, rolled_back, needs_operator.
  returned: always
  type: str
report:
  description: Path of the written C(report.json).
  returned: always
  type: str
said:
  description: Whether the failure was already explained on the screen.
  returned: when failed
  type: bool
"""

import json
import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "host_dir": {"type": "path", "required": True},
            "written": {"type": "dict", "required": True},
            "text": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    host_dir = Path(module.params["host_dir"])
    folder = host_dir / module.params["written"]["run"]["id"]
    data = json.dumps(module.params["written"], indent=2)
    try:
        if not module.check_mode:
            for path in (host_dir, folder):
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name, content in (("report.json", data), ("report.md", module.params["text"])):
                handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    stream.write(content + "\n")
    except OSError as error:
        module.fail_json(msg=f"{folder} cannot be written: {error.strerror}")
    module.exit_json(changed=True, report=str(folder / "report.json"))


if __name__ == "__main__":
    main()
