# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What is kept of the last drill of every database on a host: ``drill.json`` in the folder of all reports there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils import run_folder

FILE = "drill.json"


def record(state_dir: Path, database: str, entry: dict[str, Any]) -> None:
    """Keep the last drill of a database: id, at (ISO 8601), ok, seconds (None when it failed), error, operator, run_id.

    Raises OSError.
    """
    folder = state_dir / run_folder.REPORTS
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = run_folder.read_json(folder / FILE) or {}
    run_folder.write_json(folder / FILE, {**known, database: entry})


def read_last(state_dir: Path, database: str) -> dict[str, Any] | None:
    """The last drill of a database, see ``record``; None when there was none or the file is damaged."""
    found = (run_folder.read_json(state_dir / run_folder.REPORTS / FILE) or {}).get(database)
    return found if isinstance(found, dict) and {"id", "at", "ok", "seconds"} <= set(found) else None
