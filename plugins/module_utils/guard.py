# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The guard: a small process of its own on the database's host, one per run, that outlives whoever started it.

It holds the run lock, asks the application ten times a second whether it is well, and is a dead-man's switch: when no
step of the run has shown a sign of life for long enough, when the window is open for too long, or when somebody
cancels the run, it puts things right (recovery.py) and lets go. A step shows that it lives by a file lock, which goes
with its process; the controller's life counts for nothing, so a slow run is not taken for a dead one.

While the application is kept out of the database (fence.json, see fence.py) it ends the sessions that no right can
keep out. It runs from guard.pyz in the run's folder (guard_program.py): standard library and psycopg.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import account, lock_session, recovery, run_folder
from ansible_collections.habitat.runbook.plugins.module_utils.fence_record import (
    FENCE,
    end_kept_out,
    open_fence,
    read_fence,
)
from ansible_collections.habitat.runbook.plugins.module_utils.probe import Prober, read_probes

POLL_SECONDS = 0.1
FENCED_POLL_SECONDS = 0.02
HEALTHY_SECONDS = 20.0
RELEASED = signal.SIGUSR1
"""Says that the run has come to its own end. SIGTERM comes from somebody else: the host goes down, a login ends."""

_LONGEST_TICK = 3.0
_ASK_SECONDS = 1.0
_RECONNECT_SECONDS = 0.5
_FIRST_CONNECT_SECONDS, _CONNECT_SECONDS = 20, 2
_CROWD, _LONGEST_STRETCH = 4.0, 4.0
"""So many may want each processor before silence in the window counts for less (a step begins within 2 s of the one
before on a quiet machine, which leaves habitat_silence room for one about seven times slower), and so many times longer
it gets at most: a load may be one of processes that wait for a disk, and the application is down meanwhile."""


@dataclass
class Switch:
    """Decides when a run is over. ``silence``: seconds without a step at work while services are stopped; ``patience``
    the same while they are not; ``max_window``: seconds services may be stopped. Pure."""

    silence: float
    patience: float
    max_window: float
    quiet: float = 0.0
    warned: bool = False

    def tick(self, seconds: float, alive: bool, window: float | None, load: float = 1.0) -> str:
        """Why the run is over, or an empty text.

        seconds: since the last tick, of which only so much counts as a busy machine's tick takes, so that a machine
        that stood still has not lost its run; alive: whether a step showed a sign of life since then; window: seconds
        since services were stopped, None when they are not; load: how many want a processor, for each there is. A busy
        machine gets so many times longer; while services are stopped only a crowded one does, and within bounds.
        """
        stretch = load if window is None else min(load / _CROWD, _LONGEST_STRETCH)
        self.quiet = 0.0 if alive else self.quiet + min(seconds, _LONGEST_TICK) / max(1.0, stretch)
        limit = self.patience if window is None else self.silence
        if window is not None and window > self.max_window:
            return f"the services were stopped for longer than {self.max_window:.0f} s"
        if self.silent(window):
            return f"no step showed a sign of life for {limit:.0f} s"
        return ""

    def silent(self, window: float | None) -> bool:
        """Whether it is silence that ends the run; a step that begins at this moment makes it go on."""
        return self.quiet > (self.patience if window is None else self.silence)

    def warning(self, window: float | None) -> bool:
        """Whether half of the longest window is over, once."""
        if window is None or self.warned or window < self.max_window / 2:
            return False
        self.warned = True
        return True


