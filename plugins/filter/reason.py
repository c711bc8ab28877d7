# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
name: reason
short_description: Tell why a task failed
version_added: 0.1.0
description:
  - The message of a failed result; that of the first failed item when the task was a loop.
options:
  _input:
    description: Result of a failed task.
    type: dict
    required: true
author:
  - The Habitat team (@habitat)
"""

EXAMPLES = r"""
- name: Keep what failed
  ansible.builtin.set_fact:
    failed_message: "{{ ansible_failed_result | habitat.runbook.reason }}"
"""

RETURN = r"""
_value:
  description: One message.
  type: str
"""

from typing import Any


def reason(result: dict[str, Any]) -> str:
    """Why a task failed; for a loop the first failed item and its reason."""
    for item in result.get("results") or []:
        if item.get("failed"):
            return f"{item.get('item')}: {reason(item)}"
    message = str(result.get("msg") or "").strip()
    if message in ("", "non-zero return code"):
        said = [str(result.get(name) or "").strip() for name in ("stderr", "stdout")]
        return next(filter(None, said), message) or "no reason was given"
    return message


class FilterModule:
    """Filters about results."""

    def filters(self) -> dict[str, Any]:
        return {"reason": reason}
