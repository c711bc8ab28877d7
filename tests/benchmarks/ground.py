"""A private server with everything on that costs time for real, and ways to run psql, the module and playbooks on it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

from demo.embedded import postgres, stack, state

TURNS = 3
BIN = Path(sys.executable).parent
QUIET = {"PYTHONPATH": "collections", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"}


def show(what: str, measured: float, limit: float, unit: str, how: str) -> bool:
    well = measured <= limit
    print(f"{'ok  ' if well else 'OVER'}  {what:<52} {measured:7.2f} {unit:<3} (limit {limit:g})   {how}", flush=True)
    return well


def tell(what: str, measured: float, unit: str, how: str) -> None:
    """A figure without a limit."""
    print(f"      {what:<52} {measured:7.2f} {unit:<3}             {how}", flush=True)


def alternate(ours: Callable[[], float], theirs: Callable[[], float], turns: int = TURNS) -> tuple[float, float]:
    pairs = [(ours(), theirs()) for _ in range(turns)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


class Ground:
    """One server in a folder of its own; ``seconds`` and ``peaks`` measure a command run against it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def connect(self, database: str = "postgres", **more: str) -> psycopg.Connection:
        return psycopg.connect(host=str(self.folder), user="postgres", dbname=database, autocommit=True, **more)

    def program(self, name: str, *arguments: str) -> list[str]:
        """Command of one of PostgreSQL's client programs."""
        return [postgres.tool(name), "-h", str(self.folder), "-U", "postgres", *arguments]

    def fresh(self) -> None:
        """An empty public schema."""
        with self.connect() as connection:
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            connection.execute("CHECKPOINT")

    def psql(self, script: Path) -> float:
        command = [postgres.tool("psql"), "-X", "-q", "-h", str(self.folder), "-U", "postgres", "-d", "postgres"]
        return self.seconds([*command, "-v", "ON_ERROR_STOP=1", "-f", str(script)])

    def seconds(self, command: list[str]) -> float:
        started = time.monotonic()
        done = subprocess.run(
            command, cwd=state.REPOSITORY, env={**os.environ, **QUIET}, capture_output=True, check=False
        )
        if done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stdout.decode()}\n{done.stderr.decode()}")
        return time.monotonic() - started

    def module(self, bundle: Path, *more: str) -> list[str]:
        """Command of the module's work on a parsed plan, without Ansible around it."""
        return [sys.executable, "-m", "tests.benchmarks.apply_bundle", str(self.folder), str(bundle), *more]

    def empty_play(self) -> list[str]:
        return _playbook(self.folder / "empty.yml", [])


def _playbook(path: Path, tasks: list[dict]) -> list[str]:
    variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    play = {"name": "Bench", "hosts": "localhost", "gather_facts": False, "vars": variables, "tasks": tasks}
    path.write_text(json.dumps([play]))
    return [str(BIN / "ansible-playbook"), "-i", "localhost,", str(path)]


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    folder = Path(tempfile.mkdtemp(prefix="habitat-bench-"))
    postgres.init_cluster(folder / "data", "postgres")
    options = ["-k", str(folder), "-c", "listen_addresses=", "-c", "max_wal_size=4GB"]
    command = postgres.server_command("postgres", "-D", str(folder / "data"), *options)
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        place = Ground(folder)
        _wait(place)
        yield place
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=60)
        shutil.rmtree(folder)


@contextlib.contextmanager
def stacked(place: Ground) -> Iterator[state.Stack]:
    """The embedded stack in a folder of its own; playbooks that are started meanwhile work on it."""
    runtime = place.folder / "stack"
    os.environ.update(HABITAT_RUNTIME=str(runtime), ANSIBLE_NOCOLOR="1")
    try:
        yield stack.up(runtime)
    finally:
        stack.destroy(runtime)


def _wait(place: Ground) -> None:
    for _ in range(200):
        try:
            place.connect().close()
            return
        except psycopg.OperationalError:
            time.sleep(0.05)


def peaks(place: Ground, command: list[str]) -> tuple[float, float]:
    """Largest private memory (MB) of a command's process and of the backend that works for it, sampled at 50 Hz."""
    client = backend = 0.0
    ask = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'runbook/%'"
    process = subprocess.Popen(command, cwd=state.REPOSITORY, env={**os.environ, **QUIET})
    with place.connect() as connection:
        while process.poll() is None:
            client = max(client, _private_megabytes(process.pid))
            backend = max([backend, *(_private_megabytes(pid) for (pid,) in connection.execute(ask))])
            time.sleep(0.02)
    return client, backend


def _private_megabytes(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
    return 0.0
