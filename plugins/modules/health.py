#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: health
short_description: Wait until an application answers well several times in a row
version_added: 0.1.0
description:
  - Asks every address until each gave the wanted status and body several times in a row, or the deadline is over.
  - One bad answer starts the count again. Changes nothing, so it does the same in check mode.
options:
  urls:
    description: Addresses to ask; all of them have to be healthy.
    type: list
    elements: str
    required: true
  status:
    description: Status of a good answer.
    type: int
    default: 200
  body:
    description: Keys and values that the JSON body of a good answer has, among others.
    type: dict
    default: {}
  successes:
    description: Good answers in a row that are needed from every address.
    type: int
    default: 3
  deadline:
    description: Seconds after which waiting ends.
    type: float
    default: 30
  timeout:
    description: Seconds one answer may take.
    type: float
    default: 3
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
- name: Wait until the API is healthy
  habitat.runbook.health:
    urls: [https://habitat.example.com/api/health]
    body: {status: ok}
    successes: 5
    deadline: 60
"""

RETURN = r"""
probes:
  description: For every address url, good (answers in a row), tries, reason (why the last was not good) and body.
  returned: always
  type: list
  elements: dict
seconds:
  description: How long it took.
  returned: always
  type: float
finished_at:
  description: When the last answer came, in seconds since the epoch by this host's clock.
  returned: always
  type: float
"""

import time
from dataclasses import asdict
from typing import Any
from urllib.error import HTTPError

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.habitat.runbook.plugins.module_utils.health import Expectation, wait_healthy
from ansible_collections.habitat.runbook.plugins.module_utils.run_folder import Ended, step_of
from ansible_collections.habitat.runbook.plugins.module_utils.table import count

BODY_BYTES = 64 * 1024
PAUSE_SECONDS = 0.03


def ask(url: str, timeout: float) -> tuple[int | None, str]:
    """One request without a proxy; (None, reason) when there was no answer."""
    deadline = time.monotonic() + timeout
    try:
        try:
            answer = open_url(url, timeout=timeout, follow_redirects="none", use_proxy=False)
        except HTTPError as error:
            answer = error
        return answer.code, read_body(answer, deadline)
    except Exception as error:  # an address that cannot be asked is an answer, whatever the library raised
        return None, str(getattr(error, "reason", error)) or type(error).__name__


def read_body(answer: Any, deadline: float) -> str:
    """The body up to its limit; raises TimeoutError when its parts, each in time, take too long together."""
    body = b""
    while len(body) < BODY_BYTES:
        part = answer.read1(BODY_BYTES - len(body))
        if not part:
            break
        body += part
        if time.monotonic() > deadline:
            raise TimeoutError("the answer did not come to its end in time")
    return body.decode(errors="replace")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "urls": {"type": "list", "elements": "str", "required": True},
            "status": {"type": "int", "default": 200},
            "body": {"type": "dict", "default": {}},
            "successes": {"type": "int", "default": 3},
            "deadline": {"type": "float", "default": 30},
            "timeout": {"type": "float", "default": 3},
            "run_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    if not wanted["urls"]:
        module.fail_json(msg="there is no address to ask: urls is empty")
    started = time.monotonic()
    try:
        with step_of(None if module.check_mode else wanted["run_dir"], "HEALTH"):
            probes = wait_healthy(
                wanted["urls"],
                Expectation(wanted["status"], wanted["body"]),
                wanted["successes"],
                started + wanted["deadline"],
                lambda url: ask(url, wanted["timeout"]),
                time.monotonic,
                lambda: time.sleep(PAUSE_SECONDS),
            )
    except Ended as error:
        module.fail_json(msg=str(error), probes=[], changed=False)
    result = {
        "changed": False,
        "probes": [asdict(probe) for probe in probes],
        "seconds": time.monotonic() - started,
        "finished_at": time.time(),
    }
    sick = [probe for probe in probes if probe.good < wanted["successes"]]
    if sick:
        reason = sick[0].reason or f"only {count(sick[0].good, 'good answer')} in a row"
        module.fail_json(msg=f"{sick[0].url} is not healthy: {reason}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
