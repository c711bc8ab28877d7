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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import query, raise_if_stuck

if TYPE_CHECKING:
    import psycopg

_END_SECONDS = 5
_LOOK_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)

# Secrets must not be in an argument, what a service says is in the connection already, the rest is set anew.
_SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
_SERVICE = ("service", "servicefile")
_NOT_HANDED_ON = (*_SECRETS, *_SERVICE, "options", "client_encoding", "host", "hostaddr", "port")
# Defaults that libpq reports like settings, and that the libpq of an older pg_dump would not know by name.
_DEFAULTS = {"sslcertmode": "allow"}

_IS_SUPERUSER = "SELECT FROM pg_catalog.pg_roles WHERE rolname = session_user AND rolsuper"


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
        self,
        command: list[str],
        environment: dict[str, str],
        output: int | BinaryIO,
        kept: tuple[int, ...] = (),
        last_signal: signal.Signals = signal.SIGKILL,
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
            preexec_fn=_dies_with_us(last_signal),
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
    command: list[str],
    environment: dict[str, str],
    output: int | BinaryIO,
    kept: tuple[int, ...] = (),
    last_signal: signal.Signals = signal.SIGKILL,
) -> Iterator[Program]:
    """Start a program and yield it; it has ended when the block has. It inherits the descriptors ``kept``.

    ``last_signal`` is what it gets when we are killed ourselves.
    """
    program = Program(command, environment, output, kept, last_signal)
    try:
        yield program
    finally:
        program.end()


@dataclass
class Watch:
    """Looks after the programs while they run: have they failed, do they wait for somebody?"""

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
        if time.monotonic() >= self.next_look:
            raise_if_stuck(self.connection, self.session, self.lock_wait_ms)
            self.next_look = time.monotonic() + _LOOK_SECONDS
        return False


def _dies_with_us(last_signal: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    parent = os.getpid()

    def tie() -> None:
        # prctl(2): the kernel sends the signal when the parent is gone, also when it was killed itself.
        _LIBC.prctl(_PR_SET_PDEATHSIG, last_signal)
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


def session_conninfo(connection: psycopg.Connection, session: str, database: str | None = None) -> str:
    """Connection string to the very server this connection is with, without the password.

    ``session`` becomes the application_name; ``database`` is the connection's own unless another is named.
    """
    info = connection.info
    given = {key: value for key, value in info.get_parameters().items() if _DEFAULTS.get(key) != value}
    given = {key: value for key, value in given.items() if key not in _NOT_HANDED_ON}
    pinned = {"host": info.host, "port": str(info.port), "user": info.user, "dbname": database or info.dbname}
    if info.hostaddr:
        pinned["hostaddr"] = info.hostaddr
    parameters = {**given, **pinned, "application_name": session}
    escaped = {key: value.replace("\\", "\\\\").replace("'", "\\'") for key, value in parameters.items()}
    return " ".join(f"{key}='{value}'" for key, value in escaped.items())


def session_environment(connection: psycopg.Connection, **settings: str) -> dict[str, str]:
    """Environment of a program that connects as this connection did: its options, then ``settings``, the password.

    Event triggers, of which one may act on login, are off where the role may do that (PostgreSQL 17, superusers), and
    names are written the same whatever is set for the database.
    """
    added = {"client_connection_check_interval": "500", "quote_all_identifiers": "off", **settings}
    if connection.info.server_version >= 170000 and query(connection, _IS_SUPERUSER):
        added["event_triggers"] = "off"
    # What PG* variables said is in the connection already; the password goes by no other way than this.
    environment = quiet_environment()
    options = [connection.info.options, *(f"-c {name}={value}" for name, value in added.items())]
    environment["PGOPTIONS"] = " ".join(options).strip()
    if connection.info.password:
        environment["PGPASSWORD"] = connection.info.password
    return environment
