# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""PostgreSQL's client programs: where they are, what they can do, how they reach the database."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.running_program import (
    Program,
    output_of,
    quiet_environment,
    running,
)
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import query

if TYPE_CHECKING:
    import psycopg

# Secrets must not be in an argument, what a service says is in the connection already, the rest is set anew.
_SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
_SERVICE = ("service", "servicefile")
_NOT_HANDED_ON = (*_SECRETS, *_SERVICE, "options", "client_encoding", "host", "hostaddr", "port")
# Defaults that libpq reports like settings, and that the libpq of an older pg_dump would not know by name.
_DEFAULTS = {"sslcertmode": "allow"}

_IS_SUPERUSER = "SELECT FROM pg_catalog.pg_roles WHERE rolname = session_user AND rolsuper"


@dataclass(frozen=True)
class Tools:
    """Paths of the two programs, pg_dump's version and the best compression it was built with.

    The methods run them on this host; those of ``client_in_container`` do the same inside a container.
    """

    pg_dump: str
    pg_restore: str
    version: str
    compression: str

    @property
    def place(self) -> str:
        """Where they are, to be put behind a program's name: nothing for this host."""
        return ""

    def jobs(self, wanted: int) -> int:
        """How many of the wanted parallel jobs pg_restore can do."""
        return wanted

    def refuse_form(self, form: str) -> None:
        """Raise BackupError when they cannot write or read a dump in this form."""

    def conninfo(self, connection: psycopg.Connection, session: str, database: str | None = None) -> str:
        """As ``session_conninfo``, from where the programs run."""
        return session_conninfo(connection, session, database)

    def dumping(
        self, arguments: list[str], environment: dict[str, str], output: BinaryIO
    ) -> AbstractContextManager[Program]:
        """Start pg_dump with its text going to ``output``; it has ended when the block has."""
        return running([self.pg_dump, *arguments], environment, output)

    def dumping_to(
        self, dump: Path, fd: int, arguments: list[str], environment: dict[str, str], jobs: int | None = None
    ) -> AbstractContextManager[Program]:
        """Start pg_dump in the custom form into the file that is open, empty and locked as ``fd``.

        With ``jobs`` it is an empty folder and gets the directory form, written by so many sessions.
        """
        # By name: on a redirected stdout pg_dump appends the finished table of contents instead of replacing the first
        # one (seen with 17.10, which opens stdout for appending). Whoever wants the file safe on disk syncs it.
        form = ["--format=custom"] if jobs is None else ["--format=directory", f"--jobs={jobs:d}"]
        command = [self.pg_dump, *form, f"--file={dump}", "--no-sync", *arguments]
        # Asked kindly, pg_dump also ends its workers, which are its own children and not tied to us.
        last_signal = signal.SIGKILL if jobs is None else signal.SIGTERM
        return running(command, environment, subprocess.DEVNULL, (fd,), last_signal)

    def reading(self, dump: Path) -> AbstractContextManager[Program]:
        """Start pg_restore reading the whole dump, for nothing but its complaints."""
        return running([self.pg_restore, "-f", "/dev/null", str(dump)], quiet_environment(), subprocess.DEVNULL)

    def listing(self, dump: Path) -> bytes:
        """The dump's table of contents. Raises ProgramFailed."""
        return output_of([self.pg_restore, "--list", str(dump)])

    def script(self, dump: Path, entries: list[bytes]) -> bytes:
        """These entries of the listing as SQL, in the encoding of the dump. Raises ProgramFailed."""
        return output_of([self.pg_restore, "-L", "/dev/stdin", "-f", "-", str(dump)], as_lines(entries))

    @contextmanager
    def restoring(
        self, dump: Path, entries: list[bytes], arguments: list[str], environment: dict[str, str]
    ) -> Iterator[Program]:
        """Start pg_restore with these entries of the listing, in their order; it has ended when the block has."""
        with os.fdopen(os.memfd_create("entries"), "wb") as listing:
            listing.write(as_lines(entries))
            listing.flush()
            what = ["-L", f"/proc/self/fd/{listing.fileno()}", str(dump)]
            command = [self.pg_restore, *arguments, *what]
            # Asked kindly, pg_restore also ends its workers, which are its own children and not tied to us.
            with running(command, environment, subprocess.DEVNULL, (listing.fileno(),), signal.SIGTERM) as program:
                yield program


