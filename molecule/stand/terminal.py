"""Types the operator's commands in the repository's root; what they print is kept in the scenario's folder.

``python -m stand.terminal ansible-playbook migrate.yml -e env=staging`` prints it, too, and ends with the same code.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 300

_RECAP = re.compile(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass
class Typed:
    """A command that was typed: what is on the screen so far, and how it ended."""

    process: subprocess.Popen[bytes]
    path: Path

    @property
    def screen(self) -> str:
        return self.path.read_text(errors="replace")

    @property
    def changed(self) -> dict[str, int]:
        """The recap's ``changed`` by host."""
        return {host: int(changed) for host, changed, _, _ in _RECAP.findall(self.screen)}

    @property
    def code(self) -> int | None:
        return self.process.poll()

    def wait(self, seconds: float = PATIENCE_SECONDS) -> Typed:
        """Wait for its end; one that has none is killed."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end after {seconds} s\n{self.screen}") from None
        return self

    def kill(self) -> None:
        """SIGKILL for it and everything it has started on this machine."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def until_it_says(self, words: str) -> None:
        """Wait until these words are on the screen; AssertionError when it ends without them."""
        until(lambda: words in self.screen or self.code is not None, words)
        assert words in self.screen, f"never said {words!r}\n{self.screen}"


class Terminal:
    """The screen of an operator whose inventory is that of a scenario; outputs are files that only he may read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = folder / "typed"

    def type(self, line: str) -> Typed:
        return self.start(line).wait()

    def start(self, line: str) -> Typed:
        """Type a command and do not wait for its end."""
        self.kept.mkdir(mode=0o700, exist_ok=True)
        number = len(list(self.kept.iterdir())) + 1
        playbook = re.search(r"(\w+)\.yml", line)
        path = self.kept / f"{number:02d}-{playbook[1] if playbook else 'command'}.txt"
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as screen:
            process = subprocess.Popen(
                line.split(),
                cwd=REPOSITORY,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=screen,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Typed(process, path)

    def screens(self, playbook: str = "*") -> list[str]:
        """Everything that was typed so far, oldest first."""
        return [path.read_text(errors="replace") for path in sorted(self.kept.glob(f"*-{playbook}.txt"))]

    def _environment(self) -> dict[str, str]:
        """That of a shell in which neither Molecule nor pytest runs."""
        strange = ("ANSIBLE_", "MOLECULE_", "PYTEST_", "PYTHONPATH", "HABITAT_")
        own = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
        path = os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", os.defpath)])
        inventory = str(self.folder / "inventory")
        return {**own, "PATH": path, "ANSIBLE_INVENTORY": inventory, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "120"}


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Ask again and again; the first answer that counts as true, or AssertionError."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)
    return found


def scenario_folder() -> Path:
    """Where a scenario's files are; Molecule itself has an ``inventory`` beside it."""
    return Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "stand"


if __name__ == "__main__":
    done = Terminal(scenario_folder()).type(" ".join(sys.argv[1:]))
    print(done.screen)
    sys.exit(done.code)
