# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The report of a run: a dict for machines, and the last lines on the screen; for people see report_markdown. Pure."""

from __future__ import annotations

from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.losses import would_lose
from ansible_collections.habitat.runbook.plugins.module_utils.report_markdown import WORDS
from ansible_collections.habitat.runbook.plugins.module_utils.report_markdown import markdown as markdown
from ansible_collections.habitat.runbook.plugins.module_utils.rollback_screens import reverted
from ansible_collections.habitat.runbook.plugins.module_utils.screens import (
    applied,
    failure,
    health_checks,
    labelled,
    wrapped,
)
from ansible_collections.habitat.runbook.plugins.module_utils.table import duration, printable
from ansible_collections.habitat.runbook.plugins.module_utils.verdict import (
    SUCCEEDED,
    SWAP_DONE,
    SWAP_FAILED,
    SWAP_UNKNOWN,
    Verdict,
)

FORMAT = 1
_LOG_LINES = 4


def gather(raw: dict[str, Any]) -> dict[str, Any]:
    """Facts for the verdict and the report out of what the steps returned; a step that did not run is an empty dict.

    raw: run, database, host, failed_task, failed_message, said (whether a screen told why), and the results preflight,
    services, backup, copying, backing_up_after, stopping, applying, starting, health, healthy, health_before,
    public_before, public, logs, access, lock, choosing, restoring, swapping, accounting, planning, reverting.
    """
    checked, health, starting = raw["preflight"], raw["health"], raw["starting"]
    running = raw["services"].get("running", [])
    changing = raw["applying"] or raw["reverting"]
    stopped_at, healthy_at = raw["stopping"].get("at"), raw["healthy"].get("at")
    return {
        **{name: raw[name] for name in ("run", "database", "host", "failed_task", "failed_message", "said")},
        "server": checked.get("server") or raw["choosing"].get("server"),
        "checks": [*checked.get("checks", []), *_health_before(raw), *_notes(raw)],
        "plan": checked.get("pending", []),
        "backup": raw["backup"].get("backup"),
        # Only where it was read back.
        "copied_to": raw["copying"].get("to") if "seconds" in raw["copying"] else None,
        "backup_after": raw["backing_up_after"].get("backup"),
        "backup_tried": bool(raw["backup"]) or _ran(raw["restoring"]),
        "running": running,
        "stopped": stopped_at is not None,
        "started": bool(starting) and not starting.get("failed") and not starting.get("skipped"),
        "healthy": healthy_at is not None,
        "health_message": health.get("msg", "it was not asked"),
        "probes": [*health.get("probes", []), *raw["public"].get("probes", [])],
        "public_message": raw["public"].get("msg") if raw["public"].get("failed") else None,
        "access_message": raw["access"].get("msg"),
        "lock_message": _lock_message(raw),
        "ended": raw["lock"].get("ended"),
        "down_seconds": (raw["lock"].get("probes") or {}).get("down_seconds"),
        "logs": raw["logs"].get("logs", {}),
        "window_seconds": healthy_at - stopped_at if healthy_at and stopped_at else None,
        **_versions(raw, changing),
        "refusals": changing.get("refusals") or checked.get("refusals") or raw["choosing"].get("refusals") or [],
        **{name: changing.get(name) for name in ("applied", "failure", "settings", "other_sessions", "restore_point")},
        **_going_back(raw),
    }


def _versions(raw: dict[str, Any], changing: dict[str, Any]) -> dict[str, Any]:
    """The schema before and after. A step that was killed says nothing about what it did."""
    first = raw["preflight"].get("current", raw["choosing"].get("current", raw["planning"].get("from_version")))
    before = changing.get("from_version", first)
    looked = (("preflight", "current"), ("choosing", "current"), ("planning", "from_version"))
    known = any(key in raw[name] for name, key in looked)
    swap = _swap(raw)
    swapped = swap == SWAP_DONE
    after = raw["swapping"]["to_version"] if swapped else changing.get("to_version", before)
    if not swapped and _ran(changing):
        known = "to_version" in changing
    known = swapped or (known and swap != SWAP_UNKNOWN)
    return {"from_version": before, "to_version": after, "schema_known": known}


def _going_back(raw: dict[str, Any]) -> dict[str, Any]:
    """What a rollback did, or a run that put its restore point back."""
    swapping, swap = raw["swapping"], _swap(raw)
    put_back = None
    if swap and raw["applying"]:
        point = (raw["applying"].get("restore_point") or {}).get("name")
        put_back = {"done": swap == SWAP_DONE, "point": point, "kept_as": swapping.get("kept_as")}
        put_back["message"] = swapping.get("msg")
    return {
        "rollback": bool(raw["choosing"] or raw["planning"]),
        "source": raw["choosing"].get("source"),
        "adopts": raw["choosing"].get("adopts"),
        "removed": raw["choosing"].get("removed", []),
        "returning": raw["choosing"].get("returning", []),
        "restored": raw["restoring"] if "seconds" in raw["restoring"] else None,
        "swap": swap,
        "kept_as": swapping.get("kept_as") if swap == SWAP_DONE else None,
        "would_keep_as": swapping.get("kept_as"),
        "swap_seconds": swapping.get("seconds"),
        "written": (raw["accounting"] if _ran(raw["accounting"]) else raw["choosing"]).get("written"),
        "put_back": put_back,
        "reverts": raw["planning"].get("reverts", []),
        "losses": raw["planning"].get("losses", []),
        "loss_refused": _loss_refused(raw),
        "reverted": raw["reverting"].get("reverted"),
        "remarks": raw["reverting"].get("remarks", []),
    }