class Guard:
    """One run's guard; ``task``: see run_lock.acquire."""

    def __init__(self, folder: Path, task: dict[str, Any]) -> None:
        self.folder = folder
        self.task = task
        self.run = task["run"]
        self.switch = Switch(task["silence"], task["patience"], task["max_window"])
        self.progress = account.Progress()
        self.label = task["label"]
        self.connection: psycopg.Connection | None = None
        self._read = 0
        self._asked = 0.0
        self._mark = self._step_mark()
        self._stopped: list[int] = []

    def listen(self) -> None:
        """From now on a signal to end is noted; ``keep_watch`` acts on it."""
        for number in (signal.SIGTERM, RELEASED):
            signal.signal(number, lambda number, frame: self._stopped.append(number))

    def connect(self, name: str = lock_session.LOCK_DATABASE) -> psycopg.Connection:
        """A session of the guard's. The way into a container is found anew: an address changes with a restart."""
        wanted, parameters = self.task["container"], dict(self.task["connect"], dbname=name)
        # A guard that keeps watch must not be held up for long; before that there is nothing else to do.
        parameters["connect_timeout"] = _FIRST_CONNECT_SECONDS if self.connection is None else _CONNECT_SECONDS
        if wanted and self.connection is not None:
            from ansible_collections.habitat.runbook.plugins.module_utils import container, way_in

            try:
                container.find.cache_clear()
                parameters["password"] = self.task["given_password"]
                way_in.into_container(container.find(**wanted), parameters)
            except way_in.Problem as error:
                raise psycopg.OperationalError(str(error)) from None
        return psycopg.connect(**parameters, autocommit=True)

    def take(self) -> dict[str, Any]:
        """Take the lock; ``{"held": whether we have it, "holder": who does}``."""
        connection = self.connect()
        if not lock_session.try_lock(connection, self.task["key"]):
            return {"held": False, "holder": lock_session.read_holder(connection, self.task["key"])}
        self.connection = connection
        lock_session.show(connection, self.label)
        if not (self.folder / run_folder.RUN).exists():
            run_folder.write_json(self.folder / run_folder.RUN, self.run)
            run_folder.note(self.folder, run_folder.NOTE, "run", run_id=self.run["id"], operator=self.run["operator"])
        return {"held": True, "pid": os.getpid()}

    def keep_watch(self) -> None:
        """Hold the lock until the run is over, and leave things as they have to be then."""
        prober = Prober(self.folder, self.task["urls"], self.task["body"])
        last, over = time.monotonic(), False
        while not over:
            now, why = time.monotonic(), ""
            # With a disk that is full, say, whoever watches goes on watching.
            with contextlib.suppress(OSError):
                why = self._look(now - last)
            last = now
            over = bool(self._stopped or why) and self._leave(why, prober)
            if not over:
                time.sleep(FENCED_POLL_SECONDS if (self.folder / FENCE).exists() else POLL_SECONDS)
        if self.connection is not None:
            self.connection.close()

    def _look(self, seconds: float) -> str:
        """One round: why the run is over, or an empty text."""
        self.progress.follow(self._new_lines())
        window = self._window()
        if self.switch.warning(window):
            limit = self.switch.max_window
            run_folder.note(self.folder, run_folder.NOTE, account.WINDOW, open_for=round(window or 0), ends_at=limit)
        cancelled = run_folder.read_json(self.folder / run_folder.CANCEL)
        if cancelled:
            return cancelled["why"]
        load = os.getloadavg()[0] / (os.cpu_count() or 1)
        return self._tend_lock() or self.switch.tick(seconds, self._alive(), window, load)

    def _alive(self) -> bool:
        mark, before = self._step_mark(), self._mark
        self._mark = mark
        return mark != before or run_folder.at_work(self.folder)

    def _step_mark(self) -> int:
        with contextlib.suppress(OSError):
            return (self.folder / run_folder.STEP).stat().st_mtime_ns
        return 0

    def _new_lines(self) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(OSError), (self.folder / run_folder.JOURNAL).open("rb") as journal:
            journal.seek(self._read)
            for line in journal:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    def _tend_lock(self) -> str:
        """Show the phase and keep strangers out; take the lock again after a crash of the server."""
        try:
            if self.connection is None or self.connection.closed:
                return self._take_again()
            phase = self.progress.phase
            if phase and phase != self.label["phase"]:
                self.label = dict(self.label, phase=phase)
                lock_session.show(self.connection, self.label)
            self._tend_fence(self.connection)
        except psycopg.Error:
            if self.connection is not None:
                self.connection.close()
        return ""

    def _tend_fence(self, connection: psycopg.Connection) -> None:
        fence = read_fence(self.folder)
        if fence and fence.get("open"):
            open_fence(connection, self.folder)
        elif fence and fence["ended_roles"]:
            # The label is read from the session's last query. Somebody may have become a superuser meanwhile.
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
                end_kept_out(connection, fence, lock_session.comment(self.label))
        elif time.monotonic() - self._asked > _ASK_SECONDS:
            # A session that is lost is noticed by asking something.
            lock_session.show(connection, self.label)
            self._asked = time.monotonic()

    def _take_again(self) -> str:
        with contextlib.suppress(psycopg.OperationalError):
            holder = self.take().get("holder")
            if holder and holder["run_id"] != self.run["id"]:
                return f"the run lock was lost and run {holder['run_id']} has it now"
            if holder:
                # Our own session of before, of which the server has not noticed that nobody is there any more.
                with self.connect() as other:
                    lock_session.end_others(other, lock_session.lock_application_name(self.run["id"]))
            if self.connection is not None and not self.connection.closed:
                return ""
        time.sleep(_RECONNECT_SECONDS)
        return ""

    def _leave(self, why: str, prober: Prober) -> bool:
        """Put things right unless the run has come to its own end, and keep its journal; False: it goes on."""
        with run_folder.between_steps(self.folder) as quiet:
            why = why or self._left_open(quiet)
            if not why:
                prober.stop()
                with contextlib.suppress(OSError):
                    run_folder.note(self.folder, run_folder.DONE, account.RELEASE)
                    recovery.keep(self.folder, None)
                return True
        by = "cancel.yml" if (self.folder / run_folder.CANCEL).exists() else "the guard"
        silent = self.switch.silent(self._window())
        try:
            righted = recovery.put_right(self.folder, self.run, self.connect, by, why, end_step=not silent)
        except recovery.StillAtWork:
            return False
        self._wait_healthy(righted, prober)
        prober.stop()
        righted.down_seconds = account.down_seconds(read_probes(self.folder))
        with contextlib.suppress(OSError):
            recovery.conclude(self.folder, self.run, righted)
        return True

    def _left_open(self, quiet: bool) -> str:
        """What a run has left open that is told to end, as a clause; empty when there is nothing to put right."""
        if read_fence(self.folder):
            return "it ended without letting the application in"
        self.progress.follow(self._new_lines())
        nothing = RELEASED in self._stopped or (quiet and not self.progress.stopped)
        return "" if nothing else "its guard was told to end by SIGTERM"

    def _window(self) -> float | None:
        """Seconds since services were stopped; None when they are not."""
        return None if self.progress.opened is None else time.monotonic() - self.progress.opened

    def _wait_healthy(self, righted: account.Righted, prober: Prober) -> None:
        if not (righted.started and self.task["urls"]):
            return
        deadline = time.monotonic() + HEALTHY_SECONDS
        while not prober.good and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        righted.healthy = bool(prober.good)


