"""The stack's processes under Supervisor: its configuration, and orders to it over its socket."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from xmlrpc.client import Fault, ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from demo.embedded import postgres
from demo.embedded.state import REPOSITORY, Stack, StackError, write_private

MARK = "HABITAT_STACK"
"""Environment variable that every process of a stack has; its value is the stack's folder."""

# A laptop's share; durable as a real server, since what is shown here must hold after a crash.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
    "log_lock_waits": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "cluster_name": "habitat-local",
}


def configuration(stack: Stack) -> str:
    """Text of supervisord.conf.

    Its own files have relative names (it runs in the stack's folder), since it expands a % in them twice.
    Nothing starts by itself: `up` starts the programs over the socket, because Supervisor's own start waits a
    second. The stop of PostgreSQL is its fast shutdown (INT) and must never become a KILL.
    """
    root = "user=root\n" if os.geteuid() == 0 else ""
    return f"""[supervisord]
logfile=supervisord.log
logfile_maxbytes=1MB
logfile_backups=1
pidfile=supervisord.pid
minfds=256
umask=077
{root}
[unix_http_server]
file={_escaped(stack.supervisor_socket)}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{_escaped(stack.supervisor_socket)}

{_program(stack, "postgres", _postgres_command(stack), f"stopsignal=INT{chr(10)}stopwaitsecs=3600{chr(10)}priority=1")}
{_program(stack, "api1", [sys.executable, "-m", "demo.api"], _client(stack, stack.api_ports[0]))}
{_program(stack, "api2", [sys.executable, "-m", "demo.api"], _client(stack, stack.api_ports[1]))}
{_program(stack, "worker", [sys.executable, "-m", "demo.worker"], _client(stack))}
[group:habitat]
programs=api1,api2,worker
"""


def _escaped(value: object) -> str:
    return str(value).replace("%", "%%")


def _program(stack: Stack, name: str, command: list[str], more: str) -> str:
    directory = Path(stack.data).parent if name == "postgres" else REPOSITORY
    return f"""[program:{name}]
command={_escaped(shlex.join(command))}
directory={_escaped(directory)}
autostart=false
autorestart=true
startsecs=0
stdout_logfile={name}.log
stdout_logfile_maxbytes=5MB
stdout_logfile_backups=1
redirect_stderr=true
{more}
"""


def _postgres_command(stack: Stack) -> list[str]:
    settings = {**_SETTINGS, "port": stack.port, "unix_socket_directories": stack.socket_folder}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    return postgres.server_command("postgres", "-D", stack.data, *options, programs=Path(stack.server_bin_dir))


def _client(stack: Stack, api_port: int | None = None) -> str:
    """Supervisor settings of a program that connects; the password is in a file, as libpq wants it."""
    environment = {
        "PGHOST": stack.host,
        "PGPORT": stack.port,
        "PGDATABASE": stack.database,
        "PGUSER": stack.app_user,
        "PGPASSFILE": stack.file("app.pgpass"),
        "PGSSLMODE": "disable",
        "PGGSSENCMODE": "disable",
    }
    if api_port:
        environment["HABITAT_API_PORT"] = api_port
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in environment.items())
    return f"environment={pairs}\nstopwaitsecs=3"


def write_files(stack: Stack) -> None:
    """Write what the processes read: supervisord.conf and the application's password file."""
    write_private(stack.file("supervisord.conf"), configuration(stack))
    write_private(stack.file("app.pgpass"), f"{stack.host}:*:*:{stack.app_user}:{stack.app_password}\n")


def supervisor(stack: Stack) -> ServerProxy:
    """Supervisor's XML-RPC interface; a call raises OSError when nobody answers."""
    return ServerProxy(
        "http://localhost", transport=SupervisorTransport(None, None, f"unix://{stack.supervisor_socket}")
    )


def is_running(stack: Stack) -> bool:
    """Whether the stack's Supervisor answers."""
    try:
        supervisor(stack).supervisor.getState()
    except (OSError, HTTPException):
        return False
    return True


