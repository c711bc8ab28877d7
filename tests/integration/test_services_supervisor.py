"""Services under a Supervisor of the test's own, seen through its own supervisorctl."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.guarded import NAMES as NAMES_OF_IT
from tests.integration.guarded import STUBBORN, Application
from tests.integration.service_hosts import module, services
from tests.waiting import wait_for

STEADY = "printf 'a\\033[31mred\\033[0m\\n\\007bell\\n'; echo first >&2; echo second >&2; exec sleep 1000"
PROGRAMS = {
    "api": STEADY,
    "worker": "for i in 1 2 3; do echo line $i; done; exec sleep 1000",
    "cut": "i=0; while [ $i -lt 400 ]; do echo äöü; i=$((i+1)); done; exec sleep 1000",
    "bad": "echo no table members >&2; exit 3",
    "other": "exec sleep 1000",
}
STEADILY = {"autostart": True, "startsecs": 0, "retries": 0}
CONFIGURATION = """
[unix_http_server]
file={folder}/s
[supervisord]
logfile={folder}/log
pidfile={folder}/pid
childlogdir={folder}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[group:habitat]
programs=api,worker,cut,bad
"""
PROGRAM = """
[program:{name}]
command=/bin/sh {folder}/{name}.sh
autostart={autostart}
startsecs={startsecs}
startretries={retries}
"""
NAMES = [f"habitat:{name}" for name in ("api", "bad", "cut", "worker")]
UP = ["habitat:api", "habitat:cut", "habitat:worker"]


class Supervised:
    """A Supervisor and the module that talks to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"unix://{folder}/s"

    def __call__(self, state: str, *names: str, **more) -> dict:
        return services(manager="supervisor", server_url=self.url, state=state, names=names, **more)

    def control(self, *order: str) -> str:
        command = [str(Path(sys.executable).with_name("supervisorctl")), "-s", self.url, *order]
        return subprocess.run(command, text=True, capture_output=True, check=False).stdout

    def states(self) -> dict[str, str]:
        return {line.split()[0]: line.split()[1] for line in self.control("status").splitlines()}


@pytest.fixture(scope="module")
def made() -> Iterator[Supervised]:
    """A short private path, since a socket is made in it."""
    folder = Path(tempfile.mkdtemp(prefix="hsv-"))
    text = CONFIGURATION.format(folder=folder)
    for name, script in PROGRAMS.items():
        (folder / f"{name}.sh").write_text(script)
        more = {"autostart": False, "startsecs": 60, "retries": 1000} if name == "bad" else STEADILY
        text += PROGRAM.format(name=name, folder=folder, **more)
    (folder / "conf").write_text(text)
    program = Path(sys.executable).with_name("supervisord")
    process = subprocess.Popen([program, "-n", "-s", "-c", str(folder / "conf")])
    supervised = Supervised(folder)
    try:
        wait_for(lambda: list(supervised.states().values()).count("RUNNING") == 4)
        wait_for(lambda: "line 3" in supervised.control("tail", "habitat:worker"))
        wait_for(lambda: supervised.control("tail", "-2800", "habitat:cut").count("äöü") == 400)
        yield supervised
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
        shutil.rmtree(folder)


@pytest.fixture
def supervised(made) -> Supervised:
    """All run but bad."""
    made.control("stop", "habitat:bad")
    made.control("start", *UP, "other")
    return made


def test_what_runs_is_stopped_and_started(supervised):
    before = supervised.control("pid", "other")
    found = supervised("read", "habitat:")
    assert (found["changed"], found["running"], found["stopped"]) == (False, UP, ["habitat:bad"])
    assert supervised("stopped", *UP, check=True)["changed"] is True
    assert supervised.states()["habitat:api"] == "RUNNING"

    done = supervised("stopped", *found["running"])
    assert (done["changed"], done["running"]) == (True, UP)
    assert [supervised.states()[name] for name in NAMES] == ["STOPPED"] * 4
    assert supervised("stopped", *found["running"])["changed"] is False
    assert supervised("started", *UP, check=True)["changed"] is True
    assert supervised("started", *found["running"])["changed"] is True
    assert [supervised.states()[name] for name in UP] == ["RUNNING"] * 3
    assert supervised("started", *found["running"])["changed"] is False
    assert supervised.control("pid", "other") == before


