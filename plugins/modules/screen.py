#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: screen
short_description: Show the operator one of the runbook's screens
version_added: 0.1.0
description:
  - Prints plain text while the run goes on, the same under every stdout callback and in AWX.
  - The words are made of data only; nothing is looked up.
  - Fails when the screen says that the run is refused.
options:
  show:
    description: Name of the screen.
    type: str
    required: true
    choices:
      - applied
      - backup
      - backup_after
      - baseline
      - boot_hook
      - bootstrap
      - cancelled
      - choices
      - copied
      - drill
      - drill_begun
      - healthy
      - held
      - left_out
      - nothing
      - nothing_to_revert
      - plan
      - preflight
      - refusals
      - restored
      - resumed
      - retained
      - revert_plan
      - reverted
      - rollback_plan
      - salvage_imported
      - salvage_plan
      - salvaged
      - starting
      - stopping
      - swapped
      - version
  data:
    description: What the screen shows; its keys depend on the screen.
    type: dict
    required: true
  output:
    description: V(json) prints O(data) itself.
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
- name: Say what is stopped
  habitat.runbook.screen:
    show: stopping
    data:
      running: [habitat:api_0, habitat:worker]
"""

RETURN = r"""
at:
  description: When the screen was shown, in seconds since the epoch by the controller's clock.
  returned: always
  type: float
said:
  description: Whether the failure was already explained on the screen.
  returned: when failed
  type: bool
"""
