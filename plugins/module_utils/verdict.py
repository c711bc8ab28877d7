# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How a run ended: its outcome, the sentence about the state things are in, and what to type next. Pure.

Everything is derived from what the run's steps returned; a step that did not run has no entry.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

SUCCEEDED = "succeeded"
REFUSED = "refused"
STOPPED_SAFE = "stopped_safe"
NEEDS_OPERATOR = "needs_operator"

# Classes of SQLSTATE (PostgreSQL documentation, appendix A): connection, transaction rollback, resources, object not
# in prerequisite state (lock not available), operator intervention, system error, internal error.
_AROUND_THE_FILE = ("08", "40", "53", "55", "57", "58", "XX")
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
    schema = _from_to(facts)
    if facts["failed_task"] is None:
        return Verdict(SUCCEEDED, schema, _services(facts), "")
    if not facts["stopped"]:
        outcome = STOPPED_SAFE if facts["backup_tried"] else REFUSED
        return Verdict(outcome, schema, f"The services were not touched, {_schema(facts)}.", f"then: {_again(facts)}")
    state = f"{_what_happened(facts)} {_services(facts)}"
    if facts["running"] and not (facts["started"] and facts["healthy"]):
        return Verdict(NEEDS_OPERATOR, schema, state, _way_back(facts))
    if _unknown(facts):
        return Verdict(NEEDS_OPERATOR, schema, state, _status(facts))
    return Verdict(STOPPED_SAFE, schema, state, _correct(facts))


def _unknown(facts: dict[str, Any]) -> bool:
    return not facts["schema_known"] or bool(facts["failure"] and facts["failure"]["state"] == "unknown")


def _from_to(facts: dict[str, Any]) -> str:
    if not facts["schema_known"]:
        return "not known"
    before, after = facts["from_version"] or "empty", facts["to_version"] or "empty"
    return before if before == after else f"{before} -> {after}"


def _again(facts: dict[str, Any]) -> str:
    """The command that was typed, with what it picked and guarded."""
    run = facts["run"]
    given = [f"-e {name}={run['inputs'][name]}" for name in ("target", "confirm") if name in run["inputs"]]
    return " ".join([f"ansible-playbook {run['command']} -e env={run['env']}", *given])


def _status(facts: dict[str, Any]) -> str:
    return f"look first: ansible-playbook playbooks/status.yml -e env={facts['run']['env']}"


def _what_happened(facts: dict[str, Any]) -> str:
    failure = facts["failure"]
    schema = _schema(facts)
    if failure is None:
        return f"{schema[0].upper()}{schema[1:]}."
    version = failure["version"]
    if failure["state"] == "rolled_back":
        return f"{version} was rolled back by PostgreSQL; {schema}."
    if failure["state"] == "partial":
        return (
            f"{version} is partial: {failure['done']} of {failure['total']} statements are done and on record, "
            f"the rest is not; apart from that {schema}."
        )
    return f"Whether {version} was committed is not known: the server could not be asked again."


def _schema(facts: dict[str, Any]) -> str:
    if not facts["schema_known"]:
        return "which schema the database has was not read"
    version = facts["to_version"]
    return f"the schema is at {version}" if version else "no migration is applied"


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
    return f"The services are up and healthy: {names}."


def _way_back(facts: dict[str, Any]) -> str:
    begun = facts["failure"] is not None and bool(facts["failure"]["done"])
    if facts["backup"] and (begun or facts["to_version"] != facts["from_version"]):
        return f"to go back: ansible-playbook rollback.yml -e backup={facts['backup']['id']}"
    return _status(facts)


def _correct(facts: dict[str, Any]) -> str:
    failure = facts["failure"]
    if failure is None or _not_the_files_fault(failure):
        return f"then: {_again(facts)}"
    return f"correct {failure['file']}, then: {_again(facts)}"


def _not_the_files_fault(failure: dict[str, Any]) -> bool:
    """Locks, deadlocks, resources, shutdowns and lost connections; a failed Verify query has no SQLSTATE either."""
    if failure["sqlstate"] is None:
        return failure["message"].startswith(_CONNECTION_LOST)
    return failure["sqlstate"][:2] in _AROUND_THE_FILE
