# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Copying a backup to where the loss of its host does not reach it, and reading the copy back there."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ansible_collections.habitat.runbook.plugins.module_utils import dump_files
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.running_program import (
    Program,
    ProgramFailed,
    ending,
    quiet_environment,
)
from ansible_collections.habitat.runbook.plugins.module_utils.table import duration, printable, size

_FILE_MODE, _FOLDER_MODE = 0o600, 0o700
_CHUNK = 1024 * 1024
_POLL_SECONDS = 0.05
_SHOWN = 200  # characters of what a program says when it fails
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_KNOWN = ("id", "dump", "manifest", "globals")
_USER_IN_URL = re.compile(r"://[^/@\s]+@")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_folder(folder: Path, backup_dir: Path) -> list[str]:
    """Raise BackupError unless copies can be put into the folder; returns what is odd about it, as clauses."""
    if not folder.is_dir():
        raise BackupError(f"{folder}, where backups are copied to, is not there; mount it or correct its name")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BackupError(f"{folder}, where backups are copied to, cannot be written to; correct its owner or mode")
    if folder.resolve() == backup_dir.resolve():
        raise BackupError(f"{folder} is the folder of the backups itself; name another one to copy them to")
    same = backup_dir.exists() and backup_dir.stat().st_dev == folder.stat().st_dev
    return [f"{folder} is on the same disk as the backups; is something not mounted?"] if same else []


def check_commands(*commands: Sequence[str]) -> None:
    """Raise BackupError for a command whose program is not there, or whose words name something unknown in braces."""
    for words in commands:
        if not words:
            raise BackupError("a command for copying backups has no words; give the program and its arguments")
        if shutil.which(words[0]) is None:
            raise BackupError(f"{printable(words[0])}, which copies backups, is not there; install it or correct it")
        unknown = [name for word in words for name in _PLACEHOLDER.findall(word) if name not in _KNOWN]
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in _KNOWN)
            raise BackupError(f"{{{unknown[0]}}} in a command for copying backups is not known; known: {known}")


def into_folder(backup_dir: Path, told: dict[str, Any], folder: Path) -> bool:
    """Copy a backup into a folder, read it back from there, and say whether anything had to be copied.

    ``told``: the backup's manifest. Raises BackupError, and then nothing half copied is left.
    """
    check_folder(folder, backup_dir)
    wanted = {told[part]["file"]: told[part]["sha256"] for part in ("dump", "globals")}
    manifest = f"{told['id']}.json"
    # Last, so that a manifest says that the rest is there whole, as in the folder of the backups.
    wanted[manifest] = dump_files.digest_of(backup_dir / manifest)
    try:
        return any([_copy_one(backup_dir / name, folder / name, digest) for name, digest in wanted.items()])
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise BackupError(f"backup {told['id']} could not be copied to {folder}: {error.strerror}") from error
        needed = size(told["dump"]["size"])
        raise BackupError(f"{folder} has no room for backup {told['id']} ({needed}); make room there") from error
    except dump_files.NotADump as error:
        raise BackupError(f"backup {told['id']} could not be copied to {folder}: {error}") from error


def _copy_one(source: Path, target: Path, digest: str) -> bool:
    if os.path.lexists(target):
        if dump_files.digest_of(target) == digest:
            return False
        raise BackupError(f"{target} is there already and is another one; give every host a folder of its own")
    part = target.with_name(f"{target.name}.part")
    dump_files.remove(part)
    try:
        _copy(source, part)
        dump_files.to_disk(part)
        found = dump_files.digest_of(part)
        if found != digest:
            raise BackupError(f"{target.name} read back from {target.parent} is not what was copied; look at that disk")
        part.rename(target)
        dump_files.sync_folder(target.parent)
    finally:
        dump_files.remove(part)
    return True


def _copy(source: Path, target: Path) -> None:
    if dump_files.form_of(source) == dump_files.CUSTOM:
        return _copy_file(source, target)
    target.mkdir(mode=_FOLDER_MODE)
    for path in dump_files.files_of(source):
        _copy_file(path, target / path.name)
    return None


def _copy_file(source: Path, target: Path) -> None:
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE_MODE)
    with source.open("rb") as given, open(fd, "wb") as taken:  # noqa: PTH123 - a descriptor, not a path
        shutil.copyfileobj(given, taken, _CHUNK)


def by_command(
    backup_dir: Path, told: dict[str, Any], command: Sequence[str], verify: Sequence[str], seconds: float
) -> None:
    """Copy a backup by a program, and have another one say the copy's sha256; each has so many seconds.

    Raises BackupError when one of them fails, or when the sha256 is not the dump's.
    """
    check_commands(command, verify)
    values = {
        "id": told["id"],
        "manifest": str(backup_dir / f"{told['id']}.json"),
        **{part: str(backup_dir / told[part]["file"]) for part in ("dump", "globals")},
    }
    _run(_filled(command, values), seconds, "copying", subprocess.DEVNULL)
    with os.fdopen(os.memfd_create("verify"), "w+b") as output:
        _run(_filled(verify, values), seconds, "reading back", output)
        output.seek(0)
        found = digest_told(output.read().decode(errors="replace"), told["dump"]["form"])
    if found != told["dump"]["sha256"]:
        said = f"its sha256 there is {found[:8]}..." if _SHA256.fullmatch(found) else "no sha256 was printed"
        raise BackupError(
            f"the copy of backup {told['id']} is not what was copied: {said}, and the manifest's is "
            f"{told['dump']['sha256'][:8]}...; look at the place it was copied to"
        )


def digest_told(text: str, form: str) -> str:
    """The sha256 of a dump by what sha256sum printed about it; "" without a line.

    In the directory form there is a line for each file of the dump, in any order and with or without folders.
    """
    rows = [line.lstrip("\\").split(None, 1) for line in text.splitlines() if line.strip()]
    if form == dump_files.CUSTOM:
        return rows[0][0] if rows else ""
    names = {row[1].lstrip("*").rstrip().rsplit("/", 1)[-1]: row[0] for row in rows if len(row) > 1}
    # As dump_files.digest_of has it.
    lines = "".join(f"{names[name]}  {name}\n" for name in sorted(names))
    return hashlib.sha256(lines.encode()).hexdigest() if lines else ""


def _filled(words: Sequence[str], values: dict[str, str]) -> list[str]:
    return [_PLACEHOLDER.sub(lambda found: values[found[1]], word) for word in words]


def _run(command: list[str], seconds: float, what: str, output: int | BinaryIO) -> None:
    deadline = time.monotonic() + seconds
    try:
        with ending(Program(command, quiet_environment(), output)) as program:
            while not program.ended_well():
                if time.monotonic() > deadline:
                    limit = f"it took longer than {duration(seconds)} and was ended"
                    raise BackupError(f"{what} the backup failed: {limit}; see habitat_backup_copy.time_limit")
                time.sleep(_POLL_SECONDS)
    except ProgramFailed as error:
        raise BackupError(f"{what} the backup failed: {_one_line(error)}") from error
    except OSError as error:
        raise BackupError(f"{what} the backup failed: {printable(command[0])}: {error.strerror}") from error


def _one_line(error: Exception) -> str:
    """What a program said, without what it may have told of names and passwords in addresses, and not at length."""
    text = _USER_IN_URL.sub("://***@", printable(str(error)))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
