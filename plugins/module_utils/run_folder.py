# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A run's folder on the database's host: its journal, the step at work, and the token that ends the run.

Steps, the guard and whoever comes after them meet here. Standard library only: every step in the window loads it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

RUN, JOURNAL, STEP, ENDED, CANCEL = "run.json", "journal.ndjson", "step", "ended.json", "cancel.json"
PROBES, REPORTS, PROGRAM = "probes.ndjson", "reports", "guard.pyz"

INTENT, DONE, FAILED, NOTE = "intent", "done", "failed", "note"
"""Events of the journal: before and after an outside effect, and what is worth knowing besides."""

_PUTS_RIGHT = ("START", "ACCESS")


class Ended(Exception):
    """No step of the run may begin: it was ended, or has lost what it needs; the text says why and what to type."""


def note(folder: Path, event: str, what: str, durable: bool = True, **details: Any) -> None:
    """Add a line to the journal; it is on the disk when this returns, unless ``durable`` is false.

    A line has ``at`` (UTC), ``mono`` (seconds of this host's monotonic clock), event, what and the details.
    """
    line = {"at": utc_now(), "mono": round(time.monotonic(), 3), "event": event, "what": what, **details}
    text = json.dumps(line, default=str).encode() + b"\n"
    handle = os.open(folder / JOURNAL, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        size = os.fstat(handle).st_size
        # What a crash or a full disk has cut off must not take this line with it.
        text = b"\n" + text if size and os.pread(handle, 1, size - 1) != b"\n" else text
        # One write of whole lines: those of two processes do not mix.
        if os.write(handle, text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durable:
            os.fdatasync(handle)
    finally:
        os.close(handle)


def utc_now() -> str:
    """The time by this host's clock, ISO 8601 with milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """The journal's lines, oldest first; what a crash has cut off at its end is left out."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / JOURNAL).read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return found


def read_json(path: Path) -> dict[str, Any] | None:
    """A file's JSON object; None when it is not there or not whole."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a file that only this user may read, whole or not at all, and onto the disk."""
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as handle:
        json.dump(data, handle, default=str)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # Its name is in the folder.
        os.fsync(folder)
    finally:
        os.close(folder)


def step_of(run_dir: str | None, phase: str, **details: Any) -> contextlib.AbstractContextManager[dict[str, Any]]:
    """``step`` for a run's folder; nothing without one."""
    return step(Path(run_dir), phase, **details) if run_dir else contextlib.nullcontext({})


@contextlib.contextmanager
def step(folder: Path, phase: str, **details: Any) -> Iterator[dict[str, Any]]:
    """Show the guard that a step of the run is at work, and write into the journal that it begins and how it ends.

    A file lock is the sign of life: it goes with its process. What the block puts into the dict that it is given
    becomes part of the last line. Raises Ended when the run is over: nothing may be touched any more.
    """
    with _step_file(folder) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        refuse_ended(folder)
        try:
            _write_step(handle, {"phase": phase, "pid": os.getpid(), "started": process_started(os.getpid())})
            note(folder, INTENT, phase, **details)
        except OSError as error:
            # A disk that is full must not keep the application down.
            if phase not in _PUTS_RIGHT:
                text = f"nothing was begun: {folder} cannot be written ({error.strerror}); make room there"
                raise Ended(text) from None
        told: dict[str, Any] = {}
        try:
            yield told
        except BaseException as error:
            if not (isinstance(error, SystemExit) and not error.code):
                _note_end(folder, FAILED, phase, {**told, "error": " ".join(str(error).split())[:500]})
                raise
            _note_end(folder, DONE, phase, told)
            raise
        else:
            _note_end(folder, FAILED if told.get("error") else DONE, phase, told)
        finally:
            os.utime(handle.fileno())


def _note_end(folder: Path, event: str, phase: str, told: dict[str, Any]) -> None:
    # What was done is done; a disk that is full now must not make a failure of it.
    with contextlib.suppress(OSError):
        note(folder, event, phase, **told)


def _step_file(folder: Path) -> Any:
    try:
        return (folder / STEP).open("r+")
    except FileNotFoundError:
        refuse_ended(folder)
        raise Ended(f"run {folder.name} is not going on; start again with the same command") from None


def _write_step(handle: Any, data: dict[str, Any]) -> None:
    # Past Python's buffer: what does not find room must not be tried once more when the file is closed.
    os.ftruncate(handle.fileno(), 0)
    os.pwrite(handle.fileno(), json.dumps(data).encode(), 0)


def refuse_ended(folder: Path) -> None:
    """Raise Ended when the run's folder, or what is kept of it among the reports, says that it was ended."""
    found = read_json(folder / ENDED) or read_json(folder.parent / REPORTS / folder.name / ENDED)
    if found:
        raise Ended(f"run {folder.name} was ended: {found['why']}; what to do now: {found['next']}")


@contextlib.contextmanager
def between_steps(folder: Path) -> Iterator[bool]:
    """Whether no step is at work; if so, none begins while the block runs."""
    with contextlib.ExitStack() as stack:
        try:
            handle = stack.enter_context((folder / STEP).open("r+"))
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        except FileNotFoundError:
            yield True
        else:
            yield True


def sign_of_life(run_dir: str) -> None:
    """Show the guard that a step is about to begin: what it needs before may take a while."""
    with contextlib.suppress(OSError):
        os.utime(Path(run_dir) / STEP)


def require_guard(run_dir: str | None) -> None:
    """Raise Ended when nobody would start again what is about to be stopped."""
    if run_dir and guard_pid(Path(run_dir)) is None:
        refuse_ended(Path(run_dir))
        raise Ended("the run's guard is gone, so nothing is stopped; start again with the same command")


def read_step(folder: Path) -> dict[str, Any]:
    """The step that is or was at work: phase, pid and started; empty before the first one."""
    return read_json(folder / STEP) or {}


def at_work(folder: Path) -> bool:
    """Whether a step of the run is at work at this moment."""
    try:
        with (folder / STEP).open() as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False
    except FileNotFoundError:
        return False


def process_started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with its number it names one process only (proc(5))."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def guard_pid(folder: Path) -> int | None:
    """The process that guards this run, found by its argument list, never by a number on file."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return next((pid for pid in pids if guards(pid, folder)), None)


def guards(pid: int, folder: Path) -> bool:
    """Whether a process is this run's guard."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return str(folder / PROGRAM).encode() in words and b"watch" in words


def unsettled(state_dir: Path, database: str) -> list[Path]:
    """Folders of runs on a database that are over without having come to an end: nobody guards them any more."""
    return [folder for folder in _of_database(state_dir, database) if guard_pid(folder) is None]


def guarded(state_dir: Path, database: str) -> list[Path]:
    """Folders of runs on a database that are going on."""
    return [folder for folder in _of_database(state_dir, database) if guard_pid(folder) is not None]


def _of_database(state_dir: Path, database: str) -> list[Path]:
    folders = sorted(path.parent for path in state_dir.glob(f"*/{RUN}"))
    return [folder for folder in folders if (read_json(folder / RUN) or {}).get("database") == database]
