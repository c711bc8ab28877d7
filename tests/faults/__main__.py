"""``python -m tests.faults [sample|full] [TEXT ...]``: try faults, and print what became of them.

With texts only those whose call has one of them, such as "send('in apply'" or "at_point('restore'". Two processes, each
with a stand of its own. The exit code is 0 when every invariant held every time.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.faults import load, matrix, plan
from tests.faults.shots import Outcome
from tests.faults.workers import Workers

_HEAD = f"{'VERB':<16} {'POINT':<64} {'SIGNAL':<24} {'OUTAGE':>7} {'LIMIT':>6} {'TOOK':>6}  RESULT"


def main() -> int:
    chosen, only = (sys.argv[1] if len(sys.argv) > 1 else "full"), sys.argv[2:]
    size = {"full": plan.FULL, "sample": plan.SAMPLE}[chosen]
    if only:
        size = replace(size, moments=1)
    begun, told = time.monotonic(), []
    folder = Path(tempfile.mkdtemp(prefix="habitat-faults-"))
    print(_HEAD, flush=True)
    with Workers(load.PROCESSES) as workers:
        for result in results(workers, size, only):
            told.append(result)
            print(line(result, folder, len(told)), flush=True)
    print(summary(told, time.monotonic() - begun))
    return 0 if told and all(one.well for one in told) else 1


def results(workers: Workers, size: plan.Size, only: list[str]) -> Iterator[Outcome]:
    """Outcomes as they come: points of the verbs when their traces are there, what needs the machine alone at last."""
    jobs = [job for job in plan.others(size) if _chosen(job, only)]
    traces = plan.traces() if not only or any(matrix.at_point.__name__ in text for text in only) else []
    waiting = deque([*traces, *(job for job in jobs if not job.alone)])
    dice = random.Random(0)  # noqa: S311 - only so that not all faults of a kind come one after the other
    at_last = deque(job for job in jobs if job.alone)
    while waiting or at_last or workers.busy():
        if not waiting and not workers.busy():
            waiting, at_last = at_last, waiting
        while waiting and workers.free():
            workers.give(waiting.popleft())
        for job, result in workers.done():
            if isinstance(result, list):
                points = [one for one in plan.points(job.arguments[0], result, size) if _chosen(one, only)]
                mixed = [*waiting, *points]
                dice.shuffle(mixed)
                waiting = deque(sorted(mixed, key=lambda one: one.call is not matrix.trace))
            else:
                yield result


def _chosen(job: plan.Job, only: list[str]) -> bool:
    return not only or any(text in str(job) for text in only)


def line(one: Outcome, folder: Path, number: int) -> str:
    result = f"ok    {one.note}" if one.well else f"BROKEN {'; '.join(one.broken)}"
    if one.shown:
        path = folder / f"{number}.txt"
        path.write_text(one.shown)
        result += f"   see {path}"
    where = f"{one.verb:<16} {one.point[:64]:<64} {one.signal:<24}"
    return f"{where} {one.outage:>5.1f} s {one.limit:>4.0f} s {one.seconds:>4.0f} s  {result}"


def summary(told: list[Outcome], seconds: float) -> str:
    broken = [one for one in told if not one.well]
    longest = max(told, key=lambda one: one.outage, default=None)
    lines = [f"{len(told)} faults, {len(broken)} broken, {seconds / 60:.1f} min"]
    if longest:
        at = f"{longest.verb}, {longest.point}, {longest.signal}"
        lines.append(f"longest unplanned outage {longest.outage:.1f} s of {longest.limit:.0f} s allowed ({at})")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
