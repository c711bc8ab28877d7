"""A run of which everything was killed: refused, told, put right, finished."""

from __future__ import annotations

import pytest

from tests.playbooks.conftest import UP, begin_window, kill_everything, run_folders
from tests.waiting import wait_for

RESUME = "ansible-playbook playbooks/resume.yml -e env=local"
QUICK = "CREATE TABLE eighth (id int);\n-- Down migration\nDROP TABLE eighth;\n"


@pytest.mark.long
def test_with_nothing_cut_off_there_is_nothing_to_resume(at_05):
    before = at_05.written(), at_05.processes()
    done = at_05.run("playbooks/resume.yml")
    assert done.code == 0, done.screen
    assert done.screen.splitlines()[0] == "RESUME    local / habitat: no run was cut off, nothing to put right"
    assert set(done.changed.values()) == {0}
    assert (at_05.written(), at_05.processes()) == before
    assert at_05.versions()[-1] == "05"


@pytest.mark.long
def test_a_run_of_which_everything_was_killed_is_refused_told_and_finished(at_05):
    run_id = kill_everything(at_05, begin_window(at_05))
    refused = at_05.run("migrate.yml")
    assert refused.code == 2
    lines = refused.screen.split("\n\nPLAY RECAP")[0].strip().splitlines()
    assert lines[0].startswith(f"REFUSED   run {run_id} by ")
    assert lines[0].endswith(" was cut off while migrations were applied and not put right yet")
    assert lines[1:3] == ["  its services are stopped: habitat:api1, habitat:api2, habitat:worker", f"  {RESUME}"]
    assert at_05.services()["habitat:api1"] == "STOPPED"

    status = at_05.run("playbooks/status.yml")
    assert status.code == 0, status.screen
    assert "services DOWN" in status.screen.splitlines()[0]
    assert f"CUT OFF   run {run_id} by " in status.screen
    assert f"NEXT      {RESUME}" in status.screen

    predicted = at_05.run("playbooks/resume.yml", "-e", "mode=recover", "--check")
    assert predicted.code == 0, predicted.screen
    assert at_05.services()["habitat:api1"] == "STOPPED"

    at_05.write("08_slow.sql", QUICK)
    done = at_05.run("playbooks/resume.yml")
    assert done.code == 0, done.screen
    assert "Its step APPLY was ended" in " ".join(done.screen.split())
    assert f"RESUME    going on with what run {run_id} had begun" in done.screen
    assert "RESULT    SUCCEEDED   schema 07 -> 08" in done.screen
    assert at_05.services() == UP
    assert at_05.versions()[-1] == "08"
    assert run_folders(at_05) == []

    again = at_05.run("playbooks/resume.yml")
    assert again.code == 0, again.screen
    assert set(again.changed.values()) == {0}
    assert "nothing to put right" in again.screen
    assert "NEXT      nothing to do" in at_05.run("playbooks/status.yml").screen


@pytest.mark.long
def test_only_recovering_puts_right_and_goes_no_further(at_05):
    run_id = kill_everything(at_05, begin_window(at_05))
    done = at_05.run("playbooks/resume.yml", "-e", "mode=recover")
    assert done.code == 0, done.screen
    assert f"CUT OFF   run {run_id} by " in done.screen
    assert f"NEXT      {RESUME}" in done.screen
    assert at_05.services() == UP
    assert at_05.versions()[-1] == "07"
    again = at_05.run("playbooks/resume.yml", "-e", "mode=recover")
    assert again.code == 0, again.screen
    assert set(again.changed.values()) == {0}
    at_05.write("08_slow.sql", QUICK)
    finished = at_05.run("playbooks/resume.yml")
    assert finished.code == 0, finished.screen
    assert at_05.versions()[-1] == "08"


@pytest.mark.long
def test_the_target_that_was_typed_is_that_of_whoever_finishes(at_05):
    at_05.write("09_later.sql", "SELECT 1;\n-- Down migration\nSELECT 1;\n")
    kill_everything(at_05, begin_window(at_05, "-e", "target=08"))
    at_05.write("08_slow.sql", QUICK)
    done = at_05.run("playbooks/resume.yml")
    assert done.code == 0, done.screen
    assert at_05.versions()[-1] == "08"


@pytest.mark.long
def test_down_migrations_are_finished_too(at_05):
    slow = "SELECT 1;\n-- Down migration\nSELECT pg_sleep(600);\n"
    at_05.write("08_slow.sql", slow)
    assert at_05.run("migrate.yml").code == 0
    run = at_05.start("rollback.yml", "-e", "to=07", "-e", "accept_data_loss=true")
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
    wait_for(lambda: at_05.query(asleep) == [(1,)])
    kill_everything(at_05, run)
    at_05.execute("UPDATE schema_migrations SET down_sql = 'SELECT 1;' WHERE version = '08'")
    at_05.write("08_slow.sql", slow.replace("pg_sleep(600)", "1"))
    done = at_05.run("playbooks/resume.yml")
    assert "had begun" in done.screen, done.screen
    assert at_05.services() == UP
    assert done.code == 0, done.screen
    assert at_05.versions()[-1] == "07"


@pytest.mark.long
def test_a_run_that_is_going_on_is_left_alone(at_05):
    run = begin_window(at_05)
    done = at_05.run("playbooks/resume.yml")
    assert done.code == 0, done.screen
    assert "is going on; it was left alone" in done.screen
    assert run.poll() is None
    assert at_05.services()["habitat:api1"] == "STOPPED"
    assert at_05.run("playbooks/cancel.yml").code == 0
    run.communicate(timeout=120)
