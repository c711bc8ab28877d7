# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The run lock's holder: a small process of its own on the database's host, one per run.

It keeps an advisory lock in a session to database ``postgres`` (not the target's, which must stay renamable) and is
gone with the run: when it is told to (SIGTERM), when the controller's process on the same machine has ended and no step
is at work any more, or when no step has shown a sign of life for ``silence`` seconds. A step shows one by holding a
lock on the file ``step`` while it works; a file lock dies with its process, so a killed step never looks alive.

While the run keeps the application out of the database (file ``fence.json``, see fence.py) it ends the sessions that no
right can keep out, and it opens the fence when the run is over without having done so.

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
from psycopg import sql

POLL_SECONDS = 0.2
FENCED_POLL_SECONDS = 0.02
OPEN_SECONDS = 60
FENCE = "fence.json"
LOCK_CLASS = 0x48525542  # "HRUB": keeps our advisory locks apart from anybody else's

_HOLDER = """
SELECT a.query, a.application_name, a.backend_start, a.client_addr::text FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.classid = %s AND l.objid = %s AND l.objsubid = 2"""

NAME_OF = "SELECT datname FROM pg_catalog.pg_database WHERE oid = %s"
_GRANT = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}{}")
_END = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE datid = %s AND usename = ANY(%s) AND backend_type = 'client backend' AND application_name NOT LIKE 'runbook%%'"""


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


def let_in(connection: psycopg.Connection, record: dict[str, Any], name: str | None = None) -> None:
    """Give back the rights to connect that a fence's record names, to the database ``name``.

    Left out, it is the fenced one by its oid, whatever it is called by now; one that is gone needs nothing.
    """
    if name is None:
        row = connection.execute(NAME_OF, [record["oid"]]).fetchone()
        name = row[0] if row else None
    if name is None:
        return
    for grant in record["grants"]:
        grantee = _grantee(connection, grant)
        if grantee is None:
            continue
        option = sql.SQL(" WITH GRANT OPTION" if grant["grantable"] else "")
        connection.execute(_GRANT.format(sql.Identifier(name), grantee, option))


def _grantee(connection: psycopg.Connection, grant: dict[str, Any]) -> sql.Composable | None:
    """The role by its oid, whatever it is called by now; None when it is gone."""
    if not grant["oid"]:
        return sql.SQL("PUBLIC")
    row = connection.execute("SELECT rolname FROM pg_catalog.pg_roles WHERE oid = %s", [grant["oid"]]).fetchone()
    return sql.Identifier(row[0]) if row else None


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
    with contextlib.suppress(psycopg.Error):
        # A step outlives the controller; nobody is let in before its end.
        while not stopped and _alive(folder / "step", 0 if _gone(controller) else task["silence"]):
            label = _follow_phase(connection, folder / "step", label)
            fence = _fence(folder)
            if fence and fence.get("open"):
                let_in(connection, fence)
                (folder / FENCE).unlink()
            elif fence and fence["ended_roles"]:
                _end(connection, fence, label)
            time.sleep(FENCED_POLL_SECONDS if fence else POLL_SECONDS)
    connection.close()
    if _opened(folder, task["connect"]):
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _fence(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / FENCE).read_text())
    except FileNotFoundError:
        return None


def _opened(folder: Path, connect: dict[str, Any]) -> bool:
    """Open the fence if it is still closed, as soon as the server answers; False when it did not in time."""
    deadline = time.monotonic() + OPEN_SECONDS
    while fence := _fence(folder):
        try:
            with psycopg.connect(**connect, autocommit=True) as connection:
                let_in(connection, fence)
            return True
        except psycopg.Error:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
    return True


def _end(connection: psycopg.Connection, fence: dict[str, Any], label: dict[str, Any]) -> None:
    # The label is read from the session's last query, whichever that is.
    query = _END + _comment(label).replace("%", "%%")
    # Somebody may have become a superuser meanwhile.
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        connection.execute(query.encode(), [fence["oid"], fence["ended_roles"]])


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
    connection.execute(f"SELECT 1{_comment(label)}".encode())


def _comment(label: dict[str, Any]) -> str:
    # Written so, no text can end the comment, and it is the same JSON.
    text = json.dumps(label).replace("/", "\\u002f")
    return f" /* {text} */"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
