# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Put things right after a run that was cut off: nothing of it works on, everybody may connect, what ran runs again.

It never restores, drops or renames anything. The guard does this when the run has gone silent, resume.yml when the
guard is gone, too, and the boot hook after a start of the host. Doing it twice does no harm.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import account, run_folder
from ansible_collections.habitat.runbook.plugins.module_utils.fence_record import FENCE, open_fence
from ansible_collections.habitat.runbook.plugins.module_utils.lock_session import LOCK_DATABASE, end_sessions
from ansible_collections.habitat.runbook.plugins.module_utils.services import (
    PATIENCE,
    ServiceError,
    start_services,
    stop_services,
)
from ansible_collections.habitat.runbook.plugins.module_utils.services_kinds import manager_of

LONGEST_SECONDS = 150.0
"""Longer than it takes to put things right: server, services, health."""

SERVER_SECONDS = 60.0
"""How long a server that does not answer is waited for, once the services are started."""

_FIRST_SECONDS = 5.0
_STEP_SECONDS = 10.0
_SESSION_SECONDS = 30.0
_START_TRIES = 3
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.05

Connect = Callable[[str], "psycopg.Connection"]
"""Opens an autocommit connection to the database of that name on the run's server; raises psycopg.Error."""

_STATUS = "SELECT pg_catalog.pg_xact_status(%s::text::xid8)"
_VERSIONS = """SELECT version::text FROM public.schema_migrations
               ORDER BY length(ltrim(version::text, '0')) DESC, version::text DESC"""


class StillAtWork(Exception):
    """A step of the run is at work after all, and was not to be ended."""


def put_right(
    folder: Path, run: dict[str, Any], connect: Connect, by: str, why: str, end_step: bool = True
) -> account.Righted:
    """End what is left of a run, in this order: its step, its token, its sessions, its marks; then start services.

    folder: the run's; run: its run.json; by: who does it; why: a clause. What could not be done is in ``problems``.
    Raises StillAtWork, having done nothing, when a step is at work and ``end_step`` is false.
    """
    righted = account.Righted(by=by, why=why)
    with _no_step(folder, righted, end_step):
        _note(folder, run_folder.INTENT, why=why, by=by)
        progress = account.Progress().follow(run_folder.read_journal(folder))
        mark_ended(folder, run, why)
    first = _right_database(folder, run, connect, righted, progress, _FIRST_SECONDS)
    _start(progress, righted)
    if first:
        _right_database(folder, run, connect, righted, progress, SERVER_SECONDS)
    _note(folder, run_folder.DONE, problems=righted.problems, started=righted.started)
    return righted


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether a run is still to be put right; nobody else does it while the block runs, and who is at it is waited for.

    The boot hook has no password for the run lock, and without the server nobody has it.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield (folder / run_folder.RUN).exists()
    finally:
        os.close(handle)


def _note(folder: Path, event: str, **details: Any) -> None:
    # A disk that is full must not keep the application down.
    with contextlib.suppress(OSError):
        run_folder.note(folder, event, account.GUARD, **details)


def mark_ended(folder: Path, run: dict[str, Any], why: str) -> None:
    """Leave the token: from now on no step of the run begins."""
    if not (folder / run_folder.ENDED).exists():
        told = {
            "at": run_folder.utc_now(),
            "why": why,
            "next": f"ansible-playbook playbooks/status.yml -e env={run['env']}",
        }
        # Without room for it the sessions of a run that goes on are ended all the same, and it has no lock any more.
        with contextlib.suppress(OSError):
            run_folder.write_json(folder / run_folder.ENDED, told)


@contextlib.contextmanager
def _no_step(folder: Path, righted: account.Righted, end_step: bool) -> Iterator[None]:
    """Have no step at work, and none begin, while the block runs."""
    with (folder / run_folder.STEP).open("a+") as handle:
        deadline = time.monotonic() + _STEP_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not end_step:
                    raise StillAtWork from None
                righted.step_ended = _kill_step(folder) or righted.step_ended
            if time.monotonic() > deadline:
                found = run_folder.read_step(folder)
                righted.problems.append(f"step {found.get('phase')} (pid {found.get('pid')}) does not end")
                break
            time.sleep(_POLL_SECONDS)
        yield


def _kill_step(folder: Path) -> str:
    """SIGKILL for the step at work, and for what it has started if it is a job of its own; its phase, or ""."""
    found = run_folder.read_step(folder)
    pid = found.get("pid")
    if not pid or run_folder.process_started(pid) != found.get("started"):
        return ""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGKILL)
    return found["phase"]


