# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A socket on this host that leads to the server's socket inside a container: a small process of its own.

Every connection gets a ``docker exec -i`` with the client's end as its standard input and output. A relay inside
passes the bytes on to the server's socket. When the client's end is gone, however it went, the relay reads the end of
its input, drops what it has not passed on and closes, as the kernel would do. When the bridge is gone, its children
are killed, and the same happens. So nothing outlives whom it was for.

The bridge ends by itself when it has had no connection for ``IDLE_SECONDS``. One that is there is used again.

The serving half is given to a Python process through its standard input: standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import inspect
import os
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

IDLE_SECONDS = 20.0
PORT = 5432
SOCKET = f".s.PGSQL.{PORT}"
_LONGEST_PATH = 107  # bytes of sun_path in unix(7), without the final zero
_START_SECONDS = 20.0
_POLL_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1

# A bounded store on the way to the server: reading goes on while the server is busy, so that the end of the input is
# seen. With more than that outstanding it is seen when the server has taken some of it.
_PERL = r"""
use strict;
my ($path, $port, $shell) = @ARGV;
eval { require IO::Socket::UNIX; 1 } or exec 'bash', '-c', $shell, 'bash', $port;
my $server = IO::Socket::UNIX->new(Peer => $path) or die "$path in the container does not answer: $!\n";
$SIG{PIPE} = 'IGNORE';
binmode $_ for \*STDIN, \*STDOUT;
$_->blocking(0) for $server, \*STDOUT;
my ($in, $out, $both) = (fileno(STDIN), fileno(STDOUT), fileno($server));
my ($up, $down, $ended) = ('', '', 0);
until ($ended && !length $down) {
  my ($r, $w) = ('', '');
  vec($r, $in, 1) = 1 if length $up < 8388608;
  vec($r, $both, 1) = 1 if !$ended && length $down < 1048576;
  vec($w, $both, 1) = 1 if length $up && !$ended;
  vec($w, $out, 1) = 1 if length $down;
  next if select($r, $w, undef, undef) < 0;
  if (vec($w, $both, 1)) {
    my $n = syswrite $server, $up, 262144;
    if ($n) { substr($up, 0, $n, '') } elsif (!$!{EAGAIN}) { $up = '' }
  }
  if (vec($w, $out, 1)) {
    my $n = syswrite STDOUT, $down, 262144;
    if ($n) { substr($down, 0, $n, '') } elsif (!$!{EAGAIN}) { last }
  }
  if (vec($r, $both, 1)) {
    my $n = sysread $server, $down, 65536, length $down;
    $ended = 1 if defined $n ? !$n : !$!{EAGAIN};
  }
  if (vec($r, $in, 1)) { sysread(STDIN, $up, 65536, length $up) or last }
}
"""

# Without the store: a client that is gone with more than some 100 KB outstanding is noticed when the server takes them.
# Nobody may be left behind, nor end by a signal then: an orphan becomes a child of the container's first process, and
# PostgreSQL takes its end for the crash of a server process, ends all sessions and recovers (seen with 15).
_BASH = """
trap '' PIPE
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
exec 4<&0
cat <&4 >&3 & in=$!
cat <&3 4<&- & out=$!
exec 3>&- 4<&-
wait -n
kill $in $out 2>/dev/null
wait
exit 0
"""

_CHOOSE = """
for folder in "${PGHOST-}" /var/run/postgresql /tmp; do
  if [ -S "$folder/.s.PGSQL.$1" ] && command -v perl >/dev/null
  then exec perl -e "$2" -- "$folder/.s.PGSQL.$1" "$1" "$3"
  fi
done
exec bash -c "$3" bash "$1"
"""


class BridgeError(Exception):
    """There is no bridge; the text is one sentence that says why."""