def start_supervisor(stack: Stack) -> None:
    """Start Supervisor in the background and wait until it answers."""
    kept = {"PATH", "HOME", "TMPDIR", "PYTHONPATH", "HABITAT_WORKER_INTERVAL"}
    environment = {name: value for name, value in os.environ.items() if name in kept}
    started = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-c", stack.supervisor_conf],
        env={**environment, "LC_ALL": "C.UTF-8", MARK: stack.folder},
        cwd=stack.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if started.returncode != 0:
        raise StackError(f"Supervisor does not start: {' '.join((started.stdout + started.stderr).split())}")
    wait_until(lambda: is_running(stack), 60, f"Supervisor does not answer; see {stack.file('supervisord.log')}")


def states(stack: Stack) -> dict[str, str]:
    """State of each process by name, such as ``{"postgres": "RUNNING", "habitat:api1": "STOPPED"}``."""
    found = supervisor(stack).supervisor.getAllProcessInfo()
    assert isinstance(found, list)  # noqa: S101 - tells the type of the answer
    names = {each["name"]: each for each in found}
    return {
        name if each["group"] == name else f"{each['group']}:{name}": str(each["statename"])
        for name, each in names.items()
    }


def start(stack: Stack, *names: str) -> None:
    """Start those of the named processes that do not run."""
    now = states(stack)
    for name in names:
        if now.get(name) not in ("RUNNING", "STARTING"):
            try:
                supervisor(stack).supervisor.startProcess(name, False)
            except Fault as fault:
                raise StackError(f"{name} does not start: {fault.faultString}; see its log in {stack.folder}") from None


def shut_down(stack: Stack) -> None:
    """Stop the application, then PostgreSQL, then Supervisor itself."""
    orders = supervisor(stack).supervisor
    now = states(stack)
    # One by one: what Supervisor does for a group at once it notices up to a second late.
    for name in (*stack.services, "postgres"):
        if now.get(name) in ("RUNNING", "STARTING"):
            orders.stopProcess(name)
    pid = int(str(orders.getPID()))
    orders.shutdown()
    # Being asked wakes it; by itself it would notice its end only a second later.
    wait_until(lambda: not is_running(stack) and not is_alive(pid), 120, "Supervisor does not end")


def clear_leftovers(stack: Stack) -> None:
    """End what a Supervisor that was killed has left running, PostgreSQL by its own fast shutdown."""
    supervisord = _pid_in(stack.file("supervisord.pid"))
    if supervisord in marked(stack):
        end(supervisord, signal.SIGTERM, 60)
    postmaster = _pid_in(Path(stack.data) / "postmaster.pid")
    if _is_postmaster(postmaster, stack):
        end(postmaster, signal.SIGINT, 60)
    for pid in marked(stack):
        end(pid, signal.SIGTERM, 2)
    for name in (stack.supervisor_socket, stack.file("supervisord.pid")):
        Path(name).unlink(missing_ok=True)


def marked(stack: Stack) -> set[int]:
    """Processes that belong to the stack, told by their environment (Linux)."""
    mark = f"{MARK}={stack.folder}".encode()
    return {pid for pid in _processes() if pid != os.getpid() and mark in _proc(pid, "environ").split(b"\0")}


def _processes() -> list[int]:
    return [int(each.name) for each in Path("/proc").glob("[0-9]*")]


def _proc(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _is_postmaster(pid: int, stack: Stack) -> bool:
    return stack.data.encode() in _proc(pid, "cmdline").split(b"\0")


def _pid_in(file: Path) -> int:
    """The number on the first line of a file; 0, no process, when there is none."""
    try:
        return int(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent to notice its end does not."""
    status = _proc(pid, "stat").rpartition(b")")[2].split()
    return bool(status) and status[0] not in (b"Z", b"X")


def end(pid: int, by: signal.Signals, patience: float) -> None:
    """Ask a process to end, and kill it after ``patience`` seconds."""
    for each in (by, signal.SIGKILL):
        try:
            os.kill(pid, each)
            wait_until(lambda: not is_alive(pid), patience, "")
        except ProcessLookupError:
            return
        except StackError:
            continue
        return
    raise StackError(f"Process {pid} does not end; end it by hand and try again")


def wait_until(done: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Wait for ``done()`` to be true; raises StackError with the sentence ``otherwise`` when the time is over."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise StackError(otherwise)
        time.sleep(0.02)
