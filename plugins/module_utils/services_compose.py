# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Services of a Docker Compose project: its containers as they are, which nothing here makes, changes or removes."""

from __future__ import annotations

import shlex
import shutil
import subprocess

from ansible_collections.habitat.runbook.plugins.module_utils.docker import (
    Container,
    DockerError,
    compose_containers,
    docker,
)
from ansible_collections.habitat.runbook.plugins.module_utils.services import AGAIN, DOWN, PATIENCE, UP, ServiceError

_CONDITION = {"running": UP, "paused": UP, "restarting": AGAIN}
_LOG_SECONDS = 20.0


class ComposeServices:
    """Containers of the project that ``file`` in ``folder`` describes, named by their service or by their own name."""

    logs_kept = 1

    def __init__(self, folder: str, file: str) -> None:
        self._folder = folder
        self._file = file
        self._paused: set[str] = set()

    def states(self, names: list[str]) -> dict[str, str]:
        """See services.Manager; the full names are those of the containers."""
        try:
            containers = compose_containers(self._folder, self._file)
        except DockerError as error:
            raise ServiceError(str(error)) from None
        for name in names:
            if not any(name in (one.service, one.name) for one in containers):
                raise ServiceError(self._not_there(name, containers))
        self._paused = {one.name for one in containers if one.state == "paused"}
        ours = [one for one in containers if one.service in names or one.name in names]
        return {one.name: condition(one.state) for one in ours}

    def _not_there(self, name: str, containers: list[Container]) -> str:
        there = ", ".join(f"{one.name} ({one.service}, {one.state})" for one in containers)
        files = " ".join(f"-f {shlex.quote(one.strip())}" for one in self._file.split(","))
        return (
            f"the Compose project in {self._folder} has no container of {name}, it has {there}: correct"
            f" habitat_services, or make it there by hand: docker compose {files} up -d"
        )

    def stop(self, names: list[str]) -> str:
        """See services.Manager: all at the same time, each within the stop timeout of its own container.

        Raises ServiceError before anything is stopped when one of them is paused: it could not end what it began.
        """
        paused = sorted(self._paused.intersection(names))
        if paused:
            unpause = f"docker unpause {' '.join(paused)}"
            raise ServiceError(
                f"{', '.join(paused)} cannot be stopped cleanly because it is paused, and nothing was stopped;"
                f" type {unpause}, then run the same command again"
            )
        return _ordered("stop", names)

    def start(self, names: list[str]) -> str:
        """See services.Manager: the containers as they are; what changed in the Compose file since does not count."""
        return _ordered("start", names)

    def log(self, name: str, lines: int, own: bool = False, since: float | None = None) -> str:
        """See services.Manager."""
        program = shutil.which("docker") or "docker"
        try:
            done = subprocess.run(
                [program, "logs", "--tail", str(lines), *([f"--since={since}"] if since is not None else []), name],
                # Both in one pipe, so that they come in the order in which Docker got them.
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=_LOG_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"(not to be read: {error})"
        text = done.stdout.decode(errors="replace")
        return f"(not to be read: {text.strip()})" if done.returncode else text

    def command_for_log(self, name: str) -> str:
        """See services.Manager."""
        return f"docker logs {name}"

    def command_to_start(self, names: list[str]) -> str:
        """See services.Manager."""
        return " ".join(["docker start", *names])


def _ordered(verb: str, names: list[str]) -> str:
    try:
        docker(verb, *names, seconds=PATIENCE)
    except DockerError as error:
        return str(error)
    return ""


def condition(state: str) -> str:
    """UP, AGAIN or DOWN for a state as ``docker ps`` names it."""
    return _CONDITION.get(state, DOWN)
