"""SIGKILL for processes inside containers, their process 1 included, from a container that sees the whole machine.

So whoever may use Docker can run the scenarios; nobody needs to be root.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from stand.targets import sh

_MACHINE = [
    "docker",
    "run",
    "--rm",
    "--pid=host",
    "--network=none",
    "--entrypoint=python3",
    "habitat-demo/node:1",
    "-c",
]

# One may end by itself when the one before it is gone.
_KILL = """
import os, sys
killed = 0
for pid in sys.argv[1:]:
    try:
        os.kill(int(pid), 9)
        killed += 1
    except ProcessLookupError:
        pass
sys.exit(not killed)
"""

# A dump of a small database takes a moment only, so this looks all the time.
_KILL_WHEN_IT_COMES = """
import os, sys, time
program, mark = (word.encode() for word in sys.argv[1:])
print('ready', flush=True)
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            words = open(f'/proc/{pid}/cmdline', 'rb').read().split(b'\\0')
        except OSError:
            continue
        if words[0].endswith(program) and any(mark in word for word in words):
            os.kill(int(pid), 9)
            sys.exit(0)
    time.sleep(0.005)
sys.exit(1)
"""


def kill(*pids: int) -> None:
    """Kill processes by their numbers as the machine sees them (``docker top``, ``docker inspect``)."""
    assert pids
    sh(*_MACHINE, _KILL, *map(str, pids))


@contextmanager
def killing(program: str, mark: str) -> Iterator[None]:
    """Kill the next process of this program that has ``mark`` in its arguments; the block lets it come."""
    command = [*_MACHINE, _KILL_WHEN_IT_COMES, program, mark]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killer:
        assert killer.stdout and killer.stdout.readline() == "ready\n"
        yield
        assert killer.wait(90) == 0, f"no {program} with {mark} came"
