"""The playbooks as an operator types them, on an embedded stack of the test session's own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import engine, run_folder
from ansible_collections.habitat.runbook.plugins.module_utils.bundle_writer import write_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_options
from ansible_collections.habitat.runbook.plugins.module_utils.copies import list_copies
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.inputs import new_run_id
from ansible_collections.habitat.runbook.plugins.module_utils.schema_folder import read_schema

from demo.embedded import stack as embedded
from demo.embedded import state
from tests.waiting import wait_for

BIN = Path(sys.executable).parent
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass
class Finished:
    """What an operator sees of a playbook: exit code and screen; also the recap's counts by host."""

    code: int
    screen: str
    changed: dict[str, int] = field(default_factory=dict)


class Operator:
    """Types commands in the repository, for one stack, with a schema folder that tests may write to."""

    def __init__(self, runtime: Path) -> None:
        self.runtime = runtime
        self.schema = runtime.parent / "schema"
        self.reports = runtime.parent / "reports"

    def command(self, playbook: str, *arguments: str) -> list[str]:
        own = [f"habitat_schema_dir={self.schema}", f"habitat_reports_dir={self.reports}"]
        extra = [word for one in own for word in ("-e", one)]
        return [str(BIN / "ansible-playbook"), playbook, "-e", "env=local", *extra, *arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "HABITAT_RUNTIME": str(self.runtime), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "120"}

    def run(self, playbook: str, *arguments: str) -> Finished:
        done = subprocess.run(
            self.command(playbook, *arguments),
            cwd=state.REPOSITORY,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=600,
            check=False,
        )
        recap = {host: int(changed) for host, _, changed, _, _ in RECAP.findall(done.stdout)}
        return Finished(done.returncode, done.stdout, recap)

    def start(self, playbook: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(playbook, *arguments),
            cwd=state.REPOSITORY,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def stack(self) -> state.Stack:
        found = state.load(self.runtime)
        assert found
        return found

    def connect(self, database: str = "habitat") -> psycopg.Connection:
        stack = self.stack
        return psycopg.connect(
            host=stack.socket_folder, port=stack.port, user=stack.superuser, dbname=database, autocommit=True
        )

    def query(self, sql: str) -> list[tuple]:
        with self.connect() as connection:
            return connection.execute(sql).fetchall()

    def execute(self, sql: str) -> None:
        with self.connect() as connection:
            connection.execute(sql)

    def versions(self) -> list[str]:
        if self.query("SELECT to_regclass('schema_migrations')") == [(None,)]:
            return []
        return [version for (version,) in self.query("SELECT version FROM schema_migrations ORDER BY version")]

    def services(self) -> dict[str, str]:
        """State of every process, such as {"habitat:api1": "RUNNING"}."""
        return {line.split()[0]: line.split()[1] for line in self._supervisor("status")}

    def processes(self) -> dict[str, str]:
        """Process number of everything that runs; a service that was started again has another one."""
        return {line.split()[0]: line.split()[3] for line in self._supervisor("status") if "pid" in line}

    def written(self) -> list[Path]:
        """Every file of the runbook's own: reports, backups, folders of runs."""
        folders = (self.reports, self.runtime / "backups", self.runtime / "runs")
        return sorted(path for folder in folders for path in folder.rglob("*"))

    def _supervisor(self, *words: str) -> list[str]:
        stack = self.stack
        command = [stack.supervisorctl, "-c", stack.supervisor_conf, *words]
        return subprocess.run(command, text=True, capture_output=True, check=False).stdout.splitlines()

    def stop_service(self, name: str) -> None:
        self._supervisor("stop", name)

    def start_service(self, name: str) -> None:
        self._supervisor("start", name)

    def report(self) -> dict:
        newest = sorted(self.reports.glob("*/report.json"))[-1]
        return json.loads(newest.read_text())

    def write(self, name: str, sql: str) -> Path:
        path = self.schema / name
        path.write_text(sql)
        return path


LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
UP = {name: "RUNNING" for name in ("postgres", "habitat:api1", "habitat:api2", "habitat:worker")}


def run_folders(operator: Operator) -> list[Path]:
    """Folders of runs that are going on or were not put right."""
    return sorted(path.parent for path in (operator.runtime / "runs").glob(f"*/{run_folder.RUN}"))


def begin_window(
    operator: Operator, *arguments: str, sql: str = "SELECT pg_sleep(600)", activity: str = "SELECT pg_sleep%"
) -> subprocess.Popen[str]:
    """A migration that has applied 06 and 07 and works on 08, which has no end; activity: what is waited for."""
    operator.write("08_slow.sql", f"{sql};\n-- Down migration\nSELECT 1;\n")
    run = operator.start("migrate.yml", *arguments)
    query = f"SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'runbook/%' AND query LIKE '{activity}'"

    def begun() -> bool:
        assert run.poll() is None, run.communicate()[0]
        return bool(operator.query(f"{query} AND state = 'active'"))

    wait_for(begun)
    return run


def kill_everything(operator: Operator, run: subprocess.Popen[str]) -> str:
    """The controller with all its children, and the guard; returns the run's id."""
    (folder,) = run_folders(operator)
    guard = run_folder.guard_pid(folder)
    assert guard
    os.killpg(run.pid, signal.SIGKILL)
    os.kill(guard, signal.SIGKILL)
    run.communicate(timeout=60)
    wait_for(lambda: operator.query(LOCKS) == [(0,)])
    return folder.name


def exit_code(run: subprocess.Popen[str]) -> int:
    """As a shell tells it."""
    return run.returncode if run.returncode >= 0 else 128 - run.returncode


@pytest.fixture(scope="session")
def running_stack() -> Iterator[Path]:
    """One embedded stack per test process, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="habitat-runtime-"))
    runtime = folder / "local"
    embedded.up(runtime)
    yield runtime
    embedded.destroy(runtime)
    shutil.rmtree(folder, ignore_errors=True)


def fresh(operator: Operator, template: str) -> Operator:
    """Everything as before the first run: own copy of schema/ up to 07, no run, no backup, all services up."""
    for folder in run_folders(operator):
        guard = run_folder.guard_pid(folder)
        if guard:
            with contextlib.suppress(ProcessLookupError):
                os.kill(guard, signal.SIGKILL)
    runs = [path for path in (operator.runtime / "runs").glob("*") if path.is_dir()]
    for folder in (operator.schema, operator.reports, operator.runtime / "backups", *runs):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(state.REPOSITORY / "schema", operator.schema)
    with operator.connect("postgres") as connection:
        connection.execute("DROP DATABASE IF EXISTS habitat WITH (FORCE)")
        for copy in list_copies(connection, "habitat"):
            connection.execute(f'DROP DATABASE "{copy.name}" WITH (FORCE)')
        connection.execute(f"CREATE DATABASE habitat OWNER habitat TEMPLATE {template} STRATEGY file_copy")
    operator.start_service("habitat:")
    return operator


@pytest.fixture
def operator(running_stack: Path) -> Operator:
    """An operator in front of an empty database."""
    return fresh(Operator(running_stack), "template0")


@pytest.fixture
def at_05(running_stack: Path, template_05: str) -> Operator:
    """An operator in front of a database with 01 to 05 applied."""
    return fresh(Operator(running_stack), template_05)


@pytest.fixture(scope="session")
def template_05(running_stack: Path) -> str:
    """A copy of the database at version 05."""
    operator = fresh(Operator(running_stack), "template0")
    bring_to_05(operator)
    operator.stop_service("habitat:")
    with operator.connect("postgres") as connection:
        connection.execute("ALTER DATABASE habitat RENAME TO habitat_05")
    return "habitat_05"


def bring_to_05(operator: Operator) -> None:
    """Apply 01 to 05 with the engine of migrate.yml, in a small part of the time that the playbook takes."""
    stack, who = operator.stack, Run(new_run_id(), "template", environment="local")
    where = {"host": stack.host, "port": stack.port, "user": stack.owner, "password": stack.owner_password}

    def connect() -> psycopg.Connection:
        return psycopg.connect(**where, dbname="habitat", autocommit=True, options=session_options("5s", "1min"))

    plan = operator.runtime.parent / "plan"
    write_bundle(plan, read_schema(state.REPOSITORY / "schema").migrations)
    outcome = engine.apply(connect(), connect, str(plan), [f"{number:02d}" for number in range(1, 6)], who)
    assert not outcome.failure, outcome.failure
