"""Which faults are tried, in full and as a sample. Pure, but for what a trace has found."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.faults import disks, load, matrix, moments, starters
from tests.faults.matrix import Point
from tests.faults.verbs import VERBS

TRACED = ("migrate", "restore", "down", "resume")
_SEED = 20261128


@dataclass(frozen=True)
class Job:
    """A function of a stand and the rest of its arguments; ``alone``: while nothing else runs but its like."""

    call: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    alone: bool = False

    def __str__(self) -> str:
        return f"{self.call.__name__}{self.arguments}"


@dataclass(frozen=True)
class Size:
    """How much is tried: every so manieth point and moment, random kills, rounds of starters, healthy runs under load;
    of points and random kills every so manieth is followed to its good end, after the others and at checks of a role's
    arguments things are only looked at."""

    every: int
    random: int
    rounds: int
    loaded: int
    moments: int
    finished: int


FULL = Size(every=1, random=100, rounds=50, loaded=50, moments=1, finished=1)
SAMPLE = Size(every=28, random=4, rounds=5, loaded=1, moments=7, finished=3)


def traces() -> list[Job]:
    return [Job(matrix.trace, (verb,)) for verb in TRACED]


def points(verb: str, found: list[Point], size: Size) -> list[Job]:
    """A SIGKILL at every point, or at every so manieth, of those that are no check of a role's arguments."""
    if size.every > 1:
        found = [one for one in found if not _checks(one)][size.every // 2 :: size.every]
    verbs = [name for name in VERBS if name == verb or name.startswith(f"{verb} in")]
    return [
        Job(matrix.at_point, (verbs[number % len(verbs)], one, number % size.finished == 0 and not _checks(one)))
        for number, one in enumerate(found)
    ]


def _checks(point: Point) -> bool:
    """Whether it is a check of a role's arguments: to the target the same as the point beside it."""
    return point.task.startswith("Validating arguments")


def others(size: Size) -> list[Job]:
    """Everything but the points; what hogs the machine comes last."""
    chosen = list(_moments())[size.moments // 2 :: size.moments]
    dice = random.Random(_SEED)  # noqa: S311 - chance without secrets, the same one each time
    for number in range(size.random):
        verb = TRACED[number % 3]
        moment = round(dice.uniform(0.03, 1), 3)
        chosen.append(Job(matrix.at_any_time, (verb, moment, number % size.finished == 0)))
    chosen += [Job(starters.two_runs), *(Job(starters.rounds, (many, size.rounds)) for many in (2, 8))]
    chosen += [Job(disks.full_data), *_full_disks(size)]
    return chosen + [Job(load.healthy_run, (number + 1,), alone=True) for number in range(size.loaded)]


def _moments() -> Iterator[Job]:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        for moment in moments.MOMENTS:
            yield Job(moments.send, (moment, name))
    for moment in moments.MOMENTS:
        yield Job(moments.cancel_job, (moment,))
        yield Job(moments.kill_guard, (moment, False))
        yield Job(moments.kill_guard, (moment, True))
    for moment in ("in backup", "in apply"):
        yield Job(moments.kill_step, (moment,))
    for moment in ("between stop and apply", "in apply", "in health"):
        yield Job(moments.kill_postmaster, (moment, False))
        yield Job(moments.kill_postmaster, (moment, True))


def _full_disks(size: Size) -> list[Job]:
    found = [Job(disks.full, ("runs", one)) for one in ("beforehand", "PREFLIGHT", "BACKUP", "STOP", "APPLY")]
    found += [Job(disks.full, ("backups", one)) for one in ("beforehand", "PREFLIGHT")]
    return found if size.every == 1 else [found[0], found[2], found[-1]]
