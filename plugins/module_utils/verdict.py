# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How a run ended: its outcome, the sentence about the state things are in, and what to type next. Pure.

Everything is derived from what the run's steps returned; a step that did not run has no entry.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils import account
from ansible_collections.habitat.runbook.plugins.module_utils.table import duration
from ansible_collections.habitat.runbook.plugins.module_utils.written_table import rows_text

SUCCEEDED = "succeeded"
REFUSED = "refused"
STOPPED_SAFE = "stopped_safe"
NEEDS_OPERATOR = "needs_operator"
ROLLED_BACK = "rolled_back"

SWAP_DONE, SWAP_FAILED, SWAP_UNKNOWN = "done", "failed", "unknown"
"""What became of a swap of two databases; "" when none was tried."""

# Classes of SQLSTATE (PostgreSQL documentation, appendix A): connection, transaction rollback, resources, object not
# in prerequisite state (lock not available), operator intervention, system error, internal error.
_AROUND_THE_FILE = ("08", "40", "53", "55", "57", "58", "XX")
_ACCEPT = "-e accept_data_loss=true"
_CONNECTION_LOST = "the connection to the server was lost"


@dataclass(frozen=True)
class Verdict:
    """outcome is one of the constants above; state and next are sentences for the operator."""

    outcome: str
    schema: str
    state: str
    next: str

    def as_data(self) -> dict[str, str]:
        return asdict(self)


def judge(facts: dict[str, Any]) -> Verdict:
    """Judge a run.

    facts: see ``report.gather``.
    """
    if facts["ended"]:
        told = facts["ended"]
        return Verdict(told["outcome"], told["schema"], told["state"], told["next"])
    schema = _from_to(facts)
    if facts["failed_task"] is None:
        return Verdict(SUCCEEDED, schema, _services(facts), "")
    if not facts["stopped"]:
        outcome = STOPPED_SAFE if facts["backup_tried"] else REFUSED
        return Verdict(outcome, schema, f"The services were not touched, {_schema(facts)}.", _try_again(facts))
    state = " ".join(filter(None, (_what_happened(facts), _put_back(facts), _access(facts), _services(facts))))
    if facts["swap"] == SWAP_UNKNOWN:
        return Verdict(NEEDS_OPERATOR, schema, state, _status(facts))
    if facts["running"] and not (facts["started"] and facts["healthy"]):
        return Verdict(NEEDS_OPERATOR, schema, state, _way_back(facts))
    if _unknown(facts):
        return Verdict(NEEDS_OPERATOR, schema, state, _status(facts))
    if facts["put_back"]:
        outcome = ROLLED_BACK if facts["put_back"]["done"] else NEEDS_OPERATOR
        return Verdict(outcome, schema, state, _correct(facts) if facts["put_back"]["done"] else _way_back(facts))
    if facts["public_message"] and not facts["failure"]:
        between = "look at what is between: name, proxy, certificate; the database is in order"
        return Verdict(NEEDS_OPERATOR, schema, state, between)
    return Verdict(STOPPED_SAFE, schema, state, _correct(facts))


def _unknown(facts: dict[str, Any]) -> bool:
    return not facts["schema_known"] or bool(facts["failure"] and facts["failure"]["state"] == "unknown")


def _from_to(facts: dict[str, Any]) -> str:
    if not facts["schema_known"]:
        return "not known"
    before, after = facts["from_version"] or "empty", facts["to_version"] or "empty"
    return before if before == after else f"{before} -> {after}"


def _again(facts: dict[str, Any]) -> str:
    """The command that was typed, with what it picked and guarded; of the steps back those that are left."""
    run, gone = facts["run"], len(facts["reverted"] or [])
    if "steps" in run["inputs"] and gone:
        run = {**run, "inputs": {**run["inputs"], "steps": str(len(facts["reverts"]) - gone)}}
    return account.again(run)


def _try_again(facts: dict[str, Any]) -> str:
    """What to type when a run ended before it stopped anything."""
    if facts["loss_refused"]:
        return f"then, if these rows may go: {_again(facts)} {_ACCEPT}"
    if facts["source"] and facts["backup_tried"]:
        return f"then: {_again(facts)}; or see what else there is: {_roll_back(facts)}"
    return f"then: {_again(facts)}"


def _roll_back(facts: dict[str, Any], backup: str | None = None, env: bool = True) -> str:
    """The command that goes back to a backup, or lists them; env is left out where the backup's id names it."""
    given = [f"-e env={facts['run']['env']}"] if env else []
    given += [f"-e backup={shlex.quote(backup)}"] if backup else []
    if "confirm" in facts["run"]["inputs"]:
        given.append(f"-e confirm={facts['run']['inputs']['confirm']}")
    return " ".join(["ansible-playbook rollback.yml", *given])


def _status(facts: dict[str, Any]) -> str:
    return f"look first: ansible-playbook playbooks/status.yml -e env={facts['run']['env']}"


def _what_happened(facts: dict[str, Any]) -> str:
    failure = facts["failure"]
    schema = _schema(facts)
    if failure is None and facts["put_back"] and facts["put_back"]["done"]:
        return ""
    if failure is None:
        return f"{_swapped(facts)}{schema[0].upper()}{schema[1:]}."
    if facts["put_back"] and facts["put_back"]["done"]:
        return f"{failure['version']} failed."
    what = f"The down of {failure['version']}" if facts["reverts"] else failure["version"]
    if failure["state"] == "rolled_back":
        failed = "failed and " if facts["reverts"] else ""
        return f"{what} {failed}was rolled back by PostgreSQL; {schema}."
    if failure["state"] == "partial":
        return (
            f"{what} is partial: {failure['done']} of {failure['total']} statements are done and on record, "
            f"the rest is not; apart from that {schema}."
        )
    what = f"{what[0].lower()}{what[1:]}"
    return f"Whether {what} was committed is not known: the server could not be asked again."


