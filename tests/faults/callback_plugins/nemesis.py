"""A callback that counts the points of a run, before and after each task, and strikes at one of them.

Enabled by the environment only. HABITAT_NEMESIS_TRACE names a file that gets a line for every point;
HABITAT_NEMESIS_POINT is the number of the point to strike at, or its words ("before Stop what runs"), HABITAT_NEMESIS_SIGNAL what with, and
HABITAT_NEMESIS_HIT names a file that says when and where it was done.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: nemesis
type: notification
short_description: Strike at a point of a run
description: For tests only.
requirements: []
"""


class CallbackModule(CallbackBase):
    """Tasks start in workers, but both ends of a task arrive here, in the main process."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "nemesis"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._count = 0
        self._counting = threading.Lock()
        self._trace = os.environ.get("HABITAT_NEMESIS_TRACE")
        self._chosen = os.environ.get("HABITAT_NEMESIS_POINT")
        self._signal = os.environ.get("HABITAT_NEMESIS_SIGNAL", "SIGKILL")
        self._hit = os.environ.get("HABITAT_NEMESIS_HIT")

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self._point("before", task)

    def v2_runner_on_ok(self, result: Any) -> None:
        self._point("after", result._task)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._point("after", result._task)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._point("after", result._task)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._point("skipped", result._task)

    def _point(self, side: str, task: Any) -> None:
        with self._counting:
            self._count += 1
            number, name = self._count, task.get_name().rpartition(" : ")[2]
        if self._trace:
            _write(self._trace, {"point": number, "side": side, "task": name})
        if self._chosen in (str(number), f"{side} {name}"):
            self._chosen = None
            if self._hit:
                _write(self._hit, {"point": number, "side": side, "task": name, "mono": time.monotonic()})
            strike(os.getpid(), self._signal)


def _write(path: str, line: dict[str, Any]) -> None:
    with Path(path).open("a") as file:
        file.write(json.dumps(line) + "\n")


def strike(pid: int, name: str) -> None:
    """Send a signal to a controller: SIGKILL to its whole process group and to its workers, others to itself alone."""
    if name != "SIGKILL":
        os.kill(pid, signal.Signals[name])
        return
    # Workers have process groups of their own; what a worker has started is on another host as a rule, and lives on.
    for worker in workers(pid):
        _kill(worker)
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        _kill(pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def workers(pid: int) -> list[int]:
    """Descendants of a controller that are ansible-playbook themselves."""
    parents = {int(each.name): _parent(each) for each in Path("/proc").glob("[0-9]*")}
    found: list[int] = []
    family = {pid}
    while True:
        new = {each for each, parent in parents.items() if parent in family} - family
        if not new:
            return found
        family |= new
        found += [each for each in new if _is_ansible(each)]


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _is_ansible(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word.endswith(b"/ansible-playbook") for word in words[:2])
