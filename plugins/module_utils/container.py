# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Where the database in a Docker container is reached from its host, and with which password.

A password is only ever in memory: it comes out of docker's standard output and goes into a connection.
"""

from __future__ import annotations

import functools
import json
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.docker import (
    Container,
    DockerError,
    compose_containers,
    docker,
)

_ANSWER_SECONDS = 1.0
_SECONDS = 30.0
_ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_START = {"paused": "docker unpause", "restarting": "docker logs"}


@dataclass(frozen=True)
class Reached:
    """How the database in a container is reached.

    host: an address of this host or of the container, None when none answers; port: the port there, or the server's
    own port when there is no host. how: for people, such as ``container habitat-postgres-1 at 172.18.0.2:5432``.
    password_from: for people, where the password came from; empty when there is none. superuser: the role that the
    image made.
    """

    id: str
    name: str
    host: str | None
    port: int
    how: str
    password_from: str
    superuser: str


@functools.cache
def find(folder: str, file: str, service: str) -> Container:
    """The one running container of a Compose service. Raises DockerError when there is none, or more than one."""
    there = compose_containers(folder, file)
    ours = [one for one in there if one.service == service]
    if not ours:
        names = ", ".join(sorted({one.service for one in there}))
        raise DockerError(f"service {service} of {folder} has no container, only {names} have one; correct the service")
    if len(ours) > 1:
        names = ", ".join(one.name for one in ours)
        raise DockerError(f"service {service} of {folder} has {len(ours)} containers ({names}), a database has one")
    if ours[0].state != "running":
        next_step = f"{_START.get(ours[0].state, 'docker start')} {ours[0].name}"
        raise DockerError(f"container {ours[0].name} of the database is {ours[0].state}; see to it: {next_step}")
    return ours[0]


def reach(container: Container, user: str, password: str | None) -> tuple[Reached, str | None]:
    """How the database is reached as ``user``, and the password: the one given, else the container's own, else None.

    The container's own is that of POSTGRES_USER only. Raises DockerError, with a given password also when no address
    answers: then there is no way on which the server would look at it.
    """
    inspected = json.loads(docker("inspect", "--type=container", container.id))[0]
    environment = dict(item.partition("=")[::2] for item in inspected["Config"]["Env"] or [])
    superuser = _setting(container, environment, "POSTGRES_USER")[0] or "postgres"
    source = "login_password" if password else ""
    if not password and user == superuser:
        password, source = _setting(container, environment, "POSTGRES_PASSWORD")
    wanted = addresses(inspected, server_port(environment))
    found = next((one for one in wanted if _answers(*one)), None)
    if found is None and source == "login_password":
        raise DockerError(_nowhere(container.name, wanted))
    host, port = found or (None, server_port(environment))
    how = f"container {container.name}" + (f" at {_shown(host, port)}" if host else "")
    return Reached(container.id, container.name, host, port, how, source, superuser), password or None


def server_port(environment: Mapping[str, str]) -> int:
    """The port the server listens on inside a container with this environment."""
    port = environment.get("PGPORT", "")
    return int(port) if port.isdigit() else 5432


def addresses(inspected: Mapping[str, Any], port: int) -> list[tuple[str, int]]:
    """Host and port of each way to the container's ``port``, the published ones first; docker inspect's data is given.

    A port published on every address is reached by the loopback one.
    """
    settings = inspected["NetworkSettings"]
    published = [
        (_ANYWHERE.get(one["HostIp"], one["HostIp"]), int(one["HostPort"]))
        for one in (settings.get("Ports") or {}).get(f"{port}/tcp") or []
    ]
    networks = (settings.get("Networks") or {}).values()
    own = [(one[key], port) for key in ("IPAddress", "GlobalIPv6Address") for one in networks if one.get(key)]
    shared = [("127.0.0.1", port)] if inspected["HostConfig"]["NetworkMode"] == "host" else []
    return list(dict.fromkeys(published + own + shared))


def _answers(host: str, port: int) -> bool:
    try:
        # PostgreSQL says nothing in its log of a connection that sent nothing.
        socket.create_connection((host, port), _ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def _shown(host: str | None, port: int) -> str:
    return f"[{host}]:{port}" if ":" in (host or "") else f"{host}:{port}"


def _nowhere(name: str, wanted: list[tuple[str, int]]) -> str:
    if not wanted:
        hint = "publish its port on 127.0.0.1, or leave out login_password: it is then reached through docker exec"
        return f"container {name} of the database has no address on this host; {hint}"
    tried = " and ".join(_shown(*one) for one in wanted)
    return f"the database in container {name} does not answer at {tried}; see docker logs {name}"


def _setting(container: Container, environment: Mapping[str, str], name: str) -> tuple[str, str]:
    """A setting of the image, and where it stands: in the environment, or in the file that NAME_FILE names."""
    if environment.get(name):
        return environment[name], f"{name} of container {container.name}"
    path = environment.get(f"{name}_FILE")
    if not path:
        return "", ""
    try:
        # The image's entrypoint reads it with $(< file), which leaves out line breaks at the end.
        text = read_file(container.id, path).decode().rstrip("\n")
    except UnicodeDecodeError:
        raise DockerError(f"{path} in container {container.name} ({name}_FILE) is not UTF-8; correct it") from None
    return text, f"{path} in container {container.name} ({name}_FILE)"


def read_file(container: str, path: str) -> bytes:
    """A file's contents inside a container (its id). Raises DockerError when it cannot be read."""
    return _run(container, "cat", "--", path)


def data_free(container: str) -> int | None:
    """Bytes free where the server in a container (its id) keeps its data; None when that cannot be seen."""
    try:
        printed = _run(container, "sh", "-c", 'exec df -Pk -- "${PGDATA:-/var/lib/postgresql/data}"').decode()
        # POSIX df -P: one line of titles, one of numbers, the fourth of which are the free KiB.
        return int(printed.splitlines()[1].split()[3]) * 1024
    except (DockerError, IndexError, ValueError):
        return None


def _run(container: str, *command: str) -> bytes:
    program = shutil.which("docker") or "docker"
    try:
        done = subprocess.run(
            [program, "exec", container, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise DockerError(f"{command[0]} in container {container[:12]} has not ended after {_SECONDS:.0f} s") from None
    if done.returncode:
        message = " ".join(done.stderr.decode(errors="replace").split()) or f"exit code {done.returncode}"
        raise DockerError(f"{command[0]} in container {container[:12]} failed: {message}")
    return done.stdout
