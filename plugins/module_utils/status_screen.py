# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The screen of status.yml: where things stand and what to type next. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils import account, backup_screens, screens
from ansible_collections.habitat.runbook.plugins.module_utils.command_line import command
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted
from ansible_collections.habitat.runbook.plugins.module_utils.screens import labelled
from ansible_collections.habitat.runbook.plugins.module_utils.table import (
    columns,
    duration,
    moment,
    printable,
    session,
    size,
)

_LABEL = 10
_SHOWN = 5

LONG_SECONDS = 60
"""A transaction open for longer than this is named: a migration would have to wait for it."""


def build(facts: dict[str, Any]) -> dict[str, Any]:
    """Put together what the status shows.

    facts: env, host, database, migrations (result of schema_migrations_info), around (result of
    session_info), services (running, stopped, start_with), probes,
    successes (good answers wanted), backups, last_drill (or None), last_run (report.json of the newest run, or None).
    """
    migrations = facts["migrations"]
    data = {
        **{name: facts[name] for name in ("env", "host", "database", "services", "probes")},
        "backups": [one for one in facts["backups"] if _is_own(one, facts)],
        **{name: facts[name] for name in ("last_run", "last_drill")},
        **{name: migrations[name] for name in ("current", "versions", "refusals", "warnings_in_files")},
        **{name: facts["around"][name] for name in ("holder", "copies", "history", "kept_out", "interrupted")},
        "healthy": all(probe["good"] >= facts["successes"] for probe in facts["probes"]),
        "long_transactions": [one for one in facts["around"]["sessions"] if (one["seconds"] or 0) > LONG_SECONDS],
    }
    return dict(data, next=next_step(data))


def _is_own(backup: dict[str, Any], facts: dict[str, Any]) -> bool:
    """Whether a backup is this database's; a broken one may not tell."""
    return backup["environment"] in (None, facts["env"]) and backup["database"] in (None, facts["database"])


def status(data: dict[str, Any], now: datetime) -> str:
    """The status table; data is what ``-e output=json`` prints, now a time with its zone.

    Keys: env, host, database, current, versions, refusals, warnings_in_files, holder, services (running, stopped,
    start_with), probes, healthy, last_run (or None), backups, last_drill (or None), copies, history, kept_out,
    interrupted, long_transactions, next.
    """
    lines = [f"{data['env']} / {data['database']}   schema {data['current'] or 'empty'}   {_health(data)}"]
    lines += columns(_versions(data["versions"])) if data["versions"] else ["  no migration, neither file nor row"]
    for one in data["versions"]:
        if one["error"]:
            lines.append(f"  {one['version']} stopped with: {one['error']}")
    for one in data["interrupted"]:
        lines.append(labelled("CUT OFF", _interrupted(one)))
    for one in data["refusals"]:
        lines.append(labelled("PROBLEM", one["what"]))
        lines += [f"  {text}" for text in (one["found"], one["next"]) if text]
    lines += [f"  warn  {warning}" for warning in data["warnings_in_files"]]
    lines.append(labelled("SERVICES", _services(data["services"])))
    lines.append(labelled("LOCK", _lock(data["holder"])))
    if data["kept_out"]:
        lines.append(labelled("ACCESS", f"{', '.join(data['kept_out'])} may not connect{_by_whom(data['holder'])}"))
    for one in data["long_transactions"]:
        lines.append(labelled("LONG", f"transaction open for {duration(one['seconds'])}: {session(one)}"))
    lines += backup_screens.listed(data["backups"])
    lines += backup_screens.last_drill(data["last_drill"], data["backups"], data["env"], now)
    lines += _copies(data["copies"])
    lines += _history(data["history"])
    lines.append(labelled("LAST RUN", _last_run(data["last_run"])))
    lines.append(labelled("NEXT", data["next"]))
    return "\n".join(lines)


def _versions(versions: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["VERSION", "NAME", "STATE", "APPLIED AT", "TOOK", "RUN"]]
    for one in versions:
        ran = one["duration_ms"] is not None and one["state"] != "baseline"
        took = duration(one["duration_ms"] / 1000) if ran else "-"
        rows.append(
            [one["version"], one["name"] or "-", one["label"], moment(one["applied_at"]), took, one["run_id"] or "-"]
        )
    return rows


def _health(data: dict[str, Any]) -> str:
    if not data["services"]["running"]:
        return "services DOWN"
    if not data["probes"]:
        return "health not asked"
    return "API healthy" if data["healthy"] else "API NOT healthy"


def _services(services: dict[str, list[str]]) -> str:
    parts = [f"{', '.join(services[state])} {state}" for state in ("running", "stopped") if services[state]]
    return "; ".join(parts) or "none is known"


