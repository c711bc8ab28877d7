"""Modules as Ansible runs them: a process that gets its options on standard input and answers in JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any

MODULES = "ansible_collections.habitat.runbook.plugins.modules"
_LONGEST_SECONDS = 600


def environment(**more: str) -> dict[str, str]:
    """This process's environment without PostgreSQL's variables, with the collection to be found."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    return {**ours, "PYTHONPATH": os.pathsep.join(sys.path), **more}


def begin(command: Sequence[str], options: dict[str, Any], **more: Any) -> subprocess.Popen[str]:
    """A process that was given its options; ``more`` is for Popen."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, **{"env": environment(), **more}
    )
    assert process.stdin
    process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": options}))
    process.stdin.close()
    return process


def start(name: str, /, check: bool = False, **options: Any) -> subprocess.Popen[str]:
    """A module's process."""
    return begin([sys.executable, "-m", f"{MODULES}.{name}"], {**options, "_ansible_check_mode": check})


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process answers when it is done; nothing may go to standard error."""
    assert process.stdout and process.stderr
    too_long = threading.Timer(_LONGEST_SECONDS, process.kill)
    too_long.start()
    answer, errors = process.stdout.read(), process.stderr.read()
    process.wait()
    too_long.cancel()
    assert errors == ""
    assert answer or process.returncode != -signal.SIGKILL, f"no answer within {_LONGEST_SECONDS} s"
    found = json.loads(answer)
    assert found.get("failed") or process.returncode == 0, answer
    return found


def run(name: str, /, check: bool = False, **options: Any) -> dict[str, Any]:
    """What a module answers."""
    return finish(start(name, check, **options))
