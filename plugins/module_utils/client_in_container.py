# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""PostgreSQL's client programs inside the database's container, ending with us as those of the host do.

``docker exec`` leaves what it started running when it is killed itself (seen with Engine 20.10 and SIGINT, SIGTERM and
SIGKILL). So every program is started by a shell that reads its own standard input: it is a pipe whose other end is open
here, and at its end, which the kernel brings about however we or the docker command come to die, the program is ended.
A dump goes in by a second ``docker exec`` and a named pipe. On the same pipe, bytes that the program has not read yet,
because it waits for the server, would stand before the end and hide it.

Whoever starts a process in there has to wait for it. An orphan becomes a child of the container's first process, and
when that is PostgreSQL and the orphan ends by a signal, PostgreSQL takes it for a server process of its own that has
crashed, ends all sessions and recovers (seen with 15.20).
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import Tools, as_conninfo
from ansible_collections.habitat.runbook.plugins.module_utils.docker import DockerError, docker
from ansible_collections.habitat.runbook.plugins.module_utils.dump_files import DIRECTORY
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.running_program import (
    END_SECONDS,
    Program,
    ProgramFailed,
    ending,
    quiet_environment,
    raise_failure,
)
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import query

if TYPE_CHECKING:
    import psycopg

_POLL_SECONDS = 0.02
_CLOSED = -1
# What a shell adds to the number of the signal that ended a program.
_SIGNALLED = 128
_SIGNALS = {number.value for number in signal.Signals}
_INNER_PORT = "SELECT pg_catalog.current_setting('port') AS port"

# Prints the two versions, and what pg_dump says about zstd: options are checked before connecting.
_VERSIONS = """
pg_dump --version && pg_restore --version || exit
pg_dump --no-password -Fc --compress=zstd -d host=/nonexistent 2>&1
exit 0"""

# Arguments: what is printed behind the program's output when it has ended well, the folder of its named pipe ("" when
# it is fed nothing), the program. With a folder the first line of stdin has the numbers of entries, which make a list
# for -L. read is the shell's own, so nobody is left behind when the one who waits there is killed, and takes no byte
# more than the line. What is opened at last lets go whoever still waits for somebody to read the named pipe.
_GUARDED = r"""
exec 3<&0 </dev/null
mark=$1 folder=$2; shift 2
if [ "$folder" ]; then
  umask 077; mkdir "$folder" && mkfifo "$folder/dump" || exit 1
  IFS= read -r numbers <&3
  printf '%s;\n' $numbers >"$folder/list"
  "$@" <"$folder/dump" 3<&- &
else
  "$@" </dev/null 3<&- &
fi
program=$!
{ read -r _ <&3; trap '' TERM; kill -TERM $program; sleep 1 3<&-; kill -KILL $program; } >/dev/null 2>&1 &
guard=$!
exec 3<&-
wait $program; code=$?
kill $guard 2>/dev/null; wait $guard 2>/dev/null
if [ "$folder" ]; then exec 4<>"$folder/dump"; rm -rf "$folder"; exec 4<&-; fi
[ $code != 0 ] || printf %s "$mark"
exit $code"""

# Waits at most 15 s for the named pipe, then carries stdin there.
_FEEDING = r"""
tries=0
until [ -p "$1" ]; do
  tries=$((tries + 1)); [ $tries -le 300 ] || exit 1
  sleep 0.05
done
exec cat >"$1" """


