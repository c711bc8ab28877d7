#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: status
short_description: Show where an environment stands and what to type next
version_added: 0.1.0
description:
  - Puts together what other tasks read (ledger, services, health, backups, lock) with the newest report on the
    controller, and shows it. Looks at nothing else and changes nothing.
options:
  facts:
    description: What was read; see the playbook C(status).
    type: dict
    required: true
  reports_dir:
    description: Folder of all reports on the controller.
    type: path
    required: true
  output:
    description: A table for people, or the same as JSON.
    type: str
    choices: [table, json]
    default: table
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
- name: Show the status
  habitat.runbook.status:
    facts: "{{ status_facts }}"
    reports_dir: reports
"""

RETURN = r"""
status:
  description: What was shown, as data.
  returned: always
  type: dict
"""
