"""Runs with a guard, and an application under a Supervisor of the test's own that they stop and start."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
import xmlrpc.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import lock_session, run_folder, run_lock
from supervisor.xmlrpc import SupervisorTransport

from tests.conftest import Cluster
from tests.integration import module_process
from tests.waiting import wait_for

NAMES = ["habitat:api", "habitat:worker"]
API = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "ok"}')
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
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
programs=api,worker
[program:api]
command={python} -I {folder}/api.py {port}
startsecs=0
stopsignal=KILL
[program:worker]
command={worker}
startsecs=0
stopwaitsecs=3
"""

STUBBORN = f"""{sys.executable} -c "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(100000)" """
"""A worker that has to be killed, which Supervisor does after three seconds."""

# A step of the run in a process of its own: it says when it is at work, and then does what the code says.
STEP = """
import sys, time
from pathlib import Path
from ansible_collections.habitat.runbook.plugins.module_utils import run_folder
folder, phase = Path(sys.argv[1]), sys.argv[2]
with run_folder.step(folder, phase):
    {code}
    print("at work", flush=True)
    time.sleep(float(sys.argv[3]))
"""


class Application:
    """An API with an address and a worker, under Supervisor."""

    def __init__(self, worker: str = "/bin/sleep 100000") -> None:
        self.folder, self.stubborn = Path(tempfile.mkdtemp(prefix="hgu-")), worker == STUBBORN
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        self.manager = {"manager": "supervisor", "server_url": f"unix://{self.folder}/s"}
        (self.folder / "api.py").write_text(API)
        text = CONFIGURATION.format(folder=self.folder, python=sys.executable, port=port, worker=worker)
        (self.folder / "conf").write_text(text)
        self.start()

    def start(self) -> None:
        program = Path(sys.executable).with_name("supervisord")
        self.process = subprocess.Popen([program, "-n", "-s", "-c", str(self.folder / "conf")])
        wait_for(self.answers)
        if self.stubborn:
            wait_for(self._ignores_sigterm)

    def _ignores_sigterm(self) -> bool:
        """Whether the worker has come so far; its status has a mask of the signals that it ignores, see proc(5)."""
        for one in self._processes():
            if one["name"] == "worker" and one["pid"]:
                lines = Path(f"/proc/{one['pid']}/status").read_text().splitlines()
                ignored = next(line.split()[1] for line in lines if line.startswith("SigIgn:"))
                return bool(int(ignored, 16) >> (signal.SIGTERM - 1) & 1)
        return False

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=120)

    def answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(self.url, timeout=2) as answer:  # noqa: S310
            return answer.status == 200
        return False

    def running(self) -> list[str]:
        return [f"{one['group']}:{one['name']}" for one in self._processes() if one["statename"] == "RUNNING"]

    def _processes(self) -> list[dict[str, Any]]:
        """What Supervisor tells of them."""
        server = xmlrpc.client.ServerProxy(
            "http://localhost", SupervisorTransport(None, None, self.manager["server_url"])
        )
        return server.supervisor.getAllProcessInfo()  # type: ignore[return-value]


@pytest.fixture(scope="module")
def one_application() -> Iterator[Application]:
    made = Application()
    yield made
    made.stop()
    shutil.rmtree(made.folder)


@pytest.fixture
def application(one_application: Application) -> Application:
    """It runs and answers."""
    module_process.run("services", state="started", names=NAMES, **one_application.manager)
    wait_for(one_application.answers)
    return one_application


class Ground:
    """A database, and the runs on it; all their processes are ended after the test."""

    def __init__(self, cluster: Cluster, database: str, state_dir: Path) -> None:
        self.cluster, self.database, self.state_dir = cluster, database, state_dir
        self.started: list[subprocess.Popen[str]] = []

    def folder(self, run_id: str = "run-1") -> Path:
        return self.state_dir / run_id

    def run_of(self, run_id: str, **changes: Any) -> dict[str, Any]:
        base = {"env": "local", "database": self.database, "host": "db1", "operator": "alice */ DROP", "origin": "desk"}
        return {"id": run_id, **base, "command": "migrate.yml", "inputs": {}, "container": None, **changes}

    def take(self, run_id: str = "run-1", connect: dict[str, Any] | None = None, **watch: Any) -> dict | None:
        base = {
            "silence": 300.0,
            "patience": 300.0,
            "max_window": 600.0,
            "urls": [],
            "body": {},
            "given_password": None,
        }
        run = self.run_of(run_id, **watch.pop("run", {}))
        given = connect or self.cluster.conninfo()
        return run_lock.acquire(self.folder(run_id), given, run, {**base, **watch})

    def guard(self, run_id: str = "run-1") -> int | None:
        return run_folder.guard_pid(self.folder(run_id))

    def held(self) -> dict[str, Any] | None:
        with self.cluster.connect() as admin:
            return lock_session.held_by(admin, self.database)

    def step(
        self, phase: str = "APPLY", code: str = "pass", run_id: str = "run-1", seconds: float = 600
    ) -> subprocess.Popen[str]:
        """A step that is at work when this returns."""
        process = subprocess.Popen(
            [sys.executable, "-c", STEP.format(code=code), str(self.folder(run_id)), phase, str(seconds)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            text=True,
            stdout=subprocess.PIPE,
        )
        self.started.append(process)
        assert process.stdout and process.stdout.readline() == "at work\n"
        return process

    def session(self, run_id: str = "run-1") -> psycopg.Connection:
        """A working session of the run's."""
        return self.cluster.connect(self.database, application_name=lock_session.session_name(run_id))

    def services(self, application: Application, state: str, run_id: str = "run-1", **more: Any) -> dict[str, Any]:
        given = {"names": NAMES, "run_dir": str(self.folder(run_id)), **application.manager, **more}
        return module_process.run("services", state=state, **given)

    def login(self, run_id: str) -> dict[str, Any]:
        """Options of every module that connects."""
        where = {"login_user": "postgres", "login_unix_socket": str(self.cluster.folder), "login_db": self.database}
        return {**where, "env": "local", "run_id": run_id}

    def recover(self, state: str = "settled", check: bool = False, **more: Any) -> dict[str, Any]:
        given = {"state_dir": str(self.state_dir), "operator": "bob", **self.login("run-9"), **more}
        return module_process.run("run_recovery", check, state=state, **given)

    def kept(self, run_id: str = "run-1") -> Path:
        return self.state_dir / run_folder.REPORTS / run_id

    def report(self, run_id: str = "run-1") -> dict[str, Any]:
        return json.loads((self.kept(run_id) / "report.json").read_text())

    def journal(self, run_id: str = "run-1") -> list[dict[str, Any]]:
        folder = self.folder(run_id)
        return run_folder.read_journal(folder if folder.exists() else self.kept(run_id))

    def kill_guard(self, run_id: str = "run-1") -> None:
        pid = self.guard(run_id)
        assert pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: self.guard(run_id) is None)

    def is_over(self, run_id: str = "run-1") -> bool:
        wait_for(lambda: self.guard(run_id) is None and self.held() is None)
        return True

    def remove(self) -> None:
        for folder in self.state_dir.iterdir() if self.state_dir.exists() else ():
            pid = run_folder.guard_pid(folder)
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def ground(cluster: Cluster, database: str, tmp_path: Path) -> Iterator[Ground]:
    made = Ground(cluster, database, tmp_path / "runs")
    yield made
    made.remove()