def _swapped(facts: dict[str, Any]) -> str:
    """What a rollback to a backup or a copy did with the database."""
    if facts["put_back"] or not facts["swap"]:
        return ""
    if facts["swap"] == SWAP_UNKNOWN:
        return f"Whether the database was replaced is not known{_sign(facts)}. "
    if facts["swap"] == SWAP_FAILED:
        return "The database was not replaced, it is as it was. "
    what = f"what is in {facts['source']['id']}" if facts["source"] else "another one"
    return f"The database was replaced by {what}; the former one is kept as {facts['kept_as']}. "


def _sign(facts: dict[str, Any]) -> str:
    """How to see whether a swap happened of which nobody could tell."""
    name = facts["would_keep_as"]
    return f" (it was if status.yml lists a copy {name})" if name else ""


def _put_back(facts: dict[str, Any]) -> str:
    found = facts["put_back"]
    if not found:
        return ""
    if facts["swap"] == SWAP_UNKNOWN:
        return f"Whether the restore point {found['point']} was put back is not known{_sign(facts)}."
    if not found["done"]:
        return f"The restore point {found['point']} could NOT be put back: {found['message']}."
    before = f"schema {facts['from_version']}" if facts["from_version"] else "the empty schema"
    return (
        f"The database was put back to {before}, as it was before the first migration; "
        f"the one with what failed is kept as {found['kept_as']}{_meanwhile(facts)}."
    )


def _meanwhile(facts: dict[str, Any]) -> str:
    """Rows of services that had been started on what was put back."""
    rows = (facts["written"] or {}).get("rows")
    return f", with {rows_text(rows)} written meanwhile" if rows else ""


def _schema(facts: dict[str, Any]) -> str:
    if not facts["schema_known"]:
        return "which schema the database has was not read"
    version = facts["to_version"]
    return f"the schema is at {version}" if version else "no migration is applied"


def _access(facts: dict[str, Any]) -> str:
    if not facts["access_message"]:
        return ""
    return f"The application is still kept out of the database, until this run's lock ends: {facts['access_message']}."


def _services(facts: dict[str, Any]) -> str:
    if not facts["running"]:
        return "No service was running before, so none was started."
    names = ", ".join(facts["running"])
    if not facts["stopped"]:
        return f"The services were not touched: {names}."
    if not facts["started"]:
        return f"The services are DOWN: {names}."
    if not facts["healthy"]:
        return f"The services are started but NOT healthy: {facts['health_message']}."
    if facts["public_message"]:
        return f"The services are healthy on their host ({names}), but NOT from here: {facts['public_message']}."
    return f"The services are up and healthy: {names}."


def _way_back(facts: dict[str, Any]) -> str:
    if facts["put_back"]:
        point = facts["put_back"]["point"]
        return _status(facts) if facts["put_back"]["done"] else f"to go back: {_roll_back(facts, point)}"
    if facts["kept_as"]:
        return f"to undo this rollback: {_roll_back(facts, facts['kept_as'])}"
    begun = facts["failure"] is not None and bool(facts["failure"]["done"])
    if facts["backup"] and (begun or facts["to_version"] != facts["from_version"]):
        return f"to go back{_lasts(facts['backup'])}: {_roll_back(facts, facts['backup']['id'], env=False)}"
    return _status(facts)


def _lasts(backup: dict[str, Any]) -> str:
    """How long restoring it took when it was proved, as far as that is known."""
    seconds = backup["restore_seconds"]
    return "" if seconds is None else f" (restoring took {duration(seconds)} when it was tried)"


def _correct(facts: dict[str, Any]) -> str:
    failure = facts["failure"]
    if failure is None:
        return _go_on(facts)
    if _not_the_files_fault(failure):
        return f"then: {_again(facts)}"
    if not facts["reverts"]:
        return f"correct {failure['file']}, then: {_again(facts)}"
    if facts["reverted"]:
        other = f"undo what was taken back: {_roll_back(facts, facts['backup']['id'], env=False)}"
    else:
        other = f"go back to the backup from before the last run that changed something: {_roll_back(facts, 'latest')}"
    if failure["message"].endswith(_ACCEPT):
        return f"then, if these rows may go: {_again(facts)} {_ACCEPT}; or {other}"
    correct = f"correct the down of {failure['version']}"
    if facts["reverts"][len(facts["reverted"] or [])]["source"] == "ledger":
        correct = f"bring the file of {failure['version']} back as it was applied and correct its down there"
    return f"{correct}, then: {_again(facts)}; or {other}"


def _go_on(facts: dict[str, Any]) -> str:
    """What to type when no migration failed and the services are up."""
    if facts["put_back"]:
        return f"put right what failed, then: {_again(facts)}"
    # It is done already; the same command would do it once more, to what was written since.
    done = facts["swap"] == SWAP_DONE or (facts["reverts"] and len(facts["reverted"] or []) == len(facts["reverts"]))
    return _status(facts) if done else f"then: {_again(facts)}"


def _not_the_files_fault(failure: dict[str, Any]) -> bool:
    """Locks, deadlocks, resources, shutdowns and lost connections; a failed Verify query has no SQLSTATE either."""
    if failure["sqlstate"] is None:
        return failure["message"].startswith(_CONNECTION_LOST)
    return failure["sqlstate"][:2] in _AROUND_THE_FILE