class GuardedProgram(Program):
    """A program inside the container.

    ``dump`` is the file it reads, by ``entries`` of its listing if these are given. A mark behind its output, which is
    taken off again, shows that it has ended well and that all has arrived. Docker shows neither: its command ends with
    0 when it gets a SIGTERM (seen with 28.2), and its engine waits 2 s at most for what a client has not taken yet.
    """

    def __init__(
        self,
        where: ToolsInside,
        command: list[str],
        environment: dict[str, str],
        output: int | BinaryIO | None = None,
        dump: Path | None = None,
        entries: list[bytes] | None = None,
    ) -> None:
        token = secrets.token_hex(16)
        folder = f"/tmp/habitat-{token}" if dump else ""  # noqa: S108 - made by mkdir, with a name nobody can foresee
        self._mark: bytes | None = token.encode()
        self._own = None
        if output is None:
            output = self._own = os.fdopen(os.memfd_create("output"), "w+b")
        self._output = output
        chosen = [] if entries is None else ["-L", f"{folder}/list"]
        guarded = ["sh", "-c", _GUARDED, "sh", token, folder, *command, *chosen]
        self._feeder: Program | None = None
        self._unfed_since: float | None = None
        reading, self._lifeline = os.pipe()
        try:
            super().__init__(where.command(guarded, environment), environment, self._output, given=reading)
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(reading)
        self.name = f"{command[0]}{where.place}"
        if dump:
            self._feed(where, dump, folder, entries or [])

    def _feed(self, where: ToolsInside, dump: Path, folder: str, entries: list[bytes]) -> None:
        environment = quiet_environment()
        try:
            with dump.open("rb") as content:
                command = where.command(["sh", "-c", _FEEDING, "sh", f"{folder}/dump"], environment)
                self._feeder = Program(command, environment, subprocess.DEVNULL, given=content)
            self._feeder.name = f"docker{where.place}"
            numbers = b" ".join(entry.split(b";", 1)[0] for entry in entries)
            # When docker has failed already its messages tell more than our broken pipe.
            with suppress(BrokenPipeError):
                _write_all(self._lifeline, numbers + b"\n")
        except BaseException:
            self.end()
            raise

    def ended_well(self) -> bool:
        code = self._process.poll()
        if code is None:
            self._look_at_feeder()
            return False
        messages = self.messages()
        if code > _SIGNALLED and code - _SIGNALLED in _SIGNALS and not any("error:" in line for line in messages):
            code = _SIGNALLED - code
        if code:
            raise_failure(self.name, code, messages)
        self._take_mark_off()
        return True

    def wait(self) -> None:
        while not self.ended_well():
            time.sleep(_POLL_SECONDS)

    def end(self) -> None:
        """End it if it still runs, and whatever carries a dump to it."""
        if self._lifeline != _CLOSED:
            os.close(self._lifeline)
            self._lifeline = _CLOSED
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        super().end()
        if self._own:
            self._own.close()
        if self._feeder:
            self._feeder.end()
            self._feeder = None

    def _look_at_feeder(self) -> None:
        """Raise ProgramFailed when what the program waits for will never come."""
        try:
            if self._feeder:
                self._feeder.ended_well()
        except ProgramFailed:
            # It is no failure when the program has read enough and just ended, which we may hear of a moment later.
            self._unfed_since = self._unfed_since or time.monotonic()
            if time.monotonic() - self._unfed_since > END_SECONDS:
                raise

    def _take_mark_off(self) -> None:
        """Take the mark off the end of the output. Raises ProgramFailed when it is not there."""
        if self._mark is None:
            return
        fd = self._output if isinstance(self._output, int) else self._output.fileno()
        size = max(0, os.fstat(fd).st_size - len(self._mark))
        if os.pread(fd, len(self._mark), size) != self._mark:
            raise ProgramFailed(f"{self.name} was cut off: docker ended before it")
        os.ftruncate(fd, size)
        self._mark = None


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@dataclass(frozen=True)
class ToolsInside(Tools):
    """The programs inside a container: path of the docker command, the container's id and its name."""

    docker: str
    container: str
    name: str

    @property
    def place(self) -> str:
        return f" inside container {self.name}"

    def jobs(self, wanted: int) -> int:
        """One: pg_restore needs a dump that it can seek in for more."""
        return min(1, wanted)

    def refuse_form(self, form: str) -> None:
        if form == DIRECTORY:
            raise BackupError(
                f"a dump in the directory form cannot be streamed out of or into container {self.name}; "
                f"install the PostgreSQL client on this host, or take the custom form (habitat_backup_form)"
            )

    def conninfo(self, connection: psycopg.Connection, session: str, database: str | None = None) -> str:
        """Connection string, as seen from inside, to the server this connection is with."""
        info = connection.info
        # A connection by a socket was made where TCP is not let in: a socket it is inside, too, the programs' own.
        host = {} if info.host.startswith("/") else {"host": "127.0.0.1"}
        port = query(connection, _INNER_PORT)[0]["port"]
        whom = {"user": info.user, "dbname": database or info.dbname, "application_name": session}
        return as_conninfo({**host, "port": port, **whom})

    def dumping(
        self, arguments: list[str], environment: dict[str, str], output: BinaryIO
    ) -> AbstractContextManager[Program]:
        return ending(GuardedProgram(self, [self.pg_dump, *arguments], environment, output))

    def dumping_to(
        self, dump: Path, fd: int, arguments: list[str], environment: dict[str, str], jobs: int | None = None
    ) -> AbstractContextManager[Program]:
        # Into a pipe pg_dump writes no offsets into the table of contents, and pg_restore finds the data without them.
        return ending(GuardedProgram(self, [self.pg_dump, "--format=custom", *arguments], environment, fd))

    def reading(self, dump: Path) -> AbstractContextManager[Program]:
        return ending(GuardedProgram(self, [self.pg_restore, "-f", "/dev/null"], quiet_environment(), dump=dump))

    def listing(self, dump: Path) -> bytes:
        return self._text([self.pg_restore, "--list"], dump)

    def script(self, dump: Path, entries: list[bytes]) -> bytes:
        return self._text([self.pg_restore, "-f", "-"], dump, entries)

    @contextmanager
    def restoring(
        self, dump: Path, entries: list[bytes], arguments: list[str], environment: dict[str, str]
    ) -> Iterator[Program]:
        command = [self.pg_restore, *arguments]
        with ending(GuardedProgram(self, command, environment, dump=dump, entries=entries)) as program:
            yield program

    def _text(self, command: list[str], dump: Path, entries: list[bytes] | None = None) -> bytes:
        with (
            os.fdopen(os.memfd_create("text"), "w+b") as output,
            ending(GuardedProgram(self, command, quiet_environment(), output, dump, entries)) as program,
        ):
            program.wait()
            output.seek(0)
            return output.read()

    def command(self, command: list[str], environment: dict[str, str]) -> list[str]:
        """``docker exec`` of a command, with PostgreSQL's variables and the language: by name, so no value shows."""
        handed = sorted(key for key in environment if key.startswith("PG") or key == "LC_ALL")
        names = [f"--env={key}" for key in handed]
        return [self.docker, "exec", "--interactive", *names, self.container, *command]


def tools_inside(container: str, major: int, why: str) -> ToolsInside:
    """The programs inside the container with this id; ``why`` says what those of the host lack.

    Raises BackupError when there are none either, or none of the server's major version.
    """
    name = container[:12]
    try:
        name = docker("inspect", "--format={{.Name}}", container).strip().lstrip("/")
        printed = docker("exec", "--env=LC_ALL=C", container, "sh", "-c", _VERSIONS)
    except DockerError as error:
        raise BackupError(f"{why}; those inside container {name} cannot be used either: {error}") from error
    version = re.search(r"^pg_dump \(.*\) ([0-9]+[0-9.a-z]*)", printed)
    if not version or int(re.split("[^0-9]", version[1])[0]) < major:
        shown = version[1] if version else "of an unknown version"
        raise BackupError(f"{why}; pg_dump inside container {name} is {shown}")
    compression = "zstd" if "connection to server" in printed else "gzip"
    return ToolsInside(
        "pg_dump", "pg_restore", version[1], compression, shutil.which("docker") or "docker", container, name
    )
