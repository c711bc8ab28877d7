"""``python -m demo.stack up|down|destroy``: Habitat as a Docker Compose project in ``.runtime/compose``.

The folder looks like the one of a production host: the Compose file, and beside it ``.env`` (0600) with passwords that
were made up for this stack. HABITAT_COMPOSE names another folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
FILE = "docker-compose.prod.yml"

# What runs keep there, as inventories/group_vars/compose.yml says.
_RUNBOOKS = ("runs", "backups")

_USUAL_PORT = 8080
_START_SECONDS = 120

_VERBS = {
    "up": "start the stack; returns when PostgreSQL answers",
    "down": "remove the containers and keep the data",
    "destroy": "remove containers, data and folder",
}

_NEXT = """\
The stack is up: project {project} in {folder}.
A new one has an empty database without the role habitat_app: the API and the worker keep trying until it is there.
What to try next:
  source .venv/bin/activate{variable}
  ansible-playbook playbooks/bootstrap.yml -e env=compose     makes the roles; then the API gets healthy
  ansible-playbook migrate.yml -e env=compose                 the whole runbook
  ansible-playbook playbooks/status.yml -e env=compose        where it stands
  curl -s {url}
Its containers, by hand:
  cd {folder}
  docker compose -f {file} ps
  docker compose -f {file} exec postgres psql -U habitat habitat"""


class StackError(Exception):
    """Something the person at the screen has to know, in one sentence."""


def runtime_folder() -> Path:
    """Where the stack lives: HABITAT_COMPOSE or ``.runtime/compose`` in the repository."""
    given = os.environ.get("HABITAT_COMPOSE")
    return Path(given).resolve() if given else REPOSITORY / ".runtime" / "compose"


def project_of(folder: Path) -> str:
    """The project's name; it differs from folder to folder, so that two clones never share a database."""
    return f"habitat-demo-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:6]}"


def settings(folder: Path) -> dict[str, str]:
    """What is in the folder's ``.env``; empty when there is none."""
    try:
        lines = (folder / ".env").read_text().splitlines()
    except FileNotFoundError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)


def up(folder: Path) -> str:
    """Start whatever does not run, return when PostgreSQL answers; returns what to print. Raises StackError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not settings(folder):
        _choose_settings(folder)
    shutil.copyfile(REPOSITORY / "demo" / FILE, folder / FILE)
    _compose(folder, "up", "--detach", "--wait", f"--wait-timeout={_START_SECONDS}", "postgres")
    _compose(folder, "up", "--detach")
    chosen = settings(folder)
    url = f"http://127.0.0.1:{chosen['HABITAT_API_PORT']}/api/health"
    variable = f" && export HABITAT_COMPOSE={folder}" if os.environ.get("HABITAT_COMPOSE") else ""
    return _NEXT.format(project=chosen["COMPOSE_PROJECT_NAME"], folder=folder, file=FILE, url=url, variable=variable)


def _choose_settings(folder: Path) -> None:
    project = project_of(folder)
    volume = f"{project}_postgres-data"
    if subprocess.run(["docker", "volume", "inspect", volume], capture_output=True, check=False).returncode == 0:
        raise StackError(
            f"the volume {volume} is there, but its password was in {folder}/.env, which is gone;"
            " remove the data with: python -m demo.stack destroy"
        )
    chosen = {
        "COMPOSE_PROJECT_NAME": project,
        "POSTGRES_PASSWORD": secrets.token_urlsafe(24),
        "HABITAT_APP_USER": "habitat_app",
        "HABITAT_APP_PASSWORD": secrets.token_urlsafe(24),
        "HABITAT_API_PORT": str(_free_port()),
    }
    part = folder / ".env.part"
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.writelines(f"{name}={value}\n" for name, value in chosen.items())
    part.replace(folder / ".env")


def _free_port() -> int:
    for port in (_USUAL_PORT, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as server:
                return int(server.getsockname()[1])
        except OSError:
            continue
    raise StackError("no port of 127.0.0.1 is free")


def down(folder: Path) -> str:
    """Remove containers and network, keep the data; returns what to print."""
    if not settings(folder):
        return "There is no stack here."
    _compose(folder, "down")
    return "Stopped; the data is kept. Remove it with: python -m demo.stack destroy"


def destroy(folder: Path) -> str:
    """Remove everything the stack has, also when its folder is already gone; returns what to print."""
    project = settings(folder).get("COMPOSE_PROJECT_NAME") or project_of(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _compose(folder, "--project-name", project, "down", "--volumes")
    for name in (FILE, ".env"):
        (folder / name).unlink(missing_ok=True)
    for name in _RUNBOOKS:
        shutil.rmtree(folder / name, ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    return "Stopped and removed."


def _compose(folder: Path, *arguments: str) -> None:
    # Without a file of its own (destroy) Compose goes by the project's name.
    file = ["--file", FILE] if (folder / FILE).exists() and settings(folder) else []
    # Variables of the caller's shell would win over .env.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "HABITAT_"))}
    environment.pop("POSTGRES_PASSWORD", None)
    command = ["docker", "compose", *file, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    message = " ".join(done.stderr.split()[-60:])
    # Without the plugin docker takes Compose's options for its own.
    if "unknown command" in message or "unknown flag" in message:
        raise StackError("the docker command has no Compose plugin; type: .ci/engine")
    if "Cannot connect" in message:
        raise StackError("Docker does not answer; type: .ci/engine")
    raise StackError(f"docker compose failed: {message}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.stack", description="Habitat as a Docker Compose project.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="verb")
    for verb, what in _VERBS.items():
        verbs.add_parser(verb, help=what)
    run = {"up": up, "down": down, "destroy": destroy}
    try:
        print(run[parser.parse_args().verb](runtime_folder()))
        return 0
    except StackError as error:
        sentence = str(error)
    except FileNotFoundError as error:
        sentence = "there is no docker command; type: .ci/engine" if error.filename == "docker" else str(error)
    except OSError as error:
        sentence = str(error)
    except KeyboardInterrupt:
        sentence = "interrupted; the same command goes on from here"
    print(f"Error: {sentence.rstrip('.')}.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
