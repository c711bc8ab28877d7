# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""PostgreSQL's client programs: where they are, what they can do, and running them so that they end with us."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError

_END_SECONDS = 5
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class ProgramFailed(BackupError):
    """A program failed; the text is a clause with its name and its own first error."""


@dataclass(frozen=True)
class Tools:
    """Paths of the two programs, pg_dump's version and the best compression it was built with."""

    pg_dump: str
    pg_restore: str
    version: str
    compression: str


def find_tools(bin_dir: str | None, server_version: int) -> Tools:
    """The client programs in ``bin_dir`` (else on PATH). Raises BackupError when missing or older than the server."""
    major = server_version // 10000
    pg_dump, pg_restore = (_program(name, bin_dir, major) for name in ("pg_dump", "pg_restore"))
    version = _version(pg_dump)
    if int(re.split("[^0-9]", version)[0]) < major:
        raise BackupError(
            f"{pg_dump} is {version} and cannot dump a server of version {major}; "
            f"install the PostgreSQL {major} client or set bin_dir"
        )
    return Tools(pg_dump, pg_restore, version, "zstd" if _has_zstd(pg_dump) else "gzip")


def _program(name: str, bin_dir: str | None, major: int) -> str:
    path = shutil.which(name, path=bin_dir)
    if path is None:
        where = bin_dir or "the PATH"
        raise BackupError(f"there is no {name} in {where}; install the PostgreSQL {major} client or set bin_dir")
    return path


def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], text=True, capture_output=True, check=False)
    found = re.search(r"\) ([0-9]+[0-9.a-z]*)", done.stdout)
    if done.returncode or not found:
        raise BackupError(f"{program} does not tell its version; install the PostgreSQL client or set bin_dir")
    return found[1]


def _has_zstd(pg_dump: str) -> bool:
    # Options are checked before connecting: only the one that lacks zstd complains of something else than the server.
    command = [pg_dump, "--no-password", "-Fc", "--compress=zstd", "-d", "host=/nonexistent"]
    done = subprocess.run(command, text=True, capture_output=True, check=False, env=quiet_environment())
    return "connection to server" in done.stderr


class Program:
    """A running program that dies with us. Its messages stay in memory: a full disk must not swallow them."""

    def __init__(
        self, command: list[str], environment: dict[str, str], output: int | BinaryIO, kept: tuple[int, ...] = ()
    ) -> None:
        self.name = Path(command[0]).name
        self._messages = os.fdopen(os.memfd_create("messages"), "w+b")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=self._messages,
            env=environment,
            pass_fds=kept,
            preexec_fn=_dies_with_us(),
        )

    def messages(self) -> list[str]:
        self._messages.seek(0)
        return self._messages.read().decode(errors="replace").splitlines()

    def ended_well(self) -> bool:
        """False while it runs. Raises when it failed: OSError for a full disk, else ProgramFailed."""
        code = self._process.poll()
        if code:
            _raise_failure(self.name, code, self.messages())
        return code == 0

    def wait(self) -> None:
        self._process.wait()
        self.ended_well()

    def end(self) -> None:
        """End it if it still runs; asked kindly pg_dump also cancels what it has running in the server."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._messages.close()


@contextmanager
def running(
    command: list[str], environment: dict[str, str], output: int | BinaryIO, kept: tuple[int, ...] = ()
) -> Iterator[Program]:
    """Start a program and yield it; it has ended when the block has. It inherits the descriptors ``kept``."""
    program = Program(command, environment, output, kept)
    try:
        yield program
    finally:
        program.end()


def _dies_with_us() -> Callable[[], None]:
    parent = os.getpid()

    def tie() -> None:
        # prctl(2): the kernel sends SIGKILL when the parent is gone, also when it was killed itself.
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def _raise_failure(name: str, code: int, messages: list[str]) -> None:
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
        _raise_failure(Path(command[0]).name, done.returncode, done.stderr.decode(errors="replace").splitlines())
    return done.stdout


def quiet_environment() -> dict[str, str]:
    """Our environment without PG* variables and with messages in English, which are looked into."""
    return {**{key: value for key, value in os.environ.items() if not key.startswith("PG")}, "LC_ALL": "C"}
