# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Take, check and release the run lock, which covers a run from preflight to report: start its guard, and end it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import guard_program, recovery, run_folder
from ansible_collections.habitat.runbook.plugins.module_utils.fence_record import FENCE, open_fence
from ansible_collections.habitat.runbook.plugins.module_utils.guard import RELEASED
from ansible_collections.habitat.runbook.plugins.module_utils.lock_session import (
    LOCK_DATABASE,
    lock_application_name,
    lock_key,
)

_START_SECONDS = 120
_END_SECONDS = 60
_ATTEMPTS = 3
_ABANDONED_SECONDS = 600
_SYSTEMD = Path("/run/systemd/system")
_LINGER = Path("/var/lib/systemd/linger")
_SECRET = ("password", "sslpassword")


class LockError(Exception):
    """The lock cannot be taken for another reason than being held; the text says which."""


def acquire(folder: Path, connect: dict[str, Any], run: dict[str, Any], watch: dict[str, Any]) -> dict | None:
    """Start the guard in ``folder`` (created, 0700). Returns None when it holds the lock, else who does.

    connect: keyword arguments of psycopg.connect for the server (dbname is set here); what is secret in them reaches
    the guard through its standard input only. run: id, env, database, host, operator, origin, command, inputs and
    container, kept in run.json. watch: silence, patience, max_window, urls, body and given_password, see guard.Guard.
    Raises LockError when the guard does not start.
    """
    _remove_never_begun(folder.parent)
    kept = {name: value for name, value in connect.items() if name not in _SECRET}
    task = {
        "run": {**run, "connect": kept},
        "connect": dict(connect, dbname=LOCK_DATABASE, application_name=lock_application_name(run["id"])),
        "key": lock_key(run["database"]),
        "label": {"run_id": run["id"], "operator": run["operator"], "from": run["origin"], "phase": "PREFLIGHT"},
        "container": run["container"],
        **watch,
    }
    try:
        folder.mkdir(mode=0o700, parents=True)
        (folder / run_folder.STEP).touch(mode=0o600)
        program = guard_program.write(folder)
    except FileExistsError:
        raise LockError(f"there is a run {folder.name} already; start again with the same command") from None
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise LockError(f"{folder} cannot be written: {error.strerror}; make room, or correct its owner") from None
    for _ in range(_ATTEMPTS):
        answer = _start(program, task)
        # Nobody holds it any more, although somebody did a moment before: ask again.
        if answer.get("held") or answer.get("holder") or "error" in answer:
            break
    if answer.get("held"):
        return None
    shutil.rmtree(folder, ignore_errors=True)
    if "error" in answer:
        raise LockError(answer["error"])
    return answer["holder"] or {}


def _remove_never_begun(state_dir: Path) -> None:
    """Remove folders of runs that ended before they had the lock; they have touched nothing."""
    for step in state_dir.glob(f"*/{run_folder.STEP}"):
        folder, old = step.parent, time.time() - _ABANDONED_SECONDS
        with contextlib.suppress(OSError):
            if not (folder / run_folder.RUN).exists() and step.stat().st_mtime < old:
                shutil.rmtree(folder, ignore_errors=True)


def _start(program: Path, task: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, str(program), "watch", str(program.parent)]
    answer = _ask(_in_scope(program.parent.name, command), task)
    # A scope may be refused (no rights, no user manager): a session of its own does nearly the same.
    return _ask(command, task) if "error" in answer and _SYSTEMD.is_dir() else answer


def _in_scope(run_id: str, command: list[str]) -> list[str]:
    """The command in a unit of its own under systemd, so that the end of a login session does not end it, too.

    Units of a user who does not linger end with his last login, other processes do not: see loginctl(1).
    """
    root = os.geteuid() == 0
    if not (_SYSTEMD.is_dir() and shutil.which("systemd-run") and (root or _lingers())):
        return command
    user = [] if root else ["--user"]
    return ["systemd-run", *user, "--scope", "--collect", "--quiet", f"--unit=habitat-runbook-{run_id}", "--", *command]


def _lingers() -> bool:
    # In a container a user may be a number that has no name.
    with contextlib.suppress(KeyError):
        return (_LINGER / pwd.getpwuid(os.geteuid()).pw_name).exists()
    return False


def _ask(command: list[str], task: dict[str, Any]) -> dict[str, Any]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd="/",
    )
    assert process.stdin and process.stdout and process.stderr  # noqa: S101
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.close()
    ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
    line = process.stdout.readline() if ready else b""
    if line:
        return json.loads(line)
    process.kill()
    lines = process.stderr.read().decode(errors="replace").strip().splitlines()
    return {"error": f"the run's guard did not start: {lines[-1] if lines else 'no answer'}"}


def release(connection: psycopg.Connection, folder: Path, run_id: str) -> bool:
    """End this run's guard and wait until it is gone; False when it was not there any more.

    What a guard could not put right it leaves in the run's folder, which stays for resume.yml then. Raises LockError
    when the guard does not end.
    """
    pid = run_folder.guard_pid(folder)
    if pid is None:
        if folder.exists():
            open_fence(connection, folder)
            if not (folder / run_folder.ENDED).exists():
                recovery.keep(folder, None)
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, RELEASED)
    query = "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE application_name = %s"
    # It ends when the fence is open, for which the server may have to come back first.
    patience = _END_SECONDS + (recovery.SERVER_SECONDS if (folder / FENCE).exists() else 0)
    if (folder / run_folder.ENDED).exists():
        patience = recovery.LONGEST_SECONDS
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        row = connection.execute(query, [lock_application_name(run_id)]).fetchone()
        if not (row and row[0]) and not run_folder.guards(pid, folder):
            return True
        time.sleep(0.02)
    raise LockError(f"the run's guard (pid {pid}) does not end")
