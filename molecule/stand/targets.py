"""Targets for the scenarios: for each a Compose project in its own folder, and a host of its own reached over SSH.

``python -m stand.targets create|seed|keep NAME|destroy`` acts on the platforms of the scenario that Molecule is at.
Their keys: name, image (of the host), variables (of the inventory).
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import yaml
from demo import stack

from stand.terminal import REPOSITORY, scenario_folder, until

COMPOSE_FILE = stack.FILE
SOCKET = Path("/var/run/docker.sock")
FOLDERS = ("/var/lib/habitat-runbook", "/var/backups/habitat")

_SEED = """
INSERT INTO members (email, display_name)
  SELECT 'm' || i || '@example.org', 'Member ' || i FROM generate_series(1, 200) i;
INSERT INTO contributions (member_id, account_id, amount)
  SELECT m.id, a.id, i FROM members m, treasury_accounts a, generate_series(1, 10) i;
INSERT INTO treasury_entries (account_id, contribution_id, amount, description)
  SELECT account_id, id, amount, 'Contribution' FROM contributions;
"""

_SESSIONS = "SELECT application_name, state, query FROM pg_stat_activity WHERE application_name LIKE 'runbook%'"

# Ansible's own programs on a host, the guard, the bridge, and client programs on the host or by docker exec.
_OURS = re.compile(r"ansible|AnsiballZ|habitat-runbook|runbook|pg_dump|pg_restore|docker exec|psql|sh -c")

_DIGEST = """
SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text COLLATE "C")) FROM {} t"""

TABLES = ("members", "contributions", "treasury_entries", "treasury_accounts")
"""What nobody writes while no member is at work; the worker writes events and totals all the time."""


def sh(*command: str, given: str | None = None, cwd: Path | None = None) -> str:
    """Standard output of a command; AssertionError with its messages when it fails."""
    done = subprocess.run(command, input=given, text=True, capture_output=True, check=False, timeout=180, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(command[:6])} ended with {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


@dataclass(frozen=True)
class Target:
    """One target as the tests see it."""

    name: str
    folder: Path
    project: str
    host: dict[str, Any]

    @property
    def node(self) -> str:
        """Name of the container that stands for the host."""
        return f"{self.project}-node"

    @property
    def health_url(self) -> str:
        return self.host["habitat_health_urls"][0]

    def containers(self) -> dict[str, str]:
        """The project's containers: id by service, whether they run or not."""
        shown = sh(
            "docker", "ps", "--all", "--no-trunc", f"--filter=label=com.docker.compose.project={self.project}",
            '--format={{.Label "com.docker.compose.service"}} {{.ID}}',
        )  # fmt: skip
        return dict(line.split() for line in shown.splitlines())

    def state(self, service: str, field: str = "Status") -> str:
        return sh("docker", "inspect", f"--format={{{{.State.{field}}}}}", self.containers()[service]).strip()

    def psql(self, text: str, database: str = "habitat") -> list[str]:
        """Lines that a superuser's psql inside the container prints."""
        command = ["docker", "exec", "-i", self.containers()["postgres"], "psql", "-XqAt", "-v", "ON_ERROR_STOP=1"]
        return sh(*command, "-U", "habitat", "-d", database, given=text).splitlines()

    def digests(self, database: str = "habitat", tables: tuple[str, ...] = TABLES) -> dict[str, str]:
        """Number of rows and digest of the contents by table."""
        return {table: self.psql(_DIGEST.format(table), database)[0] for table in tables}

    def versions(self) -> list[str]:
        """What the ledger says is applied."""
        return self.psql("SELECT version FROM schema_migrations ORDER BY version")

    def databases(self) -> list[str]:
        return self.psql("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1", "postgres")

    def files(self) -> dict[str, str]:
        """Owner and mode of everything of ours on the host, by path."""
        found = sh("docker", "exec", self.node, "find", *FOLDERS, "-printf", r"%p\t%u %m\n")
        return dict(line.split("\t") for line in found.splitlines())

    def picture(self) -> dict[str, Any]:
        """What must be the same when nothing was done."""
        started = {service: self.state(service, "StartedAt") for service in self.containers()}
        return {
            "started": started,
            "containers": self.containers(),
            "databases": self.databases(),
            "versions": self.versions(),
            "digests": self.digests(),
            "files": self.files(),
        }

    def healthy(self) -> bool:
        return self.ask("GET", "/api/health")[0] == 200

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON of the API's answer; status 0 when there is none."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.health_url.replace("/api/health", path), data, method=method)  # noqa: S310 - ours
        request.add_header("Content-Type", "application/json")
        try:
            with urlopen(request, timeout=5) as answer:  # noqa: S310 - ours
                return answer.status, json.loads(answer.read())
        except HTTPError as error:
            return error.code, json.loads(error.read() or b"null")
        except OSError:
            return 0, None

    def ours_running(self) -> list[str]:
        """Processes on the host and in the containers, and sessions, that belong to a run."""
        found = [f"session {line}" for line in self.psql(_SESSIONS, "postgres")]
        running = {service: name for service, name in self.containers().items() if self.state(service) == "running"}
        for place, container in {"host": self.node, **running}.items():
            shown = sh("docker", "top", container, "-eo", "pid,args").splitlines()[1:]
            found += [f"{place}: {line}" for line in shown if _OURS.search(line)]
        return found

    def secrets(self) -> dict[str, str]:
        """Every password there is, by what it is for."""
        given = {name: value for name, value in stack.settings(self.folder).items() if "PASSWORD" in name}
        return {**given, "owner": self.host["habitat_postgres"]["login_password"]}