def _right_database(
    folder: Path,
    run: dict[str, Any],
    connect: Connect,
    righted: account.Righted,
    progress: account.Progress,
    seconds: float,
) -> bool:
    """Sessions and marks; True when the server did not answer in time, which is a problem only the second time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with connect(LOCK_DATABASE) as connection:
                righted.sessions_ended += _sessions_gone(connection, run["id"], deadline)
                righted.let_in = open_fence(connection, folder) or righted.let_in
                righted.commits = _commits(connection, progress)
            _read_ledger(connect, run["database"], righted)
            return False
        except (psycopg.Error, OSError) as error:
            if time.monotonic() > deadline:
                if seconds == SERVER_SECONDS:
                    righted.problems += _not_done(folder, error)
                return True
            time.sleep(_POLL_SECONDS)


def _not_done(folder: Path, error: Exception) -> list[str]:
    reason = " ".join(str(error).split())
    kept_out = ", and the application may still not connect" if (folder / FENCE).exists() else ""
    return [f"the database server does not answer{kept_out} ({reason})"]


def _sessions_gone(connection: psycopg.Connection, run_id: str, deadline: float) -> int:
    """End the run's sessions and wait until they are gone; how many there were."""
    there = end_sessions(connection, run_id)
    deadline = max(deadline, time.monotonic() + _SESSION_SECONDS)
    while end_sessions(connection, run_id):
        if time.monotonic() > deadline:
            raise psycopg.OperationalError("sessions of the run do not end")
        time.sleep(_POLL_SECONDS)
    return there


def _commits(connection: psycopg.Connection, progress: account.Progress) -> dict[str, str]:
    """What became of every COMMIT that was sent and not answered, in words."""
    found = {}
    for version, commit in progress.commits.items():
        if commit["answered"] or not commit["xid"]:
            continue
        row = None
        # After a crash a number may be one that has not been given yet.
        with contextlib.suppress(psycopg.errors.InvalidParameterValue):
            row = connection.execute(_STATUS, [commit["xid"]]).fetchone()
        found[version] = f"PostgreSQL says transaction {commit['xid']} is {row[0] if row and row[0] else 'not known'}"
    return found


def _read_ledger(connect: Connect, database: str, righted: account.Righted) -> None:
    # The first run of all may have been cut off before it made the ledger.
    with contextlib.suppress(psycopg.Error), connect(database) as connection:
        with contextlib.suppress(psycopg.errors.UndefinedTable):
            righted.applied = [version for (version,) in connection.execute(_VERSIONS).fetchall()]
        righted.schema = righted.applied[0] if righted.applied else "empty"


def _start(progress: account.Progress, righted: account.Righted) -> None:
    """Start what the run had stopped and not started again."""
    if not progress.stopped:
        return
    if progress.stopping(time.monotonic(), PATIENCE):
        _end_stop(progress)
    error = ""
    for attempt in range(_START_TRIES):
        try:
            start_services(manager_of(progress.manager), progress.stopped)
            righted.started = progress.stopped
            return
        except (ServiceError, OSError) as problem:
            error = " ".join(str(problem).split())
            time.sleep(attempt)
    righted.problems.append(f"the services are DOWN: {error}")


def _end_stop(progress: account.Progress) -> None:
    """Wait for a stop that goes on without who ordered it: what is still stopping looks as if it ran."""
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(ServiceError, OSError):
            stop_services(manager_of(progress.manager), progress.stopped)
            return
        time.sleep(_POLL_SECONDS)


def keep(folder: Path, told: dict[str, Any] | None) -> None:
    """Move what is worth keeping of a run that is over to the reports, with a report if given; remove its folder."""
    kept = _kept(folder)
    if told:
        write_report(kept, told)
    for name in (run_folder.RUN, run_folder.JOURNAL, run_folder.PROBES, run_folder.ENDED):
        if (folder / name).exists():
            shutil.move(folder / name, kept / name)
    shutil.rmtree(folder, ignore_errors=True)


def _kept(folder: Path) -> Path:
    """The folder among the reports where things of this run are kept, made if it is not there."""
    kept = folder.parent / run_folder.REPORTS / folder.name
    # The mode of mkdir does not count for parents.
    for path in (kept.parent, kept):
        path.mkdir(mode=0o700, exist_ok=True)
    return kept


def write_report(kept: Path, told: dict[str, Any]) -> None:
    """Write report.json and report.md."""
    run_folder.write_json(kept / "report.json", told)
    part = kept / "report.md.part"
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as handle:
        handle.write(account.markdown(told) + "\n")
    part.replace(kept / "report.md")


def conclude(folder: Path, run: dict[str, Any], righted: account.Righted) -> dict[str, Any]:
    """Write the report of a run that was put right; what could not be stays in its folder for the next try."""
    progress = account.Progress().follow(run_folder.read_journal(folder))
    told = account.report(run, progress, righted, run_folder.utc_now())
    if righted.problems:
        write_report(_kept(folder), told)
    else:
        keep(folder, told)
    return told
