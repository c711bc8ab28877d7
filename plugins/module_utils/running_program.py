# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A program of ours while it runs: it ends with us, and its failure becomes one clause."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ansible_collections.habitat.runbook.plugins.module_utils.interruption import uninterrupted
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import raise_if_stuck

if TYPE_CHECKING:
    import psycopg

END_SECONDS = 5
"""How long a program is given to end by itself when it was asked to."""

_LOOK_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class ProgramFailed(BackupError):
    """A program failed; the text is a clause with its name and its own first error."""


class Program:
    """A running program that dies with us. Its messages stay in memory: a full disk must not swallow them."""

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        output: int | BinaryIO,
        kept: tuple[int, ...] = (),
        last_signal: signal.Signals = signal.SIGKILL,
        given: int | BinaryIO = subprocess.DEVNULL,
    ) -> None:
        self.name = Path(command[0]).name
        self._messages = os.fdopen(os.memfd_create("messages"), "w+b")
        try:
            with uninterrupted():
                self._process = subprocess.Popen(
                    command,
                    stdin=given,
                    stdout=output,
                    stderr=self._messages,
                    env=environment,
                    pass_fds=kept,
                    preexec_fn=_dies_with_us(last_signal),
                )
        except KeyboardInterrupt:
            if hasattr(self, "_process"):
                Program.end(self)
            raise

    def messages(self) -> list[str]:
        self._messages.seek(0)
        return self._messages.read().decode(errors="replace").splitlines()

    def ended_well(self) -> bool:
        """False while it runs. Raises when it failed: OSError for a full disk, else ProgramFailed."""
        code = self._process.poll()
        if code:
            raise_failure(self.name, code, self.messages())
        return code == 0

    def wait(self) -> None:
        self._process.wait()
        self.ended_well()

    def end(self) -> None:
        """End it if it still runs; asked kindly pg_dump also cancels what it has running in the server."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._messages.close()


@contextmanager
def running(
    command: list[str],
    environment: dict[str, str],
    output: int | BinaryIO,
    kept: tuple[int, ...] = (),
    last_signal: signal.Signals = signal.SIGKILL,
) -> Iterator[Program]:
    """Start a program and yield it; it has ended when the block has. It inherits the descriptors ``kept``.

    ``last_signal`` is what it gets when we are killed ourselves.
    """
    with ending(Program(command, environment, output, kept, last_signal)) as program:
        yield program


@contextmanager
def ending(program: Program) -> Iterator[Program]:
    """End the program when the block ends."""
    try:
        yield program
    finally:
        program.end()


@dataclass
class Watch:
    """Looks after the programs and other sessions of their name: have they failed, do they wait for somebody?"""

    connection: psycopg.Connection
    programs: tuple[Program, ...]
    session: str
    lock_wait_ms: int
    next_look: float = 0.0

    def all_ended(self) -> bool:
        """Whether all have ended well. Raises as Program.ended_well and raise_if_stuck do."""
        if all([program.ended_well() for program in self.programs]):
            return True
        # pg_dump bounds its waiting for tables only; it would wait for ever for a locked view or sequence.
        self.look()
        return False

    def look(self) -> None:
        """Raises as raise_if_stuck, which it asks now and then only."""
        if time.monotonic() >= self.next_look:
            raise_if_stuck(self.connection, self.session, self.lock_wait_ms)
            self.next_look = time.monotonic() + _LOOK_SECONDS


def _dies_with_us(last_signal: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    parent = os.getpid()

    def tie() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        # prctl(2): the kernel sends the signal when the parent is gone, also when it was killed itself.
        _LIBC.prctl(_PR_SET_PDEATHSIG, last_signal)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def raise_failure(name: str, code: int, messages: list[str]) -> None:
    if code < 0:
        raise ProgramFailed(f"{name} was ended by {signal.Signals(-code).name}")
    text = next((line for line in messages if "error:" in line), messages[0] if messages else f"exit code {code}")
    text = text.split("error: ", 1)[-1]
    server = next((line.split("ERROR:", 1)[1] for line in messages if "from server: ERROR:" in line), None)
    if server is None and os.strerror(errno.ENOSPC) in text:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    cause = " ".join(text.split()) + (f" ({server.strip()})" if server else "")
    raise ProgramFailed(f"{name} failed: {cause}")


def output_of(command: list[str], given: bytes = b"") -> bytes:
    """What a program prints that needs no database. Raises ProgramFailed when it fails."""
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        check=False,
        env=quiet_environment(),
        preexec_fn=_dies_with_us(),
    )
    if done.returncode:
        raise_failure(Path(command[0]).name, done.returncode, done.stderr.decode(errors="replace").splitlines())
    return done.stdout


def quiet_environment() -> dict[str, str]:
    """Our environment without PG* variables and with messages in English, which are looked into."""
    return {**{key: value for key, value in os.environ.items() if not key.startswith("PG")}, "LC_ALL": "C"}
