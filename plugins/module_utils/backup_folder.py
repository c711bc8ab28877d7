# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The folder of backups: nobody else reads it, what is half written carries ``.part``, the manifest comes last.

Three renames end a backup: the globals', the dump's and then the manifest's. The manifest is complete on disk before
the first of them, so that a run killed after the dump's has left a backup which only lacks its last rename.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.habitat.runbook.plugins.module_utils import dump_files
from ansible_collections.habitat.runbook.plugins.module_utils.dump_files import sync_folder
from ansible_collections.habitat.runbook.plugins.module_utils.interruption import uninterrupted
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import NAME, BackupError

_OURS_ALONE = 0o700
_FILE_MODE = 0o600


def check_folder(folder: Path) -> None:
    """Raise BackupError when the folder is there but is not a folder of this user."""
    try:
        info = folder.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BackupError(f"backup_dir {folder} cannot be used: {error.strerror}") from error
    if not stat.S_ISDIR(info.st_mode):
        raise BackupError(f"backup_dir {folder} is not a folder; name another one")
    if info.st_uid != os.geteuid():
        raise BackupError(
            f"backup_dir {folder} belongs to user {info.st_uid} and not to {os.geteuid()}, who runs this; "
            f"give it to {os.geteuid()} or name another one"
        )


def prepare_folder(folder: Path) -> None:
    """Create the folder with mode 0700, or take the access of others away. Raises BackupError when it cannot."""
    check_folder(folder)
    try:
        folder.mkdir(mode=_OURS_ALONE, parents=True, exist_ok=True)
        folder.chmod(_OURS_ALONE)
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError as error:
        raise BackupError(f"backup_dir {folder} cannot be made private: {error.strerror}; name another one") from error
    if mode & ~_OURS_ALONE:
        # File systems without permissions accept chmod and change nothing.
        raise BackupError(f"backup_dir {folder} has mode {mode:04o} even after chmod 0700; name another one")


def refuse_existing(folder: Path, backup: str) -> None:
    """Raise BackupError when files of this backup are there under their final names."""
    for name in (f"{backup}.json", f"{backup}.dump", f"{backup}.globals.sql"):
        if os.path.lexists(folder / name):
            raise BackupError(f"{folder / name} is there already; a run takes one backup, start another run")


def clean_up(folder: Path) -> list[str]:
    """Remove what dead runs left half written and return the names.

    Whoever writes a dump holds a lock on it, and the kernel frees the lock with the process: free means dead.
    """
    removed = []
    for path in sorted(folder.glob("*.dump.part")):
        if NAME.match(path.name[: -len(".dump.part")]):
            with _dead(path) as dead:
                if dead:
                    dump_files.remove(path)
                    removed.append(path.name)
    for path in sorted(folder.glob("*.json.part")):
        name = path.name[: -len(".json.part")]
        if NAME.match(name) and _finish_or_remove(folder, name):
            removed.append(path.name)
    return removed + _remove_lone_globals(folder)


def _remove_lone_globals(folder: Path) -> list[str]:
    """Remove globals without anything else of their backup; whoever writes one has a dump beside them all the time."""
    removed = []
    for path in sorted([*folder.glob("*.globals.sql"), *folder.glob("*.globals.sql.part")]):
        name = path.name.split(".", 1)[0]
        rest = (".json", ".json.part", ".dump", ".dump.part")
        if NAME.match(name) and not any(os.path.lexists(folder / f"{name}{end}") for end in rest):
            path.unlink()
            removed.append(path.name)
    return removed


def _finish_or_remove(folder: Path, backup: str) -> bool:
    dump, half = folder / f"{backup}.dump", folder / f"{backup}.json.part"
    if os.path.lexists(folder / f"{backup}.dump.part"):
        return False
    if not os.path.lexists(dump):
        half.unlink()
        return True
    with _dead(dump) as dead:
        if dead:
            half.rename(folder / f"{backup}.json")
            sync_folder(folder)
    return False


@contextmanager
def _dead(path: Path) -> Iterator[bool]:
    """Whether nobody holds the file's lock; inside the block nobody else can take it."""
    try:
        # Never through a symbolic link; a file for writing, because locks on NFS ask for it.
        way = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR
        fd = os.open(path, way | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        yield _lock_now(fd) is None
    finally:
        os.close(fd)


def _lock_now(fd: int) -> str | None:
    """Lock without waiting; the reason when that does not work."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.strerror
    return None


@contextmanager
def partial_dump(folder: Path, backup: str, form: str = dump_files.CUSTOM) -> Iterator[int]:
    """Yield a descriptor of the new, locked ``<id>.dump.part``; whatever still is ``.part`` at the end is removed.

    In the directory form it is an empty folder.

    Programs that inherit the descriptor inherit the lock: it is free when the last of them is gone.
    """
    path = folder / f"{backup}.dump.part"
    fd = None
    try:
        with uninterrupted():
            fd = _created(path, form)
        _lock(fd, path)
        yield fd
    finally:
        if fd is not None:
            with uninterrupted():
                dump_files.remove(path)
                for name in (f"{backup}.globals.sql.part", f"{backup}.json.part"):
                    (folder / name).unlink(missing_ok=True)
                os.close(fd)


def _created(path: Path, form: str) -> int:
    try:
        return _new_folder(path) if form == dump_files.DIRECTORY else _new_file(path)
    except FileExistsError as error:
        raise BackupError(f"{path} is being written by another process; wait for it to end") from error


def _new_file(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
    os.fchmod(fd, _FILE_MODE)
    return fd


def _new_folder(path: Path) -> int:
    path.mkdir(mode=_OURS_ALONE)
    path.chmod(_OURS_ALONE)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _lock(fd: int, path: Path) -> None:
    reason = _lock_now(fd)
    if reason:
        raise BackupError(f"{path} cannot be locked: {reason}; run this again, on a local disk if that is not enough")
    if os.fstat(fd).st_nlink == 0:
        raise BackupError(f"{path} was taken for a left-over by another backup; run this again")


def write_globals(folder: Path, backup: str, text: str) -> Path:
    """Write ``<id>.globals.sql.part`` to the disk; ``publish`` gives it its name."""
    path = folder / f"{backup}.globals.sql.part"
    _write_synced(path, text)
    return path


def publish(folder: Path, backup: str, manifest: str) -> None:
    """Give the globals and the dump their final names and put the manifest beside them. On an error none is there."""
    ends = (".json.part", ".json", ".dump", ".globals.sql")
    half, final, dump, globals_file = (folder / f"{backup}{end}" for end in ends)
    _write_synced(half, manifest)
    named: list[Path] = []
    try:
        (folder / f"{backup}.globals.sql.part").rename(globals_file)
        named.append(globals_file)
        (folder / f"{backup}.dump.part").rename(dump)
        named.append(dump)
        sync_folder(folder)
        half.rename(final)
        named.append(final)
        sync_folder(folder)
    except BaseException:
        for path in reversed(named):
            dump_files.remove(path)
        raise


def _write_synced(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
    with open(fd, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123 - a descriptor, not a path
        os.fchmod(fd, _FILE_MODE)
        file.write(text)
        file.flush()
        os.fsync(fd)