def open_bridge(container: str, port: int, base: str | None = None, idle: float = IDLE_SECONDS) -> Path:
    """The folder with a socket (of port ``PORT``) that leads to the server in a container (its id); started if needed.

    port: the server's own inside the container; base: folder to make the bridge's folder in, by default the user's
    runtime folder, else the one for temporary files. Raises BridgeError.
    """
    folder = _folder(container, port, base)
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        _own(folder)
        with contextlib.suppress(FileNotFoundError), (folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # First the sign, then the look: a bridge about to end looks for signs after it took its socket away.
                os.utime(lock.fileno())
                if (folder / SOCKET).exists():
                    return folder
            else:
                if os.fstat(lock.fileno()).st_ino == (folder / "lock").stat().st_ino:
                    _start(folder, container, port, idle, lock)
                    return folder
        time.sleep(_POLL_SECONDS)
    raise BridgeError(f"the bridge in {folder} neither serves nor ends; end its process: fuser -k {folder}/lock")


def _folder(container: str, port: int, base: str | None) -> Path:
    runtime = Path(f"/run/user/{os.geteuid()}")
    places = [base] if base else [str(runtime)] if os.access(runtime, os.W_OK) else []
    name = f"habitat-bridge-{os.geteuid()}-{container[:12]}-{port}"
    folders = [Path(place) / name for place in (*places, tempfile.gettempdir(), "/tmp")]  # noqa: S108
    return next(folder for folder in folders if len(os.fsencode(folder / SOCKET)) <= _LONGEST_PATH)


def _own(folder: Path) -> None:
    """Make the folder, or see that it is ours alone: whoever could write there would get our connections."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    with contextlib.suppress(FileNotFoundError):
        found = folder.lstat()
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or mode & 0o077:
            what = f"belongs to uid {found.st_uid} with mode {mode:04o}"
            raise BridgeError(f"{folder} {what} and not to uid {os.geteuid()} alone; remove it: rm -r {folder}")


def _start(folder: Path, container: str, port: int, idle: float, lock: IO[Any]) -> None:
    program = shutil.which("docker")
    if program is None:
        raise BridgeError("there is no docker command on this host's PATH; install Docker's command line")
    process = subprocess.Popen(
        [sys.executable, "-I", "-", str(folder), container, str(port), str(idle), str(lock.fileno()), program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd="/",
        pass_fds=(lock.fileno(),),
    )
    assert process.stdin and process.stdout and process.stderr  # noqa: S101
    with process.stdin, process.stdout, process.stderr:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(inspect.getsource(sys.modules[__name__]).encode())
            process.stdin.close()
        ready, _, _ = select.select([process.stdout], [], [], _START_SECONDS)
        if ready and process.stdout.readline():
            return
        process.kill()
        lines = process.stderr.read().decode(errors="replace").strip().splitlines() or ["no answer"]
    raise BridgeError(f"the bridge into container {container[:12]} did not start: {lines[-1]}")


class Bridge:
    """The serving half: accepts connections in ``folder`` until there has been none for ``idle`` seconds."""

    def __init__(self, folder: Path, command: list[str], idle: float, lock: int) -> None:
        self._folder, self._command, self._idle, self._lock = folder, command, idle, lock
        self._relays: list[tuple[subprocess.Popen[bytes], socket.socket, IO[bytes]]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.setblocking(False)
        (folder / ".new").unlink(missing_ok=True)
        self._listener.bind(str(folder / ".new"))
        self._listener.listen(64)
        (folder / ".new").rename(folder / SOCKET)
        self._last = time.time()

    def serve(self) -> None:
        """Serve until the bridge is over, or SystemExit is raised; its folder is gone then."""
        woken, waker = socket.socketpair()
        for end in (woken, waker):
            end.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        try:
            self._serve(woken)
        finally:
            # The lock goes last: whoever starts the next bridge makes its files only when this one has gone.
            for name in (SOCKET, ".new", "lock"):
                (self._folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._folder.rmdir()

    def _serve(self, woken: socket.socket) -> None:
        while not self._over():
            ready, _, _ = select.select([self._listener, woken], [], [], min(1.0, self._idle / 4))
            if woken in ready:
                woken.recv(4096)
            if self._listener in ready:
                with contextlib.suppress(BlockingIOError):
                    self._carry(self._listener.accept()[0])
            self._relays = [relay for relay in self._relays if not self._ended(*relay)]

    def _carry(self, client: socket.socket) -> None:
        messages = os.fdopen(os.memfd_create("messages"), "w+b")
        tie = _dies_with(os.getpid())
        relay = subprocess.Popen(
            self._command, stdin=client.fileno(), stdout=client.fileno(), stderr=messages, preexec_fn=tie
        )
        self._relays.append((relay, client, messages))

    def _ended(self, relay: subprocess.Popen[bytes], client: socket.socket, messages: IO[bytes]) -> bool:
        code = relay.poll()
        if code is None:
            return False
        messages.seek(0)
        text = " ".join(messages.read(4096).decode(errors="replace").split())
        with client, messages, contextlib.suppress(OSError):
            if code:
                client.send(refusal(text or f"docker exec ended with {code}"), socket.MSG_DONTWAIT)
        self._last = time.time()
        return True

    def _over(self) -> bool:
        """Whether nobody needs it: no connection now, nor lately, nor somebody who just looked for it."""
        if self._relays or time.time() - self._last < self._idle:
            return False
        with contextlib.suppress(FileNotFoundError):
            (self._folder / SOCKET).rename(self._folder / ".new")
        waiting, _, _ = select.select([self._listener], [], [], 0)
        if not waiting and time.time() - os.fstat(self._lock).st_mtime >= self._idle:
            return True
        self._last = time.time()
        with contextlib.suppress(FileNotFoundError):
            (self._folder / ".new").rename(self._folder / SOCKET)
        return False


def refusal(text: str) -> bytes:
    """An ErrorResponse of PostgreSQL's protocol (version 3), class 08 (connection exception), to end a session with."""
    fields = {"S": "FATAL", "V": "FATAL", "C": "08006", "M": text}
    body = b"".join(key.encode() + value.encode() + b"\0" for key, value in fields.items()) + b"\0"
    return b"E" + struct.pack(">i", len(body) + 4) + body


def _dies_with(parent: int) -> Any:
    libc = ctypes.CDLL(None)

    def tie() -> None:
        # prctl(2): the kernel sends the signal when the parent is gone, also when it was killed itself.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def main(folder: str, container: str, port: str, idle: str, lock: str, program: str) -> None:
    """Serve, once "ready" is on standard output; ``lock`` is the descriptor of the lock that shows we are alive."""
    relay = ["sh", "-c", _CHOOSE, "sh", port, _PERL, _BASH]
    bridge = Bridge(Path(folder), [program, "exec", "-i", container, *relay], float(idle), int(lock))
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("ready", flush=True)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    bridge.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