def watch(folder: Path) -> int:
    """Take the lock with what standard input says, answer on standard output in one JSON line, and guard the run."""
    guard = Guard(folder, json.loads(sys.stdin.readline()))
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    # Before anybody is told that there is a guard: it must not die of a signal with the run's folder left behind.
    guard.listen()
    answer = guard.take()
    print(json.dumps(answer), flush=True)
    if answer["held"]:
        _leave_caller()
        guard.keep_watch()
    return 0


def _leave_caller() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def boot(folder: Path) -> int:
    """Put things right after a start of the host, as far as that is possible without a password."""
    run = run_folder.read_json(folder / run_folder.RUN)
    if not run or run_folder.guard_pid(folder):
        return 0

    def connect(name: str) -> psycopg.Connection:
        parameters = dict(run["connect"], dbname=name, application_name=lock_session.lock_application_name(run["id"]))
        if run["container"]:
            from ansible_collections.habitat.runbook.plugins.module_utils import container, way_in

            try:
                way_in.into_container(container.find(**run["container"]), parameters)
            except way_in.Problem as error:
                raise psycopg.OperationalError(str(error)) from None
        return psycopg.connect(**parameters, autocommit=True)

    with recovery.alone(folder) as left:
        if not left:
            return 0
        righted = recovery.put_right(folder, run, connect, "the boot hook", "the host was started anew")
        told = recovery.conclude(folder, run, righted)
    print(told["state"], flush=True)
    return 1 if righted.problems else 0


def main(arguments: list[str]) -> int:
    """``guard.pyz watch FOLDER`` or ``guard.pyz boot``, which takes the folder that it is in."""
    if arguments[0] == "watch":
        return watch(Path(arguments[1]))
    return boot(Path(sys.argv[0]).resolve().parent)
