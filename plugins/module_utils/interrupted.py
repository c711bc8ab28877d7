# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Runs on this host that were cut off: what is known of them, and what somebody has to do. Reads only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils import account, probe, run_folder


def list_unsettled(state_dir: Path, database: str) -> list[dict[str, Any]]:
    """Runs on a database that nobody guards and nobody has put right, oldest first: see ``describe``."""
    found = [describe(folder) for folder in run_folder.unsettled(state_dir, database)]
    return [one for one in found if one]


def describe(folder: Path) -> dict[str, Any]:
    """A run by its journal: run_id, operator, origin, where (it was cut off), at, stopped (services), next.

    Empty when it came to its end, or somebody has put it right, since it was looked for.
    """
    run = run_folder.read_json(folder / run_folder.RUN)
    if not run:
        return {}
    lines = run_folder.read_journal(folder)
    progress = account.Progress().follow(lines)
    return {
        "run_id": folder.name,
        "operator": run["operator"],
        "origin": run["origin"],
        "where": account.where(progress),
        "at": lines[-1]["at"] if lines else None,
        "stopped": progress.stopped,
        "next": account.resume(run),
    }


def refusals(state_dir: Path, database: str) -> list[dict[str, str]]:
    """Why no new run may begin: what, found and next."""
    return [
        {
            "what": f"run {one['run_id']} by {one['operator']} was cut off {one['where']} and not put right yet",
            "found": f"its services are stopped: {', '.join(one['stopped'])}" if one["stopped"] else "",
            "next": one["next"],
        }
        for one in list_unsettled(state_dir, database)
    ]


def seen(folder: Path) -> dict[str, Any]:
    """What is kept of a run that is over: ``ended``, the guard's report if it ended the run, and ``probes``."""
    kept = folder.parent / run_folder.REPORTS / folder.name
    probes = probe.read_probes(kept)
    good = sum(1 for one in probes if one["good"])
    told = run_folder.read_json(kept / "report.json")
    return {
        "ended": told if told and told.get("cut_off") else None,
        "probes": {"asked": len(probes), "good": good, "down_seconds": account.down_seconds(probes)},
    }


def last_cut_off(state_dir: Path, database: str) -> dict[str, Any] | None:
    """The report of the newest run on a database if that one was cut off and is to be finished; else None."""
    for path in sorted((state_dir / run_folder.REPORTS).glob("*/report.json"), reverse=True):
        told = run_folder.read_json(path)
        if told and told.get("database") == database and not _says_nothing(told):
            unfinished = told.get("cut_off") and account.goes_on(told["run"])
            return told if unfinished else None
    return None


def _says_nothing(told: dict[str, Any]) -> bool:
    """Whether a run leaves open what became of the one before it: it was refused, or only took or tried a backup."""
    return told["outcome"] == "refused" or told["run"]["command"].removesuffix(".yml").endswith(("backup", "drill"))


def take_on(state_dir: Path, told: dict[str, Any], run_id: str) -> None:
    """Note in a cut-off run's report that another run finishes what it began."""
    kept = state_dir / run_folder.REPORTS / told["run"]["id"]
    run_folder.write_json(kept / "report.json", {**told, "cut_off": False, "resumed_by": run_id, "next": ""})