def as_lines(entries: list[bytes]) -> bytes:
    return b"".join(entry + b"\n" for entry in entries)


def find_tools(bin_dir: str | None, server_version: int, container: str | None = None) -> Tools:
    """The client programs in ``bin_dir``, else on PATH, else in the container with this id.

    server_version: as libpq has it, 150020 for 15.20. Programs in ``bin_dir`` are taken or refused, never replaced.
    Raises BackupError when there are none, or none that is at least as new as the server.
    """
    major, minor = divmod(server_version, 10000)
    try:
        tools = _tools_of_host(bin_dir, major)
        # The container's are as new as its server. Minor releases do matter: what pg_dump 15.18 writes of a server of
        # 15.20 is not the same before and after a restore (pg_attver).
        if bin_dir or container is None or not is_older(tools.version, major, minor):
            return tools
        why = f"{tools.pg_dump} is {tools.version} and older than the server ({major}.{minor})"
    except BackupError as error:
        if bin_dir or container is None:
            raise
        why = str(error)
    from ansible_collections.habitat.runbook.plugins.module_utils.client_in_container import tools_inside

    return tools_inside(container, major, why)


def is_older(version: str, major: int, minor: int) -> bool:
    """Whether a program's version, such as 15.18 or 19beta1, is older than the server's."""
    numbers = re.split("[^0-9]+", version)
    return (int(numbers[0]), int(numbers[1] or 0) if len(numbers) > 1 else 0) < (major, minor)


def _tools_of_host(bin_dir: str | None, major: int) -> Tools:
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
    return as_conninfo(parameters)


def reopened(connection: psycopg.Connection, database: str | None = None) -> psycopg.Connection:
    """One more session like this one, in autocommit mode, in another database of the server if one is named.

    Event triggers that act on login are off as for the programs. Raises psycopg.OperationalError.
    """
    import psycopg

    session = connection.info.parameter_status("application_name") or ""
    where, info = session_conninfo(connection, session, database), connection.info
    options = f"{info.options} {'-c event_triggers=off' if _may_mute_triggers(connection) else ''}".strip()
    return psycopg.connect(where, password=info.password or None, options=options, autocommit=True)


def _may_mute_triggers(connection: psycopg.Connection) -> bool:
    """Whether the role may switch event triggers off (PostgreSQL 17, superusers)."""
    return connection.info.server_version >= 170000 and bool(query(connection, _IS_SUPERUSER))


def as_conninfo(parameters: dict[str, str]) -> str:
    escaped = {key: value.replace("\\", "\\\\").replace("'", "\\'") for key, value in parameters.items()}
    return " ".join(f"{key}='{value}'" for key, value in escaped.items())


def session_environment(connection: psycopg.Connection, **settings: str) -> dict[str, str]:
    """Environment of a program that connects as this connection did: its options, then ``settings``, the password.

    Event triggers, of which one may act on login, are off where the role may do that (PostgreSQL 17, superusers), and
    names are written the same whatever is set for the database.
    """
    added = {"client_connection_check_interval": "500", "quote_all_identifiers": "off", **settings}
    if _may_mute_triggers(connection):
        added["event_triggers"] = "off"
    # What PG* variables said is in the connection already; the password goes by no other way than this.
    environment = quiet_environment()
    options = [connection.info.options, *(f"-c {name}={value}" for name, value in added.items())]
    environment["PGOPTIONS"] = " ".join(options).strip()
    if connection.info.password:
        environment["PGPASSWORD"] = connection.info.password
    return environment
