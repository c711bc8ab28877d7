"""A machine that is busy: a healthy run, however slow, is never taken for a dead one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults import invariants
from tests.faults.shots import Outcome, everything_shown
from tests.faults.stand import Stand, wait_for

PROCESSES = int(os.environ.get("FAULTS_PROCESSES", "2"))
"""Stands at once."""

BURNERS = max(1, 4 // PROCESSES)
"""Per stand; many stands are a load, too."""

_NICE = os.environ.get("FAULTS_NICE", "-5")
"""Of the burners: -5 gives each three times the share of a step."""

# The kernel may share time out among sessions first (autogroup), and then a nice counts within its session only.
_BURN = f"""
import contextlib, os
with contextlib.suppress(OSError):
    os.nice({_NICE})
with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:
    file.write("{_NICE}")
while True:
    pass
"""


@contextmanager
def burning(count: int) -> Iterator[None]:
    burners = [subprocess.Popen([sys.executable, "-c", _BURN], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def healthy_run(stand: Stand, number: int) -> Outcome:
    """One migration with every setting as it is by default, while all cores are busy."""
    nice = f"nice {_NICE}" if os.geteuid() == 0 else "no nice"
    outcome, begun = Outcome("migrate", f"healthy run {number} with burners ({nice})", "-"), time.monotonic()
    stand.reset("habitat_05")
    with burning(BURNERS):
        typed = time.monotonic()
        command = stand.launch("migrate.yml")
        wait_for(lambda: command.process.poll() is not None, "the slow run ends", 1200)
        done = command.finished()
        outcome.note = f"took {time.monotonic() - typed:.0f} s"
    outcome.expect(done.code == 0, f"it ends with {done.code}")
    outcome.expect("SUCCEEDED" in done.screen, "it did not succeed")
    shot = [folder.name for folder in stand.run_folders() if (folder / "ended.json").exists()]
    outcome.expect(not shot, f"its guard ended it: {shot}")
    outcome.broken += invariants.broken(stand)
    if outcome.broken:
        outcome.shown = everything_shown(stand)
    outcome.seconds = time.monotonic() - begun
    return outcome
