# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Take, check and release the run lock, which covers a run from preflight to report."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import holder
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError

LOCK_DATABASE = "postgres"
_START_SECONDS = 20
_END_SECONDS = 10
_ATTEMPTS = 3


class LockError(Exception):
    """The lock cannot be taken for another reason than being held; the text says which."""


def lock_key(database: str) -> int:
    """Second half of the advisory lock's key, one lock per target database: 31 bits, so never a negative int4."""
    return zlib.crc32(database.encode()) & 0x7FFFFFFF


def lock_application_name(run_id: str) -> str:
    """application_name of the holder's session; not that of the run's working sessions, which get ended."""
    return f"runbook-lock/{run_id}"


def acquire(folder: Path, connect: dict[str, Any], database: str, label: dict[str, Any], watch: dict) -> dict | None:
    """Start the holder in ``folder`` (created, 0700). Returns None when it holds the lock, else who does.

    connect: keyword arguments of psycopg.connect for the server (dbname is set here); they reach the holder through
    its standard input only. label: run_id, operator, from, phase. watch: ``{"controller_pid", "silence"}``.
    Raises LockError when the holder does not start.
    """
    folder.mkdir(mode=0o700, parents=True)
    (folder / "step").write_text(label["phase"])
    script = folder / "holder.py"
    script.write_text(inspect.getsource(holder))
    task = {
        "connect": dict(connect, dbname=LOCK_DATABASE, application_name=lock_application_name(label["run_id"])),
        "key": lock_key(database),
        "label": label,
        **watch,
    }
    for _ in range(_ATTEMPTS):
        answer = _start(script, task)
        # Nobody holds it any more, although somebody did a moment before: ask again.
        if answer.get("held") or answer.get("holder") or "error" in answer:
            break
    if answer.get("held"):
        return None
    shutil.rmtree(folder, ignore_errors=True)
    if "error" in answer:
        raise LockError(answer["error"])
    return answer["holder"] or {}


def _start(script: Path, task: dict[str, Any]) -> dict[str, Any]:
    process = subprocess.Popen(
        [sys.executable, str(script), str(script.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd="/",
    )
    assert process.stdin and process.stdout and process.stderr  # noqa: S101
    process.stdin.write(json.dumps(task).encode() + b"\n")
    process.stdin.close()
    ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
    line = process.stdout.readline() if ready else b""
    if line:
        return json.loads(line)
    process.kill()
    lines = process.stderr.read().decode(errors="replace").strip().splitlines()
    return {"error": f"the run lock's holder did not start: {lines[-1] if lines else 'no answer'}"}


def release(connection: psycopg.Connection, folder: Path, run_id: str) -> bool:
    """End this run's holder and wait until it is gone; False when it was not there any more."""
    pid = holder_pid(folder)
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    query = "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE application_name = %s"
    # It ends when the fence is open, for which the server may have to come back first.
    patience = _END_SECONDS + (holder.OPEN_SECONDS if (folder / holder.FENCE).exists() else 0)
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        row = connection.execute(query, [lock_application_name(run_id)]).fetchone()
        if not (row and row[0]) and not _runs(pid, folder):
            return True
        time.sleep(0.02)
    raise LockError(f"the run lock's holder (pid {pid}) does not end")


def holder_pid(folder: Path) -> int | None:
    """The process that runs this folder's holder.py, found by its argument list, never by a number on file."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return next((pid for pid in pids if _runs(pid, folder)), None)


def _runs(pid: int, folder: Path) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return str(folder / "holder.py").encode() in words


def held_by(connection: psycopg.Connection, database: str) -> dict[str, Any] | None:
    """Who holds the run lock of a database: run_id, operator, from, since, phase; None when it is free."""
    return holder.read_holder(connection, lock_key(database))


def require(connection: psycopg.Connection, database: str, run_dir: str | None, run_id: str) -> None:
    """Raise BackupError unless this run holds the lock; without a run_dir there is no run that could."""
    holder_now = held_by(connection, database) if run_dir else None
    if run_dir and (not holder_now or holder_now["run_id"] != run_id):
        who = f"run {holder_now['run_id']} does" if holder_now else "nobody does"
        raise BackupError(f"this run does not hold the run lock ({who}); start again with the same command")


def step_of(run_dir: str | None, phase: str) -> contextlib.AbstractContextManager[None]:
    """``step`` for a run's folder, nothing without one."""
    return step(Path(run_dir), phase) if run_dir else contextlib.nullcontext()


@contextlib.contextmanager
def step(folder: Path, phase: str) -> Iterator[None]:
    """Show that a step of the run is at work: the holder sees the phase, and that its process lives."""
    with (folder / "step").open("r+") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.truncate(0)
        handle.write(phase)
        handle.flush()
        try:
            yield
        finally:
            os.utime(handle.fileno())
