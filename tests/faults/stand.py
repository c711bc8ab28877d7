"""A stand: one embedded stack with clients, put back to a known state before every fault."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from demo.embedded import stack as embedded
from demo.embedded import state
from tests.faults.probing import Clients
from tests.integration.habitat import apply, schema_of
from tests.playbooks.conftest import RECAP, Finished, Operator, bring_to_05, fresh

SILENCE, PATIENT_SILENCE = 3.0, 15.0
"""habitat_silence of a run that is going to be cut off: as short as a quiet machine allows, so that its guard does not
wait for long; and as long as it is by default."""

SLACK = 5.0
"""Seconds that a guard may need, beyond its silence, to have the API answer again."""

HEALTH_DEADLINE = 5

_PLAYS_PER_RUN = 7
"""A migration takes about as long as so many plays that find nothing to do."""

GENEROUS = 600.0
"""Seconds to wait for what has to come sooner or later; the machine may be busy."""

SLOW = "08_slow.sql"
_PLUGINS = Path(__file__).parent / "callback_plugins"
_CALLBACKS = "habitat.runbook.interrupt,packed"
_MARK = "HABITAT_FAULT"
_NEXT = re.compile(r"^NEXT\s+(.*)$", re.MULTILINE)


def quick(silence: float) -> tuple[str, ...]:
    """Arguments of a run that is going to be cut off."""
    return ("-e", f"habitat_silence={silence:g}", "-e", f"habitat_health_deadline={HEALTH_DEADLINE}")


def wait_for(condition: Callable[[], Any], what: str, seconds: float = GENEROUS, every: float = 0.02) -> Any:
    """Wait until something is so, asked ``every`` so many seconds; AssertionError when it never is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(every)
    return found


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[-200:]
    except OSError:
        return ""


