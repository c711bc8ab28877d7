# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The run lock's holder: a small process of its own on the database's host, one per run.

It keeps an advisory lock in a session to database ``postgres`` (not the target's, which must stay renamable) and is
gone with the run: when it is told to (SIGTERM), when the controller's process on the same machine ends, or when no
step of the run has shown a sign of life for ``silence`` seconds. A step shows one by holding a lock on the file
``step`` while it works; a file lock dies with its process, so a killed step never looks alive.

This file is copied to the run's folder and runs from there: standard library and psycopg only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psycopg

POLL_SECONDS = 0.2
LOCK_CLASS = 0x48525542  # "HRUB": keeps our advisory locks apart from anybody else's

_HOLDER = """
SELECT a.query, a.application_name, a.backend_start, a.client_addr::text FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s AND l.objsubid = 2"""


def read_holder(connection: psycopg.Connection, key: int) -> dict[str, Any] | None:
    """Who holds the lock: ``{"run_id", "operator", "from", "since", "phase"}``, or None when it is free.

    The holder keeps this as a comment in its session's last query, where every session of the same role can read it.
    """
    row = connection.execute(_HOLDER, [LOCK_CLASS, key]).fetchone()
    if row is None:
        return None
    query, application_name, since, _ = row
    _, mark, label = (query or "").partition("/* ")
    known = json.loads(label.rpartition(" */")[0]) if mark else {"run_id": application_name.rpartition("/")[2]}
    return dict(known, since=since.isoformat())


def main(folder: Path) -> int:
    """Take the lock, say so on standard output as one JSON line, and hold it until the run is over."""
    task = json.loads(sys.stdin.readline())
    controller = _watch(task["controller_pid"])
    connection = psycopg.connect(**task["connect"], autocommit=True)
    row = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", [LOCK_CLASS, task["key"]]).fetchone()
    if not (row and row[0]):
        print(json.dumps({"held": False, "holder": read_holder(connection, task["key"])}), flush=True)
        return 0
    label = task["label"]
    _show(connection, label)
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print(json.dumps({"held": True, "pid": os.getpid()}), flush=True)
    _leave_caller()
    while not stopped and not _gone(controller) and _alive(folder / "step", task["silence"]):
        label = _follow_phase(connection, folder / "step", label)
        time.sleep(POLL_SECONDS)
    with contextlib.suppress(psycopg.Error):
        connection.close()
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _leave_caller() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def _watch(pid: int | None) -> int | None:
    """A descriptor that becomes readable when the process ends; it cannot be confused with a later one."""
    if pid is None:
        return None
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _gone(descriptor: int | None) -> bool:
    return descriptor is not None and bool(select.select([descriptor], [], [], 0)[0])


def _alive(step: Path, silence: float) -> bool:
    try:
        with step.open() as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return time.time() - os.fstat(handle.fileno()).st_mtime < silence
    except FileNotFoundError:
        return False


def _follow_phase(connection: psycopg.Connection, step: Path, label: dict[str, Any]) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        phase = step.read_text().strip()
        if phase and phase != label["phase"]:
            label = dict(label, phase=phase)
            _show(connection, label)
    return label


def _show(connection: psycopg.Connection, label: dict[str, Any]) -> None:
    # Written so, no text can end the comment, and it is the same JSON.
    text = json.dumps(label).replace("/", "\\u002f")
    connection.execute(f"SELECT 1 /* {text} */".encode())


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
