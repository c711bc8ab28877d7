"""Processes that each have a stand and do one job at a time."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from tests.faults.plan import Job
from tests.faults.shots import Outcome
from tests.faults.stand import standing

_END_SECONDS = 60


class Workers:
    """So many processes; a job's result is what its function returns, or an Outcome that says why there is none."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._jobs: dict[Connection, Job | None] = {}
        self._processes = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,))
            process.start()
            theirs.close()
            self._jobs[ours] = None
            self._processes.append(process)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        for connection in self._jobs:
            connection.close()
        for process in self._processes:
            if error[0]:
                process.terminate()
            process.join(_END_SECONDS)

    def free(self) -> bool:
        return None in self._jobs.values()

    def busy(self) -> bool:
        return any(self._jobs.values())

    def give(self, job: Job) -> None:
        connection = next(one for one, doing in self._jobs.items() if doing is None)
        self._jobs[connection] = job
        connection.send(job)

    def done(self) -> Iterator[tuple[Job, Any]]:
        """Results that have come; waits for one. A process that ended takes its job with it."""
        for connection in wait([one for one, doing in self._jobs.items() if doing]):
            job = self._jobs[connection]
            assert isinstance(connection, Connection) and job
            try:
                result = connection.recv()
                self._jobs[connection] = None
            except EOFError:
                del self._jobs[connection]
                result = Outcome("-", str(job), "-", broken=["the process with the stand has ended"])
                if not self._jobs:
                    yield job, result
                    raise SystemExit("no stand is left") from None
            yield job, result


def _work(connection: Connection) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    with standing() as stand:
        while True:
            try:
                job: Job = connection.recv()
            except EOFError:
                return
            begun = time.monotonic()
            try:
                result = job.call(stand, *job.arguments)
            except Exception:
                text = traceback.format_exc()
                why = text.strip().splitlines()[-1][:300]
                result = Outcome("-", str(job)[:64], "-", broken=[why], shown=text, seconds=time.monotonic() - begun)
            connection.send(result)