class Command:
    """A playbook that was started; its processes are found by a mark in their environment."""

    def __init__(self, process: subprocess.Popen[bytes], screen: Path, mark: str) -> None:
        self.process, self._screen, self.mark = process, screen, mark
        self.begun = time.monotonic()

    @property
    def screen(self) -> str:
        return self._screen.read_text(errors="replace")

    def processes(self) -> list[int]:
        """Everything that lives of it: controller, workers, modules, jobs, guard."""
        mark = f"{_MARK}={self.mark}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def wait(self) -> int:
        return self.process.wait(GENEROUS)

    def finished(self) -> Finished:
        code, screen = self.wait(), self.screen
        return Finished(code, screen, {host: int(changed) for host, _, changed, _, _ in RECAP.findall(screen)})

    def gone(self) -> None:
        """Wait until nothing of it lives, neither a step nor its guard."""
        self.wait()
        try:
            wait_for(lambda: not self.processes(), "the run's processes end", GENEROUS / 2, every=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}: {[_words(pid) for pid in self.processes()]}") from None

    def kill_all(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Stand(Operator):
    """An operator in front of a stack of its own, with clients."""

    def __init__(self, runtime: Path) -> None:
        super().__init__(runtime)
        self.folder = runtime.parent
        self.aside = self.folder
        """Where screens and packed modules are."""
        self.runs = runtime / "runs"
        self.backups = runtime / "backups"
        self.kept_backups = self.folder / "backups-of-05"
        self.references: dict[str, list[str]] = {}
        self.silence, self.slack = SILENCE, SLACK
        self.run_seconds = 0.0
        stack = self.stack
        self.clients = Clients(stack.health_urls, [stack.owner_password, stack.app_password])

    @property
    def screens(self) -> Path:
        return self.aside / "screens"

    # Commands

    def launch(self, playbook: str, *arguments: str, **environment: str) -> Command:
        """Start a playbook as a terminal or a job does: in a session of its own."""
        return self._launch(self.command(playbook, *arguments), environment)

    def launch_by_runner(self, playbook: str, *arguments: str, **environment: str) -> Command:
        """Start a playbook as AWX does, see by_runner.py."""
        words = self.command(playbook, *arguments)[1:]
        return self._launch([sys.executable, "-m", "tests.faults.by_runner", *words], environment)

    def _launch(self, words: list[str], environment: dict[str, str]) -> Command:
        mark, screen = uuid.uuid4().hex, self.screens / f"{time.monotonic_ns()}.txt"
        packed = self.aside / "packed"
        for folder in (screen.parent, packed):
            folder.mkdir(exist_ok=True)
        ours = {"ANSIBLE_CALLBACK_PLUGINS": str(_PLUGINS), "ANSIBLE_CALLBACKS_ENABLED": _CALLBACKS, _MARK: mark}
        with screen.open("wb") as out:
            process = subprocess.Popen(
                words,
                cwd=state.REPOSITORY,
                env={**self.environment(), "HABITAT_PACKED": str(packed), **ours, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Command(process, screen, mark)

    def type(self, playbook: str, *arguments: str) -> Finished:
        """A playbook typed and waited for."""
        return self.launch(playbook, *arguments).finished()

    def nemesis(self, **settings: str) -> dict[str, str]:
        """The environment that puts the nemesis into a command."""
        named = {f"HABITAT_NEMESIS_{name.upper()}": value for name, value in settings.items()}
        return {"ANSIBLE_CALLBACKS_ENABLED": f"{_CALLBACKS},nemesis", **named}

    # State

    def reset(self, template: str, backups: Path | None = None, slow: float | None = None) -> None:
        """Everything as before the first run; ``slow``: a migration 08 that takes so many seconds."""
        self.clients.pause()
        self._end_leftovers()
        for folder in (self.runs, self.screens):
            shutil.rmtree(folder, ignore_errors=True)
        fresh(self, template)
        if backups:
            shutil.copytree(backups, self.backups, dirs_exist_ok=True)
        if slow is not None:
            self.write_slow(slow)
        wait_for(self.clients.good, "the API answers after a reset")
        self.clients.begin()

    def write_slow(self, seconds: float) -> None:
        """A migration 08 that takes so many seconds."""
        self.write(SLOW, f"SELECT pg_sleep({seconds});\n-- Down migration\nSELECT 1;\n")

    def _end_leftovers(self) -> None:
        mark = f"HABITAT_RUNTIME={self.runtime}".encode()
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                variables = path.read_bytes().split(b"\0")
                if mark in variables and any(one.startswith(f"{_MARK}=".encode()) for one in variables):
                    os.kill(int(path.parent.name), signal.SIGKILL)

    def keep_as(self, name: str) -> None:
        """Make the database a template of that name; the next reset makes another."""
        self.clients.pause()
        self.stop_service("habitat:")
        with self.connect("postgres") as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'habitat'")
            connection.execute(f"DROP DATABASE IF EXISTS {name}")
            connection.execute(f"ALTER DATABASE habitat RENAME TO {name}")

    def run_folders(self) -> list[Path]:
        """Folders of runs that had begun and are not settled, then those that are kept."""
        open_ones = sorted(path.parent for path in self.runs.glob("2*/run.json"))
        return [*open_ones, *sorted(path.parent for path in self.runs.glob("reports/*/run.json"))]

    def journal(self, folder: Path) -> list[dict[str, Any]]:
        found = []
        with contextlib.suppress(FileNotFoundError):
            for line in (folder / "journal.ndjson").read_bytes().splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return found

    def guards(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if b"watch" in words and any(word.startswith(f"{self.runs}/".encode()) for word in words):
                    found.append(int(path.parent.name))
        return found


def next_command(screen: str) -> list[str]:
    """What a status says to type, as playbook and arguments without the environment; empty when it is no command."""
    found = _NEXT.search(screen)
    _, mark, rest = found[1].split(" (said by")[0].partition("ansible-playbook ") if found else ("", "", "")
    words = shlex.split(rest) if mark else []
    given = list(zip(words[1::2], words[2::2], strict=True))
    return words[:1] + [word for pair in given if pair != ("-e", "env=local") for word in pair]


def build(stand: Stand) -> None:
    """A template of version 05, and what the schema of each version is."""
    stand.reset("template0")
    bring_to_05(stand)
    # Between two steps a busy machine needs longer.
    play = _seconds_of_a_play(stand)
    stand.silence, stand.run_seconds = min(PATIENT_SILENCE, max(SILENCE, play)), _PLAYS_PER_RUN * play
    stand.keep_as("habitat_05")
    with stand.connect("postgres") as connection:
        connection.execute("CREATE DATABASE habitat OWNER habitat TEMPLATE habitat_05")
    stack = stand.stack
    owner = {"host": stack.host, "port": stack.port, "user": stack.owner, "password": stack.owner_password}
    with psycopg.connect(**owner, dbname="habitat", autocommit=True) as session, stand.connect() as looking:
        for version in ("05", "06", "07"):
            if version != "05":
                apply(session, version, version)
            stand.references[version] = schema_of(looking)
    stand.references["08"] = stand.references["07"]


def _seconds_of_a_play(stand: Stand) -> float:
    """How long the controller needs to find out that there is nothing to do."""
    begun = time.monotonic()
    done = stand.type("migrate.yml", "-e", "target=05")
    assert done.code == 0, done.screen
    return time.monotonic() - begun


def prepare_07(stand: Stand) -> None:
    """Once: a template of version 07 and the backup of 05 that was taken on the way to it."""
    if not stand.kept_backups.exists():
        stand.reset("habitat_05")
        _migrate(stand)
        shutil.copytree(stand.backups, stand.kept_backups)
        stand.keep_as("habitat_07")


def _migrate(stand: Stand, *arguments: str) -> None:
    done = stand.type("migrate.yml", *arguments)
    assert done.code == 0, done.screen


@contextmanager
def standing(place: Path | None = None) -> Iterator[Stand]:
    """A stand, from nothing to nothing."""
    folder = Path(tempfile.mkdtemp(prefix="hf-", dir=place))
    runtime = folder / "local"
    try:
        embedded.up(runtime)
        stand = Stand(runtime)
        try:
            build(stand)
            yield stand
        finally:
            stand.clients.stop()
            stand._end_leftovers()
    finally:
        embedded.destroy(runtime)
        shutil.rmtree(folder, ignore_errors=True)
