#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: report
short_description: Judge a run, write its report and show how it ended
version_added: 0.1.0
description:
  - Runs on the controller, last in every run, whatever happened before.
  - Writes C(report.json) and C(report.md) into a folder named after the run, readable by the user only.
  - Fails when the run did not succeed, so that the exit code says so.
options:
  reports_dir:
    description: Folder of all reports on the controller.
    type: path
    required: true
  facts:
    description: What the steps of the run returned; what did not run is null.
    type: dict
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
- name: Write the report
  habitat.runbook.report:
    reports_dir: reports
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
