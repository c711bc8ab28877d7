#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: turn
short_description: Begin no further host after one that did not succeed
version_added: 0.1.0
description:
  - Runs on the controller, first on every host of an environment with several. Fails when the report of another host of
    the same run says that it did not succeed.
  - Ansible itself ends a play only when a whole batch of C(serial) has failed, or in the middle of the work of others.
options:
  reports_dir:
    description: Folder of all reports on the controller.
    type: path
    required: true
  run_id:
    description: Id of the run.
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
- name: Begin only while every host before has succeeded
  habitat.runbook.turn:
    reports_dir: reports
    run_id: 20261122t100211z-k3f
"""

RETURN = r"""
said:
  description: Whether the failure was already explained on the screen.
  returned: when failed
  type: bool
"""