def _loss_refused(raw: dict[str, Any]) -> bool:
    """Whether the run ended because rows would go and nobody had accepted that."""
    planning = raw["planning"]
    said = planning.get("msg") is not None and raw["failed_message"] == planning["msg"]
    return said and would_lose(planning.get("losses", []))


def _swap(raw: dict[str, Any]) -> str:
    """What became of a swap, in verdict's words. A step that was killed says nothing about what it did."""
    result = raw["swapping"]
    if not _ran(result) or raw["run"]["check"]:
        return ""
    if "seconds" in result:
        return SWAP_DONE
    return SWAP_UNKNOWN if result.get("unknown", True) else SWAP_FAILED


def _ran(result: dict[str, Any]) -> bool:
    return bool(result) and not result.get("skipped")


def _health_before(raw: dict[str, Any]) -> list[dict[str, str]]:
    if "probes" not in raw["health_before"]:
        return []
    public = raw["public_before"].get("probes", [])
    running = raw["services"].get("running", [])
    return health_checks({"probes": raw["health_before"]["probes"], "public_probes": public, "running": running})


def _lock_message(raw: dict[str, Any]) -> str | None:
    """Why the run lock could not be given back."""
    lock = raw["lock"]
    given = lock.get("held") is False or lock.get("holder") is not None
    return None if given or raw["failed_task"] == "Take or give back the run lock" else lock.get("msg")


def _notes(raw: dict[str, Any]) -> list[dict[str, str]]:
    """What a rollback found odd but not in its way."""
    return [{"state": "warn", "text": text, "next": ""} for text in raw["choosing"].get("notes", [])]


def build(facts: dict[str, Any], verdict: Verdict, finished_at: str) -> dict[str, Any]:
    """The report as data; facts as from ``gather``, finished_at as ISO 8601."""
    kept = (
        "run", "database", "host", "server", "window_seconds", "from_version", "to_version", "checks", "plan",
        "backup", "backup_after", "copied_to", "running", "applied", "failure", "failed_task", "failed_message",
        "probes", "settings", "other_sessions", "refusals", "said", "restore_point", "rollback", "source",
        "adopts", "removed", "returning", "restored", "swap", "kept_as", "swap_seconds", "written", "put_back",
        "reverts", "losses", "reverted", "remarks", "logs", "lock_message", "down_seconds",
    )  # fmt: skip
    return {
        "format": FORMAT,
        **verdict.as_data(),
        "finished_at": finished_at,
        "cut_off": bool(facts["ended"]),
        **{name: facts[name] for name in kept},
    }


def _logs(logs: dict[str, list[str]]) -> list[str]:
    """The end of what the services wrote; the report has more of it."""
    lines = []
    for name, written in logs.items():
        lines.append(labelled("LOG", f"{name}{'' if written else ' wrote nothing'}"))
        lines += [f"  | {line}" for line in written[-_LOG_LINES:]]
    return lines


def adopted(report: dict[str, Any]) -> str:
    """That a database of another environment is one of this now, or was not made one."""
    one = report["adopts"]
    origin, env = printable(one["from"]), one["to"]
    became = {
        SWAP_DONE: f"this database was {origin}'s and is {env}'s now",
        SWAP_UNKNOWN: f"whether {origin}'s database is {env}'s now is not known",
    }
    words = became.get(report["swap"], f"nothing: no database of {origin} became one of {env}")
    return labelled("ADOPTED", f"{words}   reason: {printable(one['reason'])}")


def result_screen(report: dict[str, Any], where: str | None) -> str:
    """The end of a run on the screen; where: path of the written report, None when none was written."""
    lines: list[str] = []
    if report["failure"]:
        lines += [applied(report)] if report["applied"] else []
        lines += [reverted(report)] if report["reverted"] else []
        lines += failure(report["failure"])
    elif report["outcome"] != SUCCEEDED and not report["said"] and not report["cut_off"]:
        lines.append(labelled("FAILED", f"{report['failed_task']}: {report['failed_message']}"))
        lines += [f"  {text}" for one in report["refusals"] for text in (one["found"], one["next"]) if text]
    lines += _logs(report["logs"])
    if report["lock_message"]:
        lines.append(f"  warn  the run lock could not be given back, it ends by itself: {report['lock_message']}")
    if report["adopts"]:
        lines.append(adopted(report))
    window = f"   window {duration(report['window_seconds'])}" if report["window_seconds"] is not None else ""
    written = f"   report: {where}" if where else ""
    lines.append(labelled("RESULT", f"{WORDS[report['outcome']]}   schema {report['schema']}{window}{written}"))
    if report["outcome"] != SUCCEEDED:
        state = wrapped(report["state"]) if report["cut_off"] else [f"  {report['state']}"]
        lines += [*state, *([f"  {report['next']}"] if report["next"] else [])]
    return "\n".join(lines)
