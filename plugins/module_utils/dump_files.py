# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A dump on disk: one file in pg_dump's custom form, or a folder of files in its directory form."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

CUSTOM = "custom"
DIRECTORY = "directory"

_CHUNK = 1024 * 1024


class NotADump(ValueError):
    """Something in the place of a dump that pg_dump has not made; the text is a clause."""


def form_of(dump: Path) -> str:
    """CUSTOM or DIRECTORY. Raises NotADump for anything else and OSError."""
    mode = dump.lstat().st_mode
    if stat.S_ISDIR(mode):
        return DIRECTORY
    if stat.S_ISREG(mode):
        return CUSTOM
    raise NotADump("the dump is neither a regular file nor a folder")


def files_of(dump: Path) -> list[Path]:
    """The dump itself, or the files of its folder by name. Raises NotADump for a folder with anything else, OSError."""
    if form_of(dump) == CUSTOM:
        return [dump]
    found = sorted(dump.iterdir())
    for path in found:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise NotADump(f"{path.name} in the dump's folder is not a regular file")
    return found


def size_of(dump: Path) -> int:
    """Bytes of the dump. Raises as ``files_of``."""
    return sum(path.lstat().st_size for path in files_of(dump))


def digest_of(dump: Path) -> str:
    """sha256 (hex) of a file; of a folder that of the lines which ``sha256sum *`` prints in it.

    Raises as ``files_of``.
    """
    files = files_of(dump)
    if files == [dump]:
        return _file_digest(dump)
    lines = [f"{_file_digest(path)}  {path.name}\n" for path in files]
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def to_disk(dump: Path) -> None:
    """Make the dump survive a power cut, and forget its pages, so that what is read next comes from the disk."""
    for path in files_of(dump):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)
    if form_of(dump) == DIRECTORY:
        sync_folder(dump)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(dump: Path) -> None:
    """Remove a dump, or what there is of it; nothing happens where there is none."""
    try:
        files = list(dump.iterdir()) if stat.S_ISDIR(dump.lstat().st_mode) else []
    except FileNotFoundError:
        return
    for path in files:
        path.unlink()
    if stat.S_ISDIR(dump.lstat().st_mode):
        dump.rmdir()
    else:
        dump.unlink()
