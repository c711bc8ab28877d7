"""The demo's images and Compose file on a real engine; skipped where none answers."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo import stack
from demo.images import __main__ as images
from tests.waiting import wait_for

POSTGRES, APP, NODE = "habitat-demo/postgres:15", "habitat-demo/app:1", "habitat-demo/node:1"
DEADLINE = 300

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("engine")]


@pytest.fixture(scope="module", autouse=True)
def engine() -> None:
    if shutil.which("docker") is None or _docker("version", check=False).returncode:
        pytest.skip("no Docker Engine answers; start one with .ci/engine")
    images.ensure()


def _docker(*arguments: str, check: bool = True, **more) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=DEADLINE, **more)
    assert not check or done.returncode == 0, done.stderr
    return done


class Container:
    """A container of the test, removed with its volumes at the end."""

    def __init__(self, *arguments: str) -> None:
        self.name = f"habitat-images-{uuid.uuid4().hex[:8]}"
        _docker("create", f"--name={self.name}", *arguments)

    def start(self) -> None:
        _docker("start", self.name)

    def run(self, *command: str, check: bool = True, user: str = "postgres") -> subprocess.CompletedProcess[str]:
        return _docker("exec", f"--user={user}", self.name, *command, check=check)

    def sql(self, query: str) -> str:
        return self.run("psql", "-XAtq", "-U", "habitat", "-d", "habitat", "-c", query).stdout.strip()

    def accepts(self) -> bool:
        return self.run("pg_isready", "-q", "-h", "127.0.0.1", check=False).returncode == 0

    def state(self, field: str) -> str:
        return _docker("inspect", "--format", f"{{{{.State.{field}}}}}", self.name).stdout.strip()

    def logs(self) -> str:
        done = _docker("logs", self.name)
        return done.stdout + done.stderr


@pytest.fixture
def container() -> Iterator[Callable[..., Container]]:
    made: list[Container] = []

    def make(*arguments: str) -> Container:
        made.append(Container(*arguments))
        return made[-1]

    yield make
    for each in made:
        _docker("rm", "--force", "--volumes", each.name)


def _settings(*more: str) -> list[str]:
    return [f"--env={each}" for each in ("POSTGRES_USER=habitat", *more)]


def test_a_second_build_does_nothing(capsys):
    assert all(images.is_current(image) for image in images.IMAGES)
    images.ensure()
    assert capsys.readouterr().out == ""


def test_an_image_is_old_when_one_of_its_files_changes(tmp_path):
    shutil.copytree(images.REPOSITORY / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("__pycache__"))
    before = {image.tag: images.content(image, tmp_path) for image in images.IMAGES}
    assert before == {image.tag: images.content(image) for image in images.IMAGES}
    (tmp_path / "demo" / "api" / "app.py").write_text("# changed\n")
    (tmp_path / "demo" / "images" / "node" / "node-entrypoint.sh").chmod(0o644)
    changed = [image.tag for image in images.IMAGES if images.content(image, tmp_path) != before[image.tag]]
    assert changed == [APP, NODE, f"{NODE}-client"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ([], "the superuser has no password"),
        (["POSTGRES_PASSWORD=a", "POSTGRES_PASSWORD_FILE=/b"], "both POSTGRES_PASSWORD and POSTGRES_PASSWORD_FILE"),
        (["POSTGRES_PASSWORD_FILE=/nowhere"], "POSTGRES_PASSWORD_FILE names /nowhere, which cannot be read"),
    ],
)
def test_postgres_does_not_start_without_one_password(container, settings, said):
    server = container(*_settings(*settings), POSTGRES)
    server.start()
    wait_for(lambda: server.state("Running") == "false")
    assert server.state("ExitCode") == "1"
    assert said in server.logs()


def _login(server: Container, password: str) -> subprocess.CompletedProcess[str]:
    """A login at the container's own address, which counts as one from elsewhere."""
    address = server.run("hostname", "-i").stdout.split()[0]
    command = ["psql", "-XAtqw", "-h", address, "-U", "habitat", "-d", "habitat", "-c", "SELECT 'in'"]
    return _docker("exec", f"--env=PGPASSWORD={password}", server.name, *command, check=False)