def _by_whom(holder: dict[str, Any] | None) -> str:
    return " while the run changes the database" if holder else ": a run was cut off, or somebody took the right away"


def _lock(holder: dict[str, Any] | None) -> str:
    if holder is None:
        return "free"
    return screens.holder(holder)


def _interrupted(one: dict[str, Any]) -> str:
    stopped = f"; it has stopped {', '.join(one['stopped'])}" if one["stopped"] else ""
    when = f" at {moment(one['at'])} UTC" if one["at"] else ""
    return (
        f"run {one['run_id']} by {one['operator']} was cut off {one['where']}{when} and is not put right yet{stopped}"
    )


def _copies(copies: list[dict[str, Any]]) -> list[str]:
    """Databases kept from before a swap, restore points and half-made restores: they take room."""
    words = {
        "before": "kept from before a swap",
        "point": "restore point",
        "restore": "half restored, the next run removes it",
        "verify": "a backup's proof that was cut off, the next backup removes it",
    }
    rows = [[printable(one["name"]), size(one["size"]), words[one["kind"]]] for one in copies]
    lines = columns(rows, indent=" " * _LABEL)
    return [labelled("COPIES", lines[0].strip()), *lines[1:]] if lines else []


def _history(history: list[dict[str, Any]]) -> list[str]:
    """The newest entries, newest first."""
    rows = [
        [
            moment(one["at"]),
            *(printable(one[name] or "-") for name in ("event", "version", "operator", "origin", "run_id")),
        ]
        for one in history[:_SHOWN]
    ]
    lines = columns(rows, indent=" " * _LABEL)
    return [labelled("HISTORY", lines[0].strip()), *lines[1:]] if lines else []


def _last_run(run: dict[str, Any] | None) -> str:
    if run is None:
        return "none"
    how = f"cut off, {run['outcome']}" if run["cut_off"] else run["outcome"]
    told = f"{run['run']['id']} {how.replace('_', ' ')}, schema {run['schema']}, by {run['run']['operator']}"
    return "\n".join([told, *screens.wrapped(run["state"])]) if run["cut_off"] else told


def next_step(data: dict[str, Any]) -> str:
    """The one command to type now; data: see ``status``."""
    env = data["env"]
    if data["holder"]:
        return f"a run is going on: wait for its end, or end it: ansible-playbook playbooks/cancel.yml -e env={env}"
    if data["interrupted"]:
        return data["interrupted"][0]["next"]
    if data["refusals"]:
        return data["refusals"][0]["next"] or "correct what PROBLEM says"
    if data["kept_out"]:
        return _let_in(data)
    if _cut_off(data):
        goes_on = account.goes_on(data["last_run"]["run"])
        return (not goes_on and _wrong_with_services(data)) or data["last_run"]["next"]
    if _still_to_do(data):
        last = data["last_run"]
        return f"{last['next']} (said by run {last['run']['id']})"
    wrong = _wrong_with_services(data)
    if wrong:
        return wrong
    if any(one["state"] in ("pending", "partial") for one in data["versions"]):
        return command("migrate.yml", env)
    return backup_screens.after_failed_drill(data["last_drill"], data["backups"], env) or "nothing to do"


def _let_in(data: dict[str, Any]) -> str:
    roles = ", ".join(quoted(role) for role in data["kept_out"])
    return f"as the owner: GRANT CONNECT ON DATABASE {quoted(data['database'])} TO {roles}"


def _wrong_with_services(data: dict[str, Any]) -> str:
    services, on = data["services"], f"on {data['host']}: {data['services']['start_with']}"
    if not services["running"] and not services["stopped"]:
        return "no service is known: correct habitat_services"
    if not services["running"]:
        return f"the services are down; {on}"
    if not data["healthy"]:
        return "the API is not healthy: look at its log"
    if services["stopped"]:
        return f"start {', '.join(services['stopped'])}, unless it is stopped on purpose; {on}"
    return ""


def _cut_off(data: dict[str, Any]) -> bool:
    """Whether the last run was cut off and something of it is left to be done."""
    last = data["last_run"]
    if not (last and last["cut_off"] and last["next"]):
        return False
    migrates = account.migrates(last["run"])
    pending = any(one["state"] in ("pending", "partial") for one in data["versions"])
    return pending or not migrates or bool(_wrong_with_services(data))


def _still_to_do(data: dict[str, Any]) -> bool:
    """Whether what the last run said to do next is still to be done; to look here is done already."""
    last = data["last_run"]
    if not last or last["outcome"] != "needs_operator" or not last["next"] or "status.yml" in last["next"]:
        return False
    well = data["services"]["running"] and data["healthy"]
    # A restore point is there after a run only while it could not be put back, however well the application is.
    points = [one["name"] for one in data["copies"] if one["kind"] == "point"]
    return not well or any(name in last["next"] for name in points)
