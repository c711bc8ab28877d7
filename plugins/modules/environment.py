#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: environment
short_description: Refuse a wrong environment or input before anything else happens, and name the run
version_added: 0.1.0
description:
  - Runs on the controller, in the first play of every playbook of the runbook.
  - Refuses an environment that is missing, unknown, empty or more than one, inputs that the playbook does not know or
    that have a wrong form, C(--limit), and production without O(inputs=confirm) by value.
  - Sets the fact C(habitat_run), which names the run and the person behind it.
options:
  inputs:
    description:
      - Names that may be given by C(-e).
      - A playbook that lists V(confirm) changes something, so production has to be confirmed for it.
    type: list
    elements: str
    required: true
  required:
    description: Names among O(inputs), besides C(env), that have to be given.
    type: list
    elements: str
    default: []
  harmless:
    description: Whether what the playbook does needs no confirmation, production or not.
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
- name: Check the environment
  hosts: localhost
  gather_facts: false
  tasks:
    - name: Check what was typed and name the run
      habitat.runbook.environment:
        inputs: [env, confirm, target]
"""

RETURN = r"""
ansible_facts:
  description: The fact C(habitat_run) with id, env, operator, origin, inputs, check and command.
  returned: success
  type: dict
  contains:
    habitat_run:
      description: The run.
      type: dict
      returned: success
refusal:
  description: What is wrong, what was found, what to type next.
  returned: when refused
  type: dict
"""
