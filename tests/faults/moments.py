"""Faults at chosen moments of a migration: signals, a cancelled job, and the end of one process that matters."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.callback_plugins.nemesis import strike
from tests.faults.shots import Outcome, Shot, fire
from tests.faults.stand import Command, Stand, wait_for
from tests.faults.verbs import APPLYING, VERBS

SLOW_SECONDS = 3.0
_FROZEN_SECONDS = 1.0


def _lines(stand: Stand) -> list[tuple[str, str]]:
    folders = stand.run_folders()
    return [(line["event"], line["what"]) for line in stand.journal(folders[0])] if folders else []


def _step(stand: Stand) -> int:
    """The process of the step at work."""
    folders = stand.run_folders()
    return int(json.loads((folders[0] / "step").read_text())["pid"])


def _in_backup(stand: Stand) -> bool:
    return ("intent", "BACKUP") in _lines(stand)


def _stopped(stand: Stand) -> bool:
    return ("done", "STOP") in _lines(stand)


def _in_apply(stand: Stand) -> bool:
    return stand.query(APPLYING) == [(1,)]


def _applied(stand: Stand) -> bool:
    return ("done", "APPLY") in _lines(stand)


def _in_health(stand: Stand) -> bool:
    lines = _lines(stand)
    return ("done", "START") in lines and ("intent", "HEALTH") in lines[lines.index(("done", "START")) :]


MOMENTS: dict[str, Callable[[Stand], bool]] = {
    "in backup": _in_backup,
    "between stop and apply": _stopped,
    "in apply": _in_apply,
    "before start": _applied,
    "in health": _in_health,
}


def _come_to(stand: Stand, command: Command, moment: str) -> None:
    """Wait for the moment; a run that ends before it is no fault that was tried."""

    def so() -> bool:
        if MOMENTS[moment](stand):
            return True
        assert command.process.poll() is None, f"the run ended before it was {moment}: {command.screen[-300:]}"
        return False

    wait_for(so, moment)


def _shoot(
    stand: Stand, moment: str, name: str, blow: Callable[[Command], Any], finish: bool = True, **more: Any
) -> Outcome:
    """Strike at a moment; a short step is held still meanwhile, so that the blow does not come after it."""

    def struck(stand: Stand, command: Command) -> float:
        _come_to(stand, command, moment)
        held = _step(stand) if moment == "in backup" else 0
        if held:
            os.kill(held, signal.SIGSTOP)
        now = time.monotonic()
        blow(command)
        if held:
            time.sleep(_FROZEN_SECONDS)
            _let_go_on(held)
        return now

    slow = SLOW_SECONDS if moment == "in apply" else None
    return fire(
        stand, Shot(VERBS["migrate, slow" if slow else "migrate"], moment, name, struck, slow=slow, **more), finish
    )


def _let_go_on(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def send(stand: Stand, moment: str, name: str, finish: bool = True) -> Outcome:
    """A signal to the controller."""
    return _shoot(stand, moment, name, lambda command: strike(command.process.pid, name), finish)


def cancel_job(stand: Stand, moment: str) -> Outcome:
    """What AWX does on Cancel and on a job's timeout."""
    wish = stand.folder / "cancel"
    wish.unlink(missing_ok=True)
    launched = {"HABITAT_CANCEL_WISH": str(wish)}
    return _shoot(stand, moment, "runner cancel", lambda command: wish.touch(), environment=launched, by_runner=True)


def kill_guard(stand: Stand, moment: str, controller: bool, finish: bool = True) -> Outcome:
    """The guard alone, which the run survives or ends by itself, or together with the controller."""

    def blow(command: Command) -> None:
        if controller:
            strike(command.process.pid, "SIGKILL")
        for pid in stand.guards():
            os.kill(pid, signal.SIGKILL)

    name = "guard and controller" if controller else "guard"
    return _shoot(stand, moment, name, blow, finish, guarded=not controller)


def kill_step(stand: Stand, moment: str, finish: bool = True) -> Outcome:
    """The process that works, while controller and guard live."""
    return _shoot(stand, moment, "step", lambda command: os.kill(_step(stand), signal.SIGKILL), finish)


def kill_postmaster(stand: Stand, moment: str, controller: bool, finish: bool = True) -> Outcome:
    """The server's first process; its supervisor starts it again."""

    def blow(command: Command) -> None:
        if controller:
            strike(command.process.pid, "SIGKILL")
        os.kill(int((Path(stand.stack.data) / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    return _shoot(stand, moment, "postmaster and controller" if controller else "postmaster", blow, finish)
