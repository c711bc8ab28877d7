"""One run at a time, nothing left behind, and no secret anywhere."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.playbooks.conftest import LOCKS, UP, begin_window, run_folders
from tests.waiting import wait_for

pytestmark = pytest.mark.long

HOLD = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'runbook%'"
UNTIL_OPEN = "DO $$BEGIN LOOP EXIT WHEN EXISTS (SELECT FROM gate); PERFORM pg_sleep(0.1); END LOOP; END$$"


def test_a_second_run_is_refused_and_touches_nothing(at_05):
    at_05.execute("CREATE TABLE gate (id int); ALTER TABLE gate OWNER TO habitat")
    first = begin_window(at_05, sql=UNTIL_OPEN, activity="DO $$BEGIN LOOP%")
    try:
        second = at_05.run("migrate.yml")
        assert second.code == 2
        assert "another run holds local/habitat" in second.screen
        assert "phase APPLY" in second.screen
        assert at_05.services()["habitat:api1"] == "STOPPED", "the refused run must not start what the first stopped"
        status = at_05.run("playbooks/status.yml")
        assert status.code == 0
        assert ", phase APPLY, since" in status.screen
        assert "NEXT      a run is going on" in status.screen
    finally:
        at_05.execute("INSERT INTO gate VALUES (1)")
        screen, _ = first.communicate(timeout=120)
    assert first.returncode == 0, screen
    assert at_05.versions()[-1] == "08"
    assert at_05.query(HOLD) == [(0,)]
    assert [path.name for path in (at_05.runtime / "runs").iterdir()] == ["reports"]


def test_the_step_of_a_killed_controller_goes_on_and_after_it_the_guard_puts_things_right(at_05):
    run = begin_window(at_05, "-e", "habitat_silence=15")
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    time.sleep(20)
    assert at_05.query(LOCKS) == [(1,)], "the step that applies goes on by itself, so nobody else may begin"
    assert at_05.services()["habitat:api1"] == "STOPPED"
    at_05.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'runbook/%'")
    wait_for(lambda: at_05.query(LOCKS) == [(0,)])
    assert at_05.services() == UP
    assert at_05.versions()[-1] == "07"
    assert at_05.query("SELECT has_database_privilege('habitat_app', 'habitat', 'CONNECT')") == [(True,)]
    assert run_folders(at_05) == []
    status = at_05.run("playbooks/status.yml").screen
    assert "no step showed a sign of life for 15 s" in " ".join(status.split())
    assert "NEXT      ansible-playbook playbooks/resume.yml -e env=local" in status
    (at_05.schema / "08_slow.sql").unlink()
    assert at_05.run("migrate.yml").code == 0, "things are right, so nobody has to resume"
    assert "NEXT      nothing to do" in at_05.run("playbooks/status.yml").screen


def arguments() -> Iterator[str]:
    """Argument lists of all processes; those that end meanwhile are left out."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                yield (process / "cmdline").read_bytes().decode(errors="replace")


def test_the_sampler_sees_a_secret_that_is_there():
    canary = subprocess.Popen(["sleep", "300.00471100"])
    try:
        # Its arguments are there a moment after it is.
        assert wait_for(lambda: any("300.00471100" in line for line in arguments()))
    finally:
        canary.kill()
        canary.wait()


@pytest.mark.parametrize("verbosity", ["-v", "-vvvv"])
def test_no_secret_on_any_screen_in_any_file_or_argument(at_05, verbosity):
    secrets = [at_05.stack.owner_password, at_05.stack.app_password]
    seen: set[str] = set()
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.005):
            seen.update(secret for secret in secrets if any(secret in line for line in arguments()))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        done = at_05.run("migrate.yml", verbosity)
    finally:
        over.set()
        thread.join()
    assert done.code == 0, done.screen
    assert not seen
    assert not [secret for secret in secrets if secret in done.screen]
    written = [
        path for folder in (at_05.reports, at_05.runtime / "runs") for path in folder.rglob("*") if path.is_file()
    ]
    manifests = list((at_05.runtime / "backups").glob("*.json"))
    for path in [*written, *manifests]:
        assert not [secret for secret in secrets if secret in path.read_text(errors="replace")], path


def test_a_backup_that_fails_touches_nothing(at_05):
    processes = at_05.processes()
    at_05.execute(
        "CREATE TABLE theirs (id int); ALTER TABLE theirs OWNER TO postgres; REVOKE ALL ON theirs FROM PUBLIC"
    )
    done = at_05.run("migrate.yml")
    assert done.code == 2
    assert "theirs" in done.screen
    assert "The services were not touched, the schema is at 05." in done.screen
    assert at_05.processes() == processes
    assert at_05.report()["outcome"] == "stopped_safe"
    assert not list((at_05.runtime / "backups").iterdir())
    assert at_05.query(HOLD) == [(0,)]
