# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What the report of a run says about how things were left. Pure, but for reading the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils import account, run_folder

_KEPT = ("run", "host", "outcome", "schema", "finished_at", "state", "next")


def read(path: Path) -> dict[str, Any] | None:
    """Those parts of a report.json that status shows; None when it is not the report of a host's run."""
    try:
        found = json.loads(path.read_text())
        return {"cut_off": bool(found.get("cut_off")), **{name: found[name] for name in _KEPT}}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def newest(folder: Path, env: str) -> dict[str, Any] | None:
    """The newest report of an environment in a folder with one folder per run, named by run ids, which sort by time."""
    for path in sorted(folder.glob("*/report.json"), reverse=True):
        found = read(path)
        if found and found["run"]["env"] == env:
            done = found["cut_off"] and _repeated(path.parent, found["run"])
            return {**found, "next": ""} if done else found
    return None


def _repeated(folder: Path, run: dict[str, Any]) -> bool:
    """Whether a later run that has left no report did the same, and did it well."""
    later = [path for path in folder.parent.iterdir() if path.name > folder.name]
    return any(_does(path, run) and _did_well(path) for path in later)


def _does(folder: Path, run: dict[str, Any]) -> bool:
    found = run_folder.read_json(folder / run_folder.RUN) or {}
    return all(found.get(name) == run[name] for name in ("env", "command", "inputs"))


def _did_well(folder: Path) -> bool:
    lines = run_folder.read_journal(folder)
    done = {line["what"] for line in lines if line["event"] == run_folder.DONE}
    return bool(done - {"PREFLIGHT", account.RELEASE}) and all(line["event"] != run_folder.FAILED for line in lines)