def test_postgres_is_used_like_the_official_image(container, tmp_path):
    (tmp_path / "1.sql").write_text("CREATE TABLE first_start (word text);")
    (tmp_path / "2.sh").write_text(
        'psql -U "$POSTGRES_USER" -d "$POSTGRES_DB" -c "INSERT INTO first_start VALUES (1)"\n'
    )
    (tmp_path / "password").write_text("it's $ecret\n")
    tmp_path.chmod(0o755)
    server = container(*_settings("POSTGRES_PASSWORD_FILE=/run/secret"), POSTGRES)
    _docker("cp", f"{tmp_path}/.", f"{server.name}:/docker-entrypoint-initdb.d")
    _docker("cp", f"{tmp_path}/password", f"{server.name}:/run/secret")
    for _ in range(2):
        server.start()
        wait_for(server.accepts)
        assert server.sql("SELECT word FROM first_start") == "1"
        assert _login(server, "it's $ecret").stdout == "in\n"
        wrong = _login(server, "wrong")
        assert wrong.returncode == 2 and "password authentication failed" in wrong.stderr
        assert server.run("stat", "-c", "%U", "/proc/1").stdout == "postgres\n"
        _docker("stop", "--time=50", server.name)
        assert server.state("ExitCode") == "0"
    assert "received fast shutdown request" in server.logs()


def test_a_first_start_that_was_killed_is_made_good_by_the_next(container, tmp_path):
    # The script waits for a file, so that the kill is in the middle whatever the machine's speed.
    (tmp_path / "wait.sh").write_text("touch /tmp/waiting; until [ -e /tmp/go ]; do sleep 0.1; done\n")
    tmp_path.chmod(0o755)
    server = container(*_settings("POSTGRES_HOST_AUTH_METHOD=trust"), POSTGRES)
    _docker("cp", f"{tmp_path}/.", f"{server.name}:/docker-entrypoint-initdb.d")
    server.start()
    wait_for(lambda: server.run("test", "-e", "/tmp/waiting", check=False).returncode == 0)
    assert server.run("ls", "-A", "/var/lib/postgresql/data").stdout == ".part\n"
    _docker("kill", server.name)
    server.start()
    server.run("touch", "/tmp/go")
    wait_for(server.accepts)
    assert server.sql("SELECT current_database()") == "habitat"
    assert "did not finish" in server.logs()


PREPARE = """
set -e
cd /var/lib/postgresql/data
mkdir .part && touch .part/PG_VERSION && mkdir base && touch base/left_over
"""


def test_a_kill_while_the_cluster_is_put_in_place_is_made_good(container):
    server = container(*_settings("POSTGRES_HOST_AUTH_METHOD=trust"), POSTGRES)
    part = container("--entrypoint=bash", "--user=postgres", f"--volumes-from={server.name}", POSTGRES, "-c", PREPARE)
    _docker("start", "--attach", part.name)
    server.start()
    wait_for(server.accepts)
    found = server.run("ls", "-A", "/var/lib/postgresql/data", "/var/lib/postgresql/data/base").stdout
    assert "left_over" not in found and ".part" not in found
    assert server.sql("SELECT count(*) > 0 FROM pg_class") == "t"


def test_a_folder_with_something_else_in_it_is_left_alone(container, tmp_path):
    server = container(*_settings("POSTGRES_HOST_AUTH_METHOD=trust"), POSTGRES)
    path = "/var/lib/postgresql/data/mine"
    other = container("--entrypoint=touch", f"--volumes-from={server.name}", POSTGRES, path)
    _docker("start", "--attach", other.name)
    server.start()
    wait_for(lambda: server.state("Running") == "false")
    assert "has files in it but no cluster" in server.logs()
    _docker("cp", f"{server.name}:{path}", str(tmp_path))


@pytest.fixture
def project(tmp_path, monkeypatch) -> Iterator[Path]:
    folder = tmp_path / "habitat"
    monkeypatch.setattr(stack, "_USUAL_PORT", 0)
    yield folder
    stack.destroy(folder)


def _psql(project: str, sql: str) -> None:
    _docker("exec", "-i", f"{project}-postgres-1", "psql", "-XqU", "habitat", "-v", "ON_ERROR_STOP=1", input=sql)


