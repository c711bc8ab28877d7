#!/usr/bin/python
# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: run_recovery
short_description: End a run that is going on, or put things right after runs that were cut off
version_added: 0.1.0
description:
  - With O(state=settled) does for every run that nobody guards any more what its guard would have done. It ends the
    run's step and database sessions, lets the application in again, and starts the services that the run had stopped.
    A run that is going on is left alone.
  - With O(state=cancelled) has the guard of a run that is going on do the same, and waits for it.
  - Nothing is ever restored, dropped or renamed.
options:
  state:
    description: What is to be so.
    type: str
    choices: [settled, cancelled]
    required: true
  state_dir:
    description: Folder with a folder for each run on the host.
    type: path
    required: true
  run:
    description: With O(state=cancelled) the id of the only run that may be ended; empty for whichever is going on.
    type: str
    default: ""
  finish:
    description: With O(state=settled) whether the caller goes on with what the last run began; it is then its own.
    type: bool
    default: false
  operator:
    description: Person behind it.
    type: str
    default: unknown
extends_documentation_fragment:
  - community.postgresql.postgres
  - habitat.runbook.run
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Put things right after runs that were cut off
  habitat.runbook.run_recovery:
    state: settled
    state_dir: /var/lib/habitat-runbook
    login_db: habitat
    env: staging
    run_id: 20261122t100211z-k3f
"""

RETURN = r"""
runs:
  description: Reports of the runs that were ended or put right, as in report.json.
  returned: success
  type: list
  elements: dict
going_on:
  description: Who holds the run lock (run_id, operator, from, since, phase); null when nobody does.
  returned: with O(state=settled)
  type: dict
refusals:
  description: What could not be put right, each with what, found and next.
  returned: success
  type: list
  elements: dict
last:
  description: Report of the newest run when that one was cut off and its work can be finished; null otherwise.
  returned: with O(state=settled)
  type: dict
goes_on:
  description: In which way RV(last) is finished, V(migrate) or V(revert); empty when there is nothing to finish.
  returned: with O(state=settled)
  type: str
"""

import contextlib
import functools
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils.database import (
    connect_to,
    connection_parameters,
    database_argument_spec,
    require_psycopg,
)

_WOULD_END = {"state": "It would be ended, and what it has stopped be started.", "next": "", "problems": []}


def settle(module: AnsibleModule) -> dict[str, Any]:
    import psycopg
    from ansible_collections.habitat.runbook.plugins.module_utils import account, interrupted, lock_session, run_folder

    given = module.params
    state_dir, database = Path(given["state_dir"]), given["login_db"]
    connect = connection_parameters(module, given["run_id"], statement_timeout="1min")
    connect["application_name"] = lock_session.lock_application_name(given["run_id"])
    to = functools.partial(connect_to, connect)
    with contextlib.ExitStack() as stack:
        try:
            connection = stack.enter_context(to(lock_session.LOCK_DATABASE))
            holder = lock_session.held_by(connection, database)
            free = holder is None and lock_session.try_lock(connection, lock_session.lock_key(database))
        except psycopg.Error:
            # Services are started without the server, too; that the rest is not done is in the report.
            holder, free = None, True
        # Looked for with the lock in hand: whoever had it before may have put them right.
        folders = run_folder.unsettled(state_dir, database) if free else []
        try:
            found = [put_right(module, folder, to) for folder in folders]
            runs = [one for one in found if one]
        except OSError as error:
            written = f"what was put right could not be written into {state_dir} ({error.strerror})"
            module.fail_json(msg=f"{written}; make room there, then run the same command again")
    last = interrupted.last_cut_off(state_dir, database) if free else None
    if last and given["finish"] and not module.check_mode:
        interrupted.take_on(state_dir, last, given["run_id"])
    return {
        "runs": runs,
        "going_on": holder,
        "last": last,
        "goes_on": account.goes_on(last["run"]) if last else "",
        "refusals": not_put_right(runs),
        "changed": bool(runs),
    }


def put_right(module: AnsibleModule, folder: Path, to: Any) -> dict[str, Any] | None:
    """The report of a run that is put right; None when somebody else has done it meanwhile."""
    from ansible_collections.habitat.runbook.plugins.module_utils import account, interrupted, recovery, run_folder

    if module.check_mode:
        run, found = run_folder.read_json(folder / run_folder.RUN), interrupted.describe(folder)
        state = f"The run was cut off {found['where']}." if found else ""
        return {"run": run, "state": state, "next": "", "problems": []} if state else None
    with recovery.alone(folder) as left:
        if not left:
            return None
        run = run_folder.read_json(folder / run_folder.RUN) or {}
        righted = recovery.put_right(folder, run, to, "resume.yml", "nothing of it was alive any more")
        if righted.schema == account.NOT_READ and not righted.problems:
            righted.problems.append("the ledger could not be read")
        return recovery.conclude(folder, run, righted)


def cancel(module: AnsibleModule) -> dict[str, Any]:
    from ansible_collections.habitat.runbook.plugins.module_utils import recovery, run_folder

    given = module.params
    found = [
        folder
        for folder in run_folder.guarded(Path(given["state_dir"]), given["login_db"])
        if given["run"] in ("", folder.name)
    ]
    if module.check_mode:
        would = [{"run": run_folder.read_json(folder / run_folder.RUN), **_WOULD_END} for folder in found]
        return {"runs": would, "refusals": [], "changed": bool(found)}
    for folder in found:
        _tell(module, folder)
    deadline = time.monotonic() + recovery.LONGEST_SECONDS
    while any(run_folder.guard_pid(folder) for folder in found):
        if time.monotonic() > deadline:
            module.fail_json(msg=f"the guard of run {found[0].name} does not come to its end; see status.yml", runs=[])
        time.sleep(0.05)
    kept = Path(given["state_dir"]) / run_folder.REPORTS
    reports = [run_folder.read_json(kept / folder.name / "report.json") for folder in found]
    runs = [one for one in reports if one]
    return {"runs": runs, "refusals": not_put_right(runs), "changed": bool(found)}


def _tell(module: AnsibleModule, folder: Path) -> None:
    """Tell a run's guard to end it; a run that has just ended needs nothing."""
    from ansible_collections.habitat.runbook.plugins.module_utils import run_folder

    try:
        run_folder.write_json(folder / run_folder.CANCEL, {"why": f"{module.params['operator']} cancelled it"})
    except OSError as error:
        pid = run_folder.guard_pid(folder)
        if pid:
            why = f"run {folder.name} could not be told to end: {folder} cannot be written ({error.strerror})"
            module.fail_json(msg=f"{why}; make room there, or type on the host: kill {pid}", runs=[])


def not_put_right(runs: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{"what": problem, "found": "", "next": one["next"]} for one in runs for problem in one["problems"]]


def main() -> None:
    spec = database_argument_spec()
    spec.update(
        state={"type": "str", "choices": ["settled", "cancelled"], "required": True},
        env={"type": "str", "required": True},
        run_id={"type": "str", "required": True},
        state_dir={"type": "path", "required": True},
        run={"type": "str", "default": ""},
        finish={"type": "bool", "default": False},
        operator={"type": "str", "default": "unknown"},
    )
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    require_psycopg(module)
    result = settle(module) if module.params["state"] == "settled" else cancel(module)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