def test_one_that_does_not_start_is_named_with_what_it_said_and_the_others_are_started(supervised):
    supervised.control("stop", "habitat:worker")
    failed = supervised("started", "habitat:bad", "habitat:worker")
    assert supervised.states()["habitat:worker"] == "RUNNING"
    # Supervisor goes on trying, and at one moment in two the process is starting.
    assert failed["msg"] == (
        "habitat:bad did not start: it ends again and again (SPAWN_ERROR: habitat:bad); the log of habitat:bad ends"
        f" with: no table members; see more of it with: supervisorctl -s {supervised.url} tail habitat:bad"
    )


def test_what_supervisor_starts_again_and_again_runs_until_it_is_stopped(supervised):
    supervised.control("start", "habitat:bad")
    wait_for(lambda: supervised.states()["habitat:bad"] == "BACKOFF")
    assert supervised("stopped", "habitat:bad")["running"] == ["habitat:bad"]
    assert supervised.states()["habitat:bad"] == "STOPPED"


def test_logs_are_plain_lines_of_both_streams(supervised):
    wait_for(lambda: supervised("read", "habitat:api", log_lines=1)["logs"]["habitat:api"] == ["\\x07bell", "second"])
    logs = supervised("read", "habitat:", log_lines=2)["logs"]
    assert logs["habitat:api"] == ["ared", "\\x07bell", "first", "second"]
    assert logs["habitat:worker"] == ["line 2", "line 3"]
    assert supervised("read", "habitat:")["logs"] == {}


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_a_log_that_is_cut_within_a_character_is_read(supervised, lines):
    assert supervised("read", "habitat:cut", log_lines=lines)["logs"] == {"habitat:cut": ["äöü"] * lines}


@pytest.mark.parametrize("name", ["habitat:wroker", "habita:", "habitat", "api"])
def test_a_name_that_supervisor_does_not_know_is_an_error(supervised, name):
    for state in ("read", "stopped", "started"):
        failed = supervised(state, "habitat:api", name)
        assert f"Supervisor does not know {name}, it knows habitat:api, " in failed["msg"]
    assert supervised.states()["habitat:api"] == "RUNNING"


def test_a_supervisor_that_does_not_answer_is_an_error(tmp_path):
    for url in (f"unix://{tmp_path}/none", "http://127.0.0.1:1"):
        failed = services(manager="supervisor", server_url=url, names=["api"])
        assert failed["msg"].startswith(f"Supervisor does not answer at {url}: ")


def test_a_process_that_ended_meanwhile_is_no_error(supervised):
    from ansible_collections.habitat.runbook.plugins.module_utils.services_supervisor import SupervisorServices

    manager = SupervisorServices(supervised.url)
    assert (manager.stop(["habitat:bad"]), manager.start(["habitat:api"])) == ("", "")
    assert "BAD_NAME" in manager.stop(["habitat:none"])


def test_the_module_itself_answers_and_asks_for_the_address(supervised):
    found = module(manager="supervisor", server_url=supervised.url, names=["habitat:"], log_lines=1)
    assert (found["changed"], found["running"], found["stopped"]) == (False, UP, ["habitat:bad"])
    assert found["logs"]["habitat:worker"] == ["line 3"]
    assert "missing: server_url" in module(manager="supervisor", names=["api"])["msg"]


def test_a_supervisor_that_goes_down_is_told_in_a_sentence():
    """It has a state of its own for that, in which it answers nothing else."""
    application, told = Application(STUBBORN), []
    try:
        wait_for(lambda: application.running() == NAMES_OF_IT)
        application.process.send_signal(signal.SIGTERM)
        while application.process.poll() is None:
            told.append(services(**application.manager, state="read", names=NAMES_OF_IT))
            time.sleep(0.1)
    finally:
        application.stop()
        shutil.rmtree(application.folder)
    going_down = f"Supervisor at {application.manager['server_url']} says SHUTDOWN_STATE: wait until it is up"
    assert {"msg": going_down} in told
