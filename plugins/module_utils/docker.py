# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The containers of a Docker Compose project, through the docker command, so that contexts and DOCKER_HOST count.

They are found by the labels Compose gives them. Nothing here ever makes, changes or removes a container.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 60.0
_LABEL = "com.docker.compose."
_COLUMNS = "\t".join(
    [
        "{{.ID}}\t{{.Names}}\t{{.State}}",
        *(
            f'{{{{.Label "{_LABEL}{name}"}}}}'
            for name in ("service", "project.working_dir", "project.config_files", "project")
        ),
    ]
)


class DockerError(Exception):
    """Docker or a container is not as it has to be; the text is one sentence that says what to do."""


@dataclass(frozen=True)
class Container:
    """A container of a service; ``state`` as Docker names it: running, paused, restarting, created, exited, dead."""

    id: str
    name: str
    service: str
    state: str


def docker(*arguments: str, seconds: float = _SECONDS) -> str:
    """What ``docker ARGUMENTS`` prints. Raises DockerError when it fails or takes longer than ``seconds``."""
    program = shutil.which("docker")
    if program is None:
        raise DockerError("there is no docker command on this host's PATH; install Docker's command line")
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise DockerError(f"docker {arguments[0]} has not ended after {seconds:.0f} s; see docker ps") from None
    if done.returncode:
        raise DockerError(_explained(arguments[0], done.stderr))
    return done.stdout


def _explained(verb: str, messages: str) -> str:
    message = " ".join(messages.split()) or "it gave no reason"
    if "permission denied" in message.lower() and "docker.sock" in message:
        user = _user()
        return f"user {user} may not talk to Docker on this host; add it to the group: usermod -aG docker {user}"
    if "cannot connect" in message.lower() or "error during connect" in message.lower():
        return f"Docker does not answer on this host ({message}); start it: systemctl start docker"
    return f"docker {verb} failed: {message}"


def _user() -> str:
    try:
        # Not by LOGNAME, which become leaves as it was.
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def compose_containers(folder: str, file: str) -> list[Container]:
    """The containers of the project that ``docker compose -f FILE`` in ``folder`` made, those that stand still, too.

    ``file`` may have several names with commas between them. One-off containers (``docker compose run``) are left
    out. Raises DockerError when there is no such project, or more than one.
    """
    printed = docker("ps", "--all", "--no-trunc", f"--filter=label={_LABEL}oneoff=False", f"--format={_COLUMNS}")
    rows = [line.split("\t") for line in printed.splitlines()]
    wanted = _resolved(folder, file)
    ours = [row for row in rows if wanted <= _resolved(row[4], row[5])]
    projects = sorted({row[6] for row in ours})
    if len(projects) != 1:
        raise DockerError(_no_project(folder, file, projects, sorted({row[5] for row in rows})))
    return [Container(row[0], row[1], row[3], row[2]) for row in sorted(ours, key=lambda row: row[1])]


def _resolved(folder: str, files: str) -> set[str]:
    return {str(Path(folder, name.strip()).resolve()) for name in files.split(",")}


def _no_project(folder: str, file: str, projects: list[str], known: list[str]) -> str:
    path = Path(folder, file)
    if projects:
        return f"{path} has {len(projects)} Compose projects here ({', '.join(projects)}); remove all but one of them"
    there = f"those here belong to {', '.join(known)}" if known else "no Compose project has any here"
    hint = f"correct folder and file, or start it once: docker compose -f {file} up -d"
    return f"no container belongs to {path}, {there}; {hint}"
