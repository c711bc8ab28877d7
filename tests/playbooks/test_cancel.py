"""A run that somebody ends: from another terminal, by Ctrl-C, by a signal, or not at all since there is none."""

from __future__ import annotations

import signal

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import run_folder

from tests.playbooks.conftest import LOCKS, UP, Operator, begin_window, exit_code, run_folders
from tests.waiting import wait_for

NOTHING = "local / habitat: no run is going on; how things stand: ansible-playbook playbooks/status.yml -e env=local"


def test_with_nothing_going_on_there_is_nothing_to_cancel(at_05):
    before = at_05.written(), at_05.processes()
    done = at_05.run("playbooks/cancel.yml")
    assert done.code == 0, done.screen
    assert done.screen.splitlines()[0] == f"CANCEL    {NOTHING}"
    assert set(done.changed.values()) == {0}
    assert (at_05.written(), at_05.processes()) == before


def is_right_again(at_05) -> None:
    """What holds after the end of a run that was cancelled in its window."""
    assert at_05.services() == UP
    assert run_folders(at_05) == []
    assert at_05.query("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'runbook%'") == [(0,)]
    assert at_05.query("SELECT has_database_privilege('habitat_app', 'habitat', 'CONNECT')") == [(True,)]
    assert at_05.query(LOCKS) == [(0,)]
    assert at_05.versions()[-1] == "07"


@pytest.mark.long
def test_cancelling_from_another_terminal_ends_a_run_with_the_services_up(at_05):
    run = begin_window(at_05)
    done = at_05.run("playbooks/cancel.yml")
    assert done.code == 0, done.screen
    assert done.screen.startswith("CUT OFF   run ")
    assert "Its step APPLY was ended" in " ".join(done.screen.split())
    assert "NEXT      ansible-playbook playbooks/resume.yml -e env=local" in done.screen
    is_right_again(at_05)
    screen, _ = run.communicate(timeout=300)
    assert run.returncode == 2, screen
    assert "RESULT    STOPPED, SAFE   schema 05 -> 07" in screen
    assert "cancelled it" in " ".join(screen.split())
    assert "Traceback" not in screen
    report = at_05.report()
    assert (report["outcome"], report["cut_off"]) == ("stopped_safe", True)
    status = at_05.run("playbooks/status.yml").screen
    assert "cut off, stopped safe, schema 05 -> 07" in status
    assert "NEXT      ansible-playbook playbooks/resume.yml -e env=local" in status


SIGNALS = [
    pytest.param(signal.SIGINT, 99),
    pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long),
    pytest.param(signal.SIGHUP, 129, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_ends_a_run_in_good_order(at_05, number, code):
    run = begin_window(at_05)
    run.send_signal(number)
    screen, _ = run.communicate(timeout=300)
    assert exit_code(run) == code, screen
    is_right_again(at_05)
    assert f"CANCEL    {number.name}: ending run " in screen
    assert "Traceback" not in screen
    if number != signal.SIGHUP:
        assert "CUT OFF   run " in screen


@pytest.mark.long
def test_a_run_is_cancelled_by_its_id_only_if_it_is_that_one(at_05):
    run = begin_window(at_05)
    other = at_05.run("playbooks/cancel.yml", "-e", "run=20261122t100211z-k3f")
    assert other.code == 0, other.screen
    assert "no run is going on" in other.screen
    assert run.poll() is None
    (folder,) = run_folders(at_05)
    done = at_05.run("playbooks/cancel.yml", "-e", f"run={folder.name}")
    assert f"CUT OFF   run {folder.name} by " in done.screen
    run.communicate(timeout=300)
    is_right_again(at_05)


def journal(operator: Operator) -> list[dict]:
    """That of the run that is going on."""
    return [line for folder in run_folders(operator) for line in run_folder.read_journal(folder)]


@pytest.mark.long
def test_a_run_that_is_ended_before_its_window_has_touched_nothing(at_05):
    processes = at_05.processes()
    run = at_05.start("migrate.yml")
    wait_for(lambda: any((line["event"], line["what"]) == ("done", "PREFLIGHT") for line in journal(at_05)))
    with at_05.connect() as other, other.transaction():
        # The dump has to wait for it.
        other.execute("LOCK TABLE members IN ACCESS EXCLUSIVE MODE")
        wait_for(lambda: any((line["event"], line["what"]) == ("intent", "BACKUP") for line in journal(at_05)))
        done = at_05.run("playbooks/cancel.yml")
        assert done.code == 0, done.screen
    screen, _ = run.communicate(timeout=300)
    assert run.returncode == 2, screen
    assert "The services were not touched." in " ".join(done.screen.split())
    assert at_05.processes() == processes
    assert at_05.versions()[-1] == "05"
    assert not list((at_05.runtime / "backups").glob("*.json"))
