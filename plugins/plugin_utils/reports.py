# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The reports of a run on the controller: one folder per run, in it one per host where there are several."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils import fleet


def write(folder: Path, data: dict[str, Any], text: str) -> None:
    """Write report.json and report.md, readable by this user only: a statement in them may show data."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, content in (("report.json", json.dumps(data, indent=2)), ("report.md", text)):
        part = folder / f"{name}.part"
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as handle:
            handle.write(content + "\n")
        part.replace(folder / name)


def of_host(folder: Path, host: str) -> Path:
    """Folder of a host's report in that of its run."""
    return folder / host.replace(os.sep, "_")


def of_hosts(folder: Path) -> dict[str, dict[str, Any]]:
    """The reports in a run's folder by host."""
    found = [json.loads(path.read_text()) for path in folder.glob("*/report.json")]
    return {report["host"]: report for report in found}


def begun(task_vars: dict[str, Any]) -> dict[str, str]:
    """How the hosts stand that were begun in this play, for ``fleet.combine``, by what their tasks have registered."""
    found = {}
    for host in task_vars["ansible_play_hosts_all"]:
        known = task_vars["hostvars"][host]
        taken = known.get("turn_taken")
        # A play that is left out for a host leaves a result, too.
        if taken is None or taken.get("skipped"):
            continue
        if host in task_vars["ansible_play_batch"]:
            found[host] = fleet.GOING_ON
        else:
            found[host] = fleet.NOTHING_TO_DO if _had_nothing_to_do(known) else fleet.LOST
    return found


def _had_nothing_to_do(known: Mapping[str, Any]) -> bool:
    looked = known.get("preflight_ledger") or {}
    planned = known.get("plan_revert_found") or {}
    return looked.get("pending") == [] or planned.get("reverts") == []


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one host at a time write what is about all of them."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
