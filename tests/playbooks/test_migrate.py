"""migrate.yml: applied, nothing pending, check mode, failing migrations, failing health."""

from __future__ import annotations

import json
import re
import stat

import pytest

WINDOW_SECONDS = re.compile(r"window ([0-9.]+) s")


def test_migrates_and_says_so_and_the_second_run_touches_nothing(at_05):
    done = at_05.run("migrate.yml")
    assert done.code == 0, done.screen
    assert at_05.versions() == ["01", "02", "03", "04", "05", "06", "07"]
    for words in (
        "PREFLIGHT",
        "PLAN      2 pending, schema 05 -> 07",
        "BACKUP",
        "STOP",
        "APPLY",
        "START",
        "HEALTH",
        "RESULT",
    ):
        assert words in done.screen
    assert WINDOW_SECONDS.search(done.screen)
    report = at_05.report()
    assert (report["outcome"], report["schema"], report["failure"]) == ("succeeded", "05 -> 07", None)
    assert [one["version"] for one in report["applied"]] == ["06", "07"]
    assert set(at_05.services().values()) == {"RUNNING"}
    (manifest,) = (at_05.runtime / "backups").glob("*.json")
    assert json.loads(manifest.read_text())["id"] == report["backup"]["id"]
    before = at_05.written(), at_05.processes()
    done = at_05.run("migrate.yml")
    assert done.code == 0
    assert done.screen.splitlines()[0] == "local / habitat: schema is at 07, nothing pending"
    assert set(done.changed.values()) == {0}
    assert (at_05.written(), at_05.processes()) == before


@pytest.mark.long
def test_check_mode_predicts_and_writes_nothing(at_05):
    before = at_05.written(), at_05.processes(), at_05.versions()
    predicted = at_05.run("migrate.yml", "--check", "--diff")
    assert predicted.code == 0, predicted.screen
    assert (at_05.written(), at_05.processes(), at_05.versions()) == before
    assert "CREATE TABLE email_verifications" in predicted.screen
    assert "nothing was changed" in predicted.screen
    assert "BACKUP" not in predicted.screen
    done = at_05.run("migrate.yml")
    assert done.changed == predicted.changed


@pytest.mark.long
def test_a_failing_migration_leaves_the_api_up_on_what_was_reached(at_05):
    at_05.write(
        "07_email_verifications.sql", "-- Up migration\n\nCREATE TABLE broken (\n  id int REFERENCES nowhere(id)\n);\n"
    )
    done = at_05.run("migrate.yml", "-e", "habitat_on_partial=start")
    assert done.code == 2
    assert "restore point: none, habitat_on_partial is start" in done.screen
    assert "if 07 fails: PostgreSQL rolls it back, the services start on schema 06" in done.screen
    assert (
        'FAILED    schema/07_email_verifications.sql:3:1   relation "nowhere" does not exist   (SQLSTATE 42P01)'
        in done.screen
    )
    assert "RESULT    STOPPED, SAFE   schema 05 -> 06" in done.screen
    assert "07 was rolled back by PostgreSQL; the schema is at 06." in done.screen
    assert "The services are up and healthy" in done.screen
    assert "correct schema/07_email_verifications.sql, then: ansible-playbook migrate.yml -e env=local" in done.screen
    assert "Traceback" not in done.screen
    assert at_05.versions()[-1] == "06"
    assert set(at_05.services().values()) == {"RUNNING"}
    assert at_05.report()["outcome"] == "stopped_safe"
    again = at_05.run("playbooks/status.yml")
    assert "07       email_verifications  pending" in again.screen


@pytest.mark.long
def test_failing_health_leaves_the_services_up_and_names_the_way_back(at_05):
    # The application cannot connect any more: what no file check finds, health does.
    at_05.write("08_break.sql", "REVOKE CONNECT ON DATABASE habitat FROM PUBLIC;\n-- Down migration\nSELECT 1;")
    done = at_05.run("migrate.yml", "-e", '{"habitat_health_deadline": 2, "habitat_on_partial": "start"}')
    assert done.code == 2
    report = at_05.report()
    assert report["outcome"] == "needs_operator"
    assert "to go back (restoring took " in done.screen
    assert f": ansible-playbook rollback.yml -e backup={report['backup']['id']}" in done.screen
    assert "NOT healthy" in done.screen
    assert set(at_05.services().values()) == {"RUNNING"}
    assert at_05.versions()[-1] == "08"
    # A right that the migration itself takes away must not come back with those the run gives back.
    assert "cannot lose its right to connect, since a migration changes who may connect" in done.screen
    assert at_05.query("SELECT has_database_privilege('public', 'habitat', 'CONNECT')") == [(False,)]


