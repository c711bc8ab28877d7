"""The faults of the matrix: a SIGKILL at every point of every verb, signals at chosen moments, kills at any moment."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from tests.faults.callback_plugins.nemesis import strike
from tests.faults.shots import Outcome, Shot, fire
from tests.faults.stand import Command, Stand
from tests.faults.verbs import VERBS


@dataclass(frozen=True)
class Point:
    """A point of a verb's run: its number, whether before or after a task, and the task."""

    number: int
    side: str
    task: str

    @property
    def name(self) -> str:
        return f"{self.number:02d} {self.side} {self.task}"


def trace(stand: Stand, verb: str) -> list[Point]:
    """The points of a run that goes well; tasks that are left out are none."""
    path = stand.folder / "trace"
    path.unlink(missing_ok=True)
    VERBS[verb].prepare(stand)
    done = stand.launch(*VERBS[verb].typed, **stand.nemesis(trace=str(path))).finished()
    assert done.code == 0, done.screen
    return points_of(path)


def points_of(path: Path) -> list[Point]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    points: list[Point] = []
    for line in lines:
        if line["side"] == "skipped":
            before = next((one for one in reversed(points) if one.task == line["task"]), None)
            if before and before.side == "before":
                points.remove(before)
        else:
            points.append(Point(line["point"], line["side"], line["task"]))
    return points


def at_point(stand: Stand, verb: str, point: Point, finish: bool = True) -> Outcome:
    """Kill the controller at a point of a trace, by the nemesis inside the run."""
    return fire(stand, shot_at(stand, verb, str(point.number), point.name), finish)


def shot_at(stand: Stand, verb: str, where: str, name: str, signal: str = "SIGKILL") -> Shot:
    """``where``: a point's number, or side and task."""
    hit = stand.folder / "hit"

    def struck(stand: Stand, command: Command) -> float:
        command.wait()
        assert hit.exists(), f"the run never came to {name}: {command.screen[-300:]}"
        told = json.loads(hit.read_text())
        hit.unlink()
        return told["mono"]

    hit.unlink(missing_ok=True)
    return Shot(VERBS[verb], name, signal, struck, stand.nemesis(point=where, signal=signal, hit=str(hit)))


def at_any_time(stand: Stand, verb: str, part: float, finish: bool = True) -> Outcome:
    """Kill the controller when this part of what a run takes has passed since its start."""
    seconds = part * stand.run_seconds

    def struck(stand: Stand, command: Command) -> float:
        time.sleep(max(0.0, command.begun + seconds - time.monotonic()))
        now = time.monotonic()
        strike(command.process.pid, "SIGKILL")
        return now

    return fire(stand, Shot(VERBS[verb], f"{seconds:.2f} s after the start", "SIGKILL", struck), finish)
