"""What the stack remembers: ports, passwords and folders, in ``stack.json`` (0600) inside its private folder."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from demo.embedded import postgres

REPOSITORY = Path(__file__).resolve().parents[2]

SOCKET_PATH_LIMIT = 107
"""Bytes in the path of a Unix socket, the ending NUL not counted (Linux, unix(7))."""

# Supervisor binds `<socket>.<pid>` first and PostgreSQL's name has the port; both fit in this.
_LONGEST_SOCKET_NAME = len("/supervisor.sock.4194304")


class StackError(Exception):
    """Something the person at the screen has to know, in one sentence."""


@dataclass(frozen=True)
class Stack:
    """Everything about one stack; also what others read from stack.json."""

    folder: str
    runs_as: str
    database: str
    host: str
    port: int
    socket_folder: str
    superuser: str
    owner: str
    owner_password: str
    app_user: str
    app_password: str
    health_urls: list[str]
    supervisor_conf: str
    supervisor_socket: str
    supervisorctl: str
    services: list[str]
    bin_dir: str
    server_bin_dir: str
    data: str
    outside: str | None
    """A folder of this stack under the system's temporary folder, or None."""

    def file(self, name: str) -> Path:
        return Path(self.folder) / name

    @property
    def api_ports(self) -> list[int]:
        return [int(url.split(":")[2].split("/")[0]) for url in self.health_urls]


def runtime_folder() -> Path:
    """Where the stack lives: HABITAT_RUNTIME or ``.runtime/local`` in the repository."""
    given = os.environ.get("HABITAT_RUNTIME")
    return Path(given).resolve() if given else REPOSITORY / ".runtime" / "local"


def load(folder: Path) -> Stack | None:
    """The stack in a folder, None when there is none."""
    file = folder / "stack.json"
    try:
        stack = Stack(**json.loads(file.read_text()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise StackError(f"{file} cannot be read: the stack belongs to another user.") from None
    except (ValueError, TypeError):
        raise StackError(f"{file} is not a stack of this version; remove the folder {folder} by hand.") from None
    if stack.folder != str(folder):
        raise StackError(
            f"The stack in {folder} was made in {stack.folder}; move it back or remove the folder by hand."
        )
    return stack


def create(folder: Path) -> Stack:
    """Choose ports, passwords and folders for a new stack and write them down."""
    if {each.name for each in folder.iterdir()} - {"lock"}:
        raise StackError(f"{folder} has files in it but no stack.json; choose an empty folder or remove it by hand.")
    outside = _outside(folder)
    home = outside or folder
    as_nobody = postgres.runs_as() == "nobody"
    copied = as_nobody and not postgres.open_to_all(postgres.BIN)
    server_home = home / "server" if as_nobody else home
    port, *api_ports = free_ports(3)
    stack = Stack(
        folder=str(folder),
        runs_as=postgres.runs_as(),
        database="habitat",
        host="127.0.0.1",
        port=port,
        socket_folder=str(server_home),
        superuser="postgres",
        owner="habitat",
        owner_password=secrets.token_urlsafe(24),
        app_user="habitat_app",
        app_password=secrets.token_urlsafe(24),
        health_urls=_health_urls(api_ports),
        supervisor_conf=str(folder / "supervisord.conf"),
        supervisor_socket=str(home / "supervisor.sock"),
        supervisorctl=_supervisorctl(),
        services=["habitat:api1", "habitat:api2", "habitat:worker"],
        bin_dir=str(postgres.BIN),
        server_bin_dir=str(home / "postgresql" / "bin" if copied else postgres.BIN),
        data=str((server_home if as_nobody else folder) / "data"),
        outside=str(outside) if outside else None,
    )
    save(stack)
    return stack


def _outside(folder: Path) -> Path | None:
    """A new folder under the temporary one, if the stack's own does not suit sockets or is closed to the server."""
    if postgres.runs_as() == "nobody":
        return Path(tempfile.mkdtemp(prefix="habitat-stack-", dir=postgres.public_temp()))
    too_long = len(os.fsencode(folder)) + _LONGEST_SOCKET_NAME > SOCKET_PATH_LIMIT
    # A comma separates hosts for libpq, a % is expanded by Supervisor.
    if too_long or not re.fullmatch(r"[\w/.+-]+", str(folder), re.ASCII):
        return Path(tempfile.mkdtemp(prefix="habitat-stack-"))
    return None


def prepare_folders(stack: Stack) -> None:
    """Make what is outside the stack's folder, again if a reboot has emptied the temporary folder."""
    if stack.runs_as != postgres.runs_as():
        raise StackError(
            f"The stack in {stack.folder} runs its server as {stack.runs_as}, which is not possible now"
            f" (now: {postgres.runs_as()}); end it with: python -m demo.embedded destroy"
        )
    if stack.outside:
        Path(stack.outside).mkdir(mode=0o700, exist_ok=True)
    if stack.outside and stack.runs_as == "nobody":
        Path(stack.outside).chmod(0o711)
        Path(stack.socket_folder).mkdir(mode=0o700, exist_ok=True)
        postgres.give_to_server(Path(stack.socket_folder))
    if stack.outside and stack.server_bin_dir != stack.bin_dir and not Path(stack.server_bin_dir).exists():
        postgres.copy_programs(Path(stack.outside))


def refreshed(stack: Stack) -> Stack:
    """The stack with today's programs, and another port wherever somebody else took one; call it while nothing runs."""
    wanted = [stack.port, *stack.api_ports]
    spare = free_ports(len(wanted))
    port, *api_ports = [given if _is_free(given) else other for given, other in zip(wanted, spare, strict=True)]
    copied = stack.server_bin_dir != stack.bin_dir
    changed = replace(
        stack,
        port=port,
        health_urls=_health_urls(api_ports),
        supervisorctl=_supervisorctl(),
        bin_dir=str(postgres.BIN),
        server_bin_dir=stack.server_bin_dir if copied else str(postgres.BIN),
    )
    if changed != stack:
        save(changed)
    return changed


def _supervisorctl() -> str:
    return str(Path(sys.executable).parent / "supervisorctl")


def _health_urls(ports: list[int]) -> list[str]:
    return [f"http://127.0.0.1:{port}/api/health" for port in ports]


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback address that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _is_free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def save(stack: Stack) -> None:
    write_private(stack.file("stack.json"), json.dumps(asdict(stack), indent=2) + "\n")


def write_private(file: Path, text: str) -> None:
    """Write a file that only this user may read, whole or not at all."""
    part = file.with_name(file.name + ".part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    part.replace(file)


def remove(stack: Stack) -> None:
    """Remove everything the stack has on disk."""
    for folder in filter(None, [stack.outside, stack.folder]):
        if Path(folder).exists():
            shutil.rmtree(folder)
