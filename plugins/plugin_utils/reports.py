# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The reports of a run on the controller: one folder per run, in it one per host where there are several."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write(folder: Path, data: dict[str, Any], text: str) -> None:
    """Write report.json and report.md, readable by this user only: a statement in them may show data."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, content in (("report.json", json.dumps(data, indent=2)), ("report.md", text)):
        part = folder / f"{name}.part"
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as handle:
            handle.write(content + "\n")
        part.replace(folder / name)


def of_hosts(folder: Path) -> dict[str, dict[str, Any]]:
    """The reports in a run's folder by host."""
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/report.json")}


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
