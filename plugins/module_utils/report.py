# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The report of a run: a dict for machines, Markdown for people, and the last lines on the screen. Pure."""

from __future__ import annotations

from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.screens import applied, failure, health_check, labelled
from ansible_collections.habitat.runbook.plugins.module_utils.table import duration, moment, size
from ansible_collections.habitat.runbook.plugins.module_utils.verdict import NEEDS_OPERATOR, SUCCEEDED, Verdict

FORMAT = 1

_WORDS = {
    "succeeded": "SUCCEEDED",
    "refused": "REFUSED",
    "stopped_safe": "STOPPED, SAFE",
    "needs_operator": "STOPPED, NEEDS YOU",
}


def gather(raw: dict[str, Any]) -> dict[str, Any]:
    """Facts for the verdict and the report out of what the steps returned; a step that did not run is an empty dict.

    raw: run, database, host, failed_task, failed_message, said (whether a screen told why), and the results preflight,
    services, backup, stopping, applying, starting, health, healthy, health_before.
    """
    checked, applying, health, starting = raw["preflight"], raw["applying"], raw["health"], raw["starting"]
    running = raw["services"].get("running", [])
    before = applying.get("from_version", checked.get("current"))
    stopped_at, healthy_at = raw["stopping"].get("at"), raw["healthy"].get("at")
    return {
        **{name: raw[name] for name in ("run", "database", "host", "failed_task", "failed_message", "said")},
        "server": checked.get("server"),
        "checks": [*checked.get("checks", []), *_health_before(raw)],
        "plan": checked.get("pending", []),
        "backup": raw["backup"].get("backup"),
        "backup_tried": bool(raw["backup"]),
        "running": running,
        "stopped": stopped_at is not None,
        "started": bool(starting) and not starting.get("failed") and not starting.get("skipped"),
        "healthy": healthy_at is not None,
        "health_message": health.get("msg", "it was not asked"),
        "probes": health.get("probes", []),
        "window_seconds": healthy_at - stopped_at if healthy_at and stopped_at else None,
        "from_version": before,
        "to_version": applying.get("to_version", before),
        # A step that was killed says nothing about what it did.
        "schema_known": "to_version" in applying if _ran(applying) else "current" in checked,
        "refusals": applying.get("refusals") or checked.get("refusals") or [],
        **{name: applying.get(name) for name in ("applied", "failure", "settings", "other_sessions")},
    }


def _ran(result: dict[str, Any]) -> bool:
    return bool(result) and not result.get("skipped")


def _health_before(raw: dict[str, Any]) -> list[dict[str, str]]:
    if "probes" not in raw["health_before"]:
        return []
    return [health_check(raw["health_before"]["probes"], raw["services"].get("running", []))]


def build(facts: dict[str, Any], verdict: Verdict, finished_at: str) -> dict[str, Any]:
    """The report as data; facts as from ``gather``, finished_at as ISO 8601."""
    kept = (
        "run", "database", "host", "server", "window_seconds", "from_version", "to_version",
        "checks", "plan", "backup", "running", "applied", "failure", "failed_task", "failed_message",
        "probes", "settings", "other_sessions", "refusals", "said",
    )  # fmt: skip
    return {"format": FORMAT, **verdict.as_data(), "finished_at": finished_at, **{name: facts[name] for name in kept}}


def result_screen(report: dict[str, Any], where: str | None) -> str:
    """The end of a run on the screen; where: path of the written report, None when none was written."""
    lines: list[str] = []
    if report["failure"]:
        lines += [applied(report)] if report["applied"] else []
        lines += failure(report["failure"])
    elif report["outcome"] != SUCCEEDED and not report["said"]:
        lines.append(labelled("FAILED", f"{report['failed_task']}: {report['failed_message']}"))
        lines += [f"  {text}" for one in report["refusals"] for text in (one["found"], one["next"]) if text]
    window = f"   window {duration(report['window_seconds'])}" if report["window_seconds"] is not None else ""
    written = f"   report: {where}" if where else ""
    lines.append(labelled("RESULT", f"{_WORDS[report['outcome']]}   schema {report['schema']}{window}{written}"))
    if report["outcome"] != SUCCEEDED:
        lines += [f"  {text}" for text in (report["state"], report["next"]) if text]
    return "\n".join(lines)


def markdown(report: dict[str, Any]) -> str:
    """The report for a ticket or a mail."""
    run = report["run"]
    lines = [
        f"# {_WORDS[report['outcome']]}: {run['env']} / {_cell(report['database'])}, schema {report['schema']}",
        "",
        _cell(report["state"]),
        *([_cell(report["next"])] if report["next"] else []),
        "",
        "| | |",
        "|---|---|",
        f"| run | {run['id']} |",
        f"| by | {_cell(run['operator'])} on {_cell(run['origin'])} |",
        f"| host | {_cell(report['host'])} |",
        f"| finished | {moment(report['finished_at'])} UTC |",
        f"| window | {_window(report)} |",
        f"| backup | {_backup(report)} |",
    ]
    lines += ["", "## Migrations", "", *_migrations(report)]
    if report["failure"]:
        lines += ["", "## What failed", "", "```", *failure(report["failure"]), "```"]
    elif report["failed_task"]:
        lines += ["", "## What failed", "", f"{_cell(report['failed_task'])}: {_cell(report['failed_message'])}"]
        lines += [f"- {_cell(' '.join(filter(None, one.values())))}" for one in report["refusals"]]
    lines += ["", "## Preflight", "", *_checks(report), ""]
    return "\n".join(lines)


def _window(report: dict[str, Any]) -> str:
    seconds = report["window_seconds"]
    if seconds is None:
        return "the services were not stopped" if report["outcome"] != NEEDS_OPERATOR else "still open"
    return f"{duration(seconds)} from stop to healthy"


def _backup(report: dict[str, Any]) -> str:
    one = report["backup"]
    return f"{one['id']}, {size(one['size'])}, sha256 {one['sha256']}" if one else "none was taken"


def _migrations(report: dict[str, Any]) -> list[str]:
    done = {one["version"]: one for one in report["applied"] or []}
    lines = ["| version | name | state | took |", "|---|---|---|---|"]
    for one in report["plan"] or []:
        version = one["version"]
        took = duration(done[version]["duration_ms"] / 1000) if version in done else "-"
        state = "applied" if version in done else _not_applied(version, report["failure"])
        lines.append(f"| {version} | {_cell(one['name'])} | {state} | {took} |")
    return lines


def _not_applied(version: str, found: dict[str, Any] | None) -> str:
    if not found or found["version"] != version:
        return "not applied"
    if found["state"] == "partial":
        return f"partial {found['done']}/{found['total']}"
    return "not known" if found["state"] == "unknown" else "failed, rolled back"


def _checks(report: dict[str, Any]) -> list[str]:
    return [f"- {check['state']}: {_cell(check['text'])}" for check in report["checks"] or []] or [
        "- nothing was checked"
    ]


def _cell(text: Any) -> str:
    """Text from outside inside Markdown: no table, code or markup of its own."""
    plain = " ".join(str(text).split())
    for mark in "\\|`<>*_[]":
        plain = plain.replace(mark, "\\" + mark)
    return plain