def test_the_stack_waits_for_its_role_and_keeps_its_data(project):
    stack.up(project)
    assert (project / ".env").stat().st_mode & 0o777 == 0o600
    chosen = stack.settings(project)
    name, password = chosen["COMPOSE_PROJECT_NAME"], chosen["HABITAT_APP_PASSWORD"]

    def health() -> str:
        return _docker("inspect", "--format", "{{.State.Health.Status}}", f"{name}-api-1").stdout.strip()

    wait_for(lambda: health() == "unhealthy")
    _psql(name, f"CREATE ROLE habitat_app LOGIN PASSWORD '{password}'; CREATE TABLE kept ();")
    wait_for(lambda: health() == "healthy")
    with urllib.request.urlopen(f"http://127.0.0.1:{chosen['HABITAT_API_PORT']}/api/health", timeout=10) as answer:
        assert json.load(answer)["status"] == "ok"
    assert _docker("exec", f"{name}-api-1", "id", "-un").stdout == "habitat\n"
    # 137 would be the kill after the grace period: process 1 hears SIGTERM only when it asks for it.
    services = [f"{name}-api-1", f"{name}-worker-1"]
    _docker("stop", "--time=50", *services)
    assert _docker("inspect", "--format={{.State.ExitCode}}", *services).stdout.split() == ["0", "0"]
    stack.down(project)
    stack.up(project)
    assert stack.settings(project) == chosen
    _psql(name, "SELECT FROM kept")
    _nothing_stays_of_a_stack_whose_folder_is_gone(project)


def _nothing_stays_of_a_stack_whose_folder_is_gone(project: Path) -> None:
    shutil.rmtree(project)
    with pytest.raises(stack.StackError, match=r"its password was in .* which is gone"):
        stack.up(project)
    stack.destroy(project)
    name = stack.project_of(project)
    assert _docker("volume", "inspect", f"{name}_postgres-data", check=False).returncode == 1
    assert _docker("ps", "-aq", f"--filter=label=com.docker.compose.project={name}").stdout == ""


@pytest.fixture
def key(tmp_path) -> Path:
    if shutil.which("ssh") is None:
        pytest.skip("no ssh command; .ci/engine installs it")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    return tmp_path / "key"


def _ssh(key: Path, port: str, user: str, *command: str) -> subprocess.CompletedProcess[str]:
    options = ["StrictHostKeyChecking=no", f"UserKnownHostsFile={key}.known", "BatchMode=yes", "ConnectTimeout=10"]
    options += ["IdentitiesOnly=yes", "IdentityAgent=none", "LogLevel=ERROR"]
    flags = [word for option in options for word in ("-o", option)]
    line = ["ssh", "-F", "none", *flags, "-i", str(key), "-p", port, f"{user}@127.0.0.1", *command]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=DEADLINE)


@pytest.mark.parametrize("tag", [NODE, f"{NODE}-client"])
def test_the_node_is_a_host_with_docker_reached_over_ssh(container, key, tag):
    port = str(stack._free_port())
    node = container(
        "--network=host",
        "--volume=/var/run/docker.sock:/var/run/docker.sock",
        f"--env=SSH_PORT={port}",
        f"--env=DOCKER_GID={Path('/var/run/docker.sock').stat().st_gid}",
        f"--env=AUTHORIZED_KEY={key.with_suffix('.pub').read_text().strip()}",
        tag,
    )
    node.start()
    wait_for(lambda: _ssh(key, port, "deploy", "true").returncode == 0)
    seen = _ssh(key, port, "deploy", "docker ps --format '{{.Names}}'; python3 -c 'import psycopg'; id -un")
    assert seen.returncode == 0, seen.stderr
    assert node.name in seen.stdout.split() and seen.stdout.endswith("deploy\n")
    assert _ssh(key, port, "deploy", "command -v pg_dump").returncode == (0 if tag.endswith("client") else 1)
    assert "Permission denied (publickey)" in _ssh(key, port, "root", "true").stderr
    (other := key.with_name("other")).write_text("")
    assert "Permission denied (publickey)" in _ssh(other, port, "deploy", "true").stderr