def set_variables(folder: Path, **variables: Any) -> None:
    """Write variables into the inventory for all targets; None takes one out."""
    path = folder / "inventory/staging.yml"
    inventory = yaml.safe_load(path.read_text())
    for host in inventory["staging"]["hosts"].values():
        host.update(variables)
        for name in [name for name, value in host.items() if value is None]:
            del host[name]
    path.write_text(yaml.safe_dump(inventory, sort_keys=False))


def load(folder: Path) -> dict[str, Target]:
    """The scenario's targets by name, in the inventory's order."""
    hosts = yaml.safe_load((folder / "inventory/staging.yml").read_text())["staging"]["hosts"]
    return {
        name: Target(name, folder / name, stack.settings(folder / name)["COMPOSE_PROJECT_NAME"], host)
        for name, host in hosts.items()
    }


def create(folder: Path, platforms: list[dict[str, Any]]) -> None:
    """Everything a scenario needs; the operator's inventory comes last."""
    folder.mkdir(mode=0o700)
    sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "molecule", "-f", str(folder / "key"))
    shutil.copytree(REPOSITORY / "schema", folder / "schema")
    shutil.copytree(REPOSITORY / "inventories/group_vars", folder / "inventory/group_vars")
    with ThreadPoolExecutor() as pool:
        hosts = dict(pool.map(lambda platform: _create(folder, platform), platforms))
    _write(folder / "known_hosts", "".join(_host_keys(host["ansible_port"]) for host in hosts.values()))
    _write(folder / "inventory/staging.yml", yaml.safe_dump({"staging": {"hosts": hosts}}, sort_keys=False))


def _create(folder: Path, platform: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    name = platform["name"]
    own, project = folder / name, _project(name)
    own.mkdir(mode=0o700)
    settings = {
        "COMPOSE_PROJECT_NAME": project,
        "POSTGRES_PASSWORD": secrets.token_urlsafe(24),
        "HABITAT_APP_PASSWORD": secrets.token_urlsafe(24),
        "HABITAT_API_PORT": str(_free_port()),
    }
    _write(own / ".env", "".join(f"{key}={value}\n" for key, value in settings.items()))
    stack.up(own)
    port = _free_port()
    sh(
        "docker", "run", "--detach", "--init", f"--name={project}-node", "--network=host",
        f"--volume={SOCKET}:{SOCKET}",
        f"--env=DOCKER_GID={SOCKET.stat().st_gid}", f"--env=SSH_PORT={port}",
        f"--env=AUTHORIZED_KEY={(folder / 'key.pub').read_text().strip()}", platform["image"],
    )  # fmt: skip
    return name, {**_variables(folder, own, settings, port), **platform.get("variables", {})}


def _variables(folder: Path, own: Path, settings: dict[str, str], port: int) -> dict[str, Any]:
    url = f"http://127.0.0.1:{settings['HABITAT_API_PORT']}/api/health"
    return {
        "ansible_host": "127.0.0.1",
        "ansible_port": port,
        "ansible_user": "deploy",
        "ansible_ssh_private_key_file": str(folder / "key"),
        "ansible_ssh_common_args": f"-o StrictHostKeyChecking=yes -o UserKnownHostsFile={folder / 'known_hosts'}",
        "ansible_python_interpreter": "/usr/bin/python3",
        "habitat_schema_dir": str(folder / "schema"),
        "habitat_reports_dir": str(folder / "reports"),
        "habitat_compose": {"folder": str(own), "file": COMPOSE_FILE},
        "habitat_health_urls": [url],
        "habitat_public_health_urls": [url],
        "habitat_postgres": {"login_user": "habitat_owner", "login_password": secrets.token_urlsafe(24)},
        "habitat_writer_passwords": {"habitat_app": settings["HABITAT_APP_PASSWORD"]},
    }


def _host_keys(port: int) -> str:
    """What ssh-keyscan says as soon as the target's sshd answers."""
    command = ["ssh-keyscan", "-T", "2", "-p", str(port), "127.0.0.1"]
    scan = lambda: subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: E731
    return until(scan, f"sshd at port {port}")


def seed(folder: Path) -> None:
    """Members and contributions in every target, once the application is healthy on the schema."""
    for target in load(folder).values():
        target.psql(_SEED)
        until(target.healthy, f"the API of {target.name} is healthy")


def keep(folder: Path, name: str) -> None:
    """Write a picture of every target into a file, for a test to compare with."""
    pictures = {target.name: target.picture() for target in load(folder).values()}
    _write(folder / f"{name}.json", json.dumps(pictures))


def destroy(folder: Path, platforms: list[dict[str, Any]]) -> None:
    """Remove everything, also what a run that was cut off has left."""
    for platform in platforms:
        project = _project(platform["name"])
        subprocess.run(["docker", "rm", "--force", "--volumes", f"{project}-node"], capture_output=True, check=False)
        sh("docker", "compose", f"--project-name={project}", "down", "--volumes", "--timeout=0", cwd=folder.parent)
    shutil.rmtree(folder, ignore_errors=True)


def _project(target: str) -> str:
    return f"mol-{os.environ['MOLECULE_SCENARIO_NAME']}-{target}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def main() -> None:
    verb, folder = sys.argv[1], scenario_folder()
    platforms = yaml.safe_load(Path(os.environ["MOLECULE_FILE"]).read_text())["platforms"]
    start = time.monotonic()
    if verb == "seed":
        seed(folder)
    elif verb == "keep":
        keep(folder, sys.argv[2])
    else:
        {"create": create, "destroy": destroy}[verb](folder, platforms)
    print(f"{verb}: {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