@pytest.mark.long
def test_a_partial_migration_is_on_the_screen_and_in_the_status(at_05):
    at_05.run("migrate.yml")
    at_05.write(
        "08_index.sql",
        "ALTER TABLE members ADD COLUMN phone text;\nCREATE INDEX CONCURRENTLY i ON members (missing);\n",
    )
    done = at_05.run("migrate.yml", "-e", "habitat_on_partial=start")
    assert done.code == 2
    assert "if 08 fails: it stays partial, on record" in done.screen
    assert "08 is partial: 1 of 2 statements are done and on record" in done.screen
    status = at_05.run("playbooks/status.yml")
    assert "partial 1/2" in status.screen
    assert 'column "missing" does not exist' in status.screen


@pytest.mark.long
def test_only_what_ran_is_stopped_and_started(at_05):
    at_05.stop_service("habitat:worker")
    done = at_05.run("migrate.yml")
    assert done.code == 0, done.screen
    assert "STOP      habitat:api1, habitat:api2\n" in done.screen
    assert at_05.services()["habitat:worker"] == "STOPPED"
    assert at_05.services()["habitat:api1"] == "RUNNING"


@pytest.mark.long
def test_nothing_running_before_means_nothing_running_after(at_05):
    at_05.stop_service("habitat:")
    done = at_05.run("migrate.yml")
    assert done.code == 0, done.screen
    assert "no service is running" in done.screen
    assert at_05.services()["habitat:api1"] == "STOPPED"
    assert at_05.versions()[-1] == "07"


@pytest.mark.long
def test_target_stops_there_and_below_is_refused(operator):
    assert operator.run("migrate.yml", "-e", "target=6").code == 0
    assert operator.versions()[-1] == "06"
    done = operator.run("migrate.yml", "-e", "target=05")
    assert done.code == 2
    assert "target 05 is below the current version 06" in done.screen
    assert "ansible-playbook rollback.yml -e env=local -e to=05" in done.screen
    unknown = operator.run("migrate.yml", "-e", "target=99")
    assert "there is no migration 99" in unknown.screen


def test_bad_files_are_refused_before_anything_is_touched(at_05):
    at_05.write("08_open.sql", "CREATE TABLE a (id int);\nSELECT 'never closed;\n")
    done = at_05.run("migrate.yml")
    assert done.code == 2
    assert "schema/08_open.sql:2" in done.screen
    assert "nothing was changed" in done.screen
    assert at_05.versions()[-1] == "05"
    assert not list((at_05.runtime / "backups").rglob("*"))
    assert at_05.report()["outcome"] == "refused"


@pytest.mark.long
def test_preflight_refuses_a_long_transaction_and_names_strangers(at_05):
    with at_05.connect() as other, other.transaction():
        other.execute("SELECT count(*) FROM members")
        done = at_05.run("migrate.yml", "-e", "habitat_max_transaction=0")
    assert done.code == 2
    assert "a transaction is open for" in done.screen
    assert "pg_terminate_backend" in done.screen
    assert at_05.versions()[-1] == "05"
    assert at_05.report()["outcome"] == "refused"


@pytest.mark.long
def test_a_setting_that_is_none_is_refused_before_the_window(at_05):
    processes = at_05.processes()
    done = at_05.run("migrate.yml", "-e", "habitat_lock_timeout=soon")
    assert done.code == 2
    assert '"soon" is no duration: write 500ms, 5s' in done.screen
    assert (at_05.processes(), at_05.versions()[-1]) == (processes, "05")


@pytest.mark.long
def test_an_unhealthy_application_is_no_start(at_05):
    at_05.stop_service("habitat:api2")
    done = at_05.run("migrate.yml")
    assert done.code == 2
    assert "the application is not healthy before the run" in done.screen
    assert at_05.versions()[-1] == "05"


@pytest.mark.long
def test_files_are_private(at_05):
    at_05.run("migrate.yml")
    for path in at_05.written():
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE((at_05.runtime / "backups").stat().st_mode) == 0o700
