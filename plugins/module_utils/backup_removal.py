# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Removing a backup so that what is left of it at any moment is either a whole backup or none.

The manifest goes first: it becomes ``<id>.json.removed``, which nobody takes for a manifest, and stays until everything
else is gone, so that the next removal knows what to finish.
"""

from __future__ import annotations

from pathlib import Path

from ansible_collections.habitat.runbook.plugins.module_utils import dump_files
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import NAME

_MARK = ".json.removed"


def remove(folder: Path, backup: str) -> None:
    """Remove a backup. Raises OSError; then ``finish`` does the rest."""
    (folder / f"{backup}.json").rename(folder / f"{backup}{_MARK}")
    # Before anything of it is gone, the disk must know that it is no backup any more.
    dump_files.sync_folder(folder)
    _remove_rest(folder, backup)


def half_removed(folder: Path) -> list[str]:
    """Ids of backups whose removal was cut off."""
    names = (path.name[: -len(_MARK)] for path in folder.glob(f"*{_MARK}"))
    return sorted(name for name in names if NAME.match(name))


def finish(folder: Path) -> list[str]:
    """Remove what is left of backups whose removal was cut off, and return their ids. Raises OSError."""
    found = half_removed(folder)
    for backup in found:
        _remove_rest(folder, backup)
    return found


def _remove_rest(folder: Path, backup: str) -> None:
    dump_files.remove(folder / f"{backup}.dump")
    (folder / f"{backup}.globals.sql").unlink(missing_ok=True)
    dump_files.sync_folder(folder)
    (folder / f"{backup}{_MARK}").unlink()
    dump_files.sync_folder(folder)
