"""The other verbs: plan, status, backup, baseline."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.playbooks.conftest import LOCKS


def test_plan_as_table_and_as_json(at_05):
    shown = at_05.run("playbooks/plan.yml")
    assert shown.code == 0
    assert "PLAN      2 pending, schema 05 -> 07" in shown.screen
    assert "services to stop: habitat:api1, habitat:api2, habitat:worker" in shown.screen
    assert set(shown.changed.values()) == {0}
    data = json.loads(at_05.run("playbooks/plan.yml", "-e", "output=json", "-e", "target=06").screen)
    assert [one["version"] for one in data["pending"]] == ["06"]
    assert data["pending"][0]["down"]["state"] == "ok"


@pytest.mark.long
def test_plan_names_broken_downs_and_refusals(at_05):
    at_05.write("08_odd.sql", "CREATE TABLE odd (id int);\n-- Down migration\n-- drop it by hand, see the wiki\n")
    shown = at_05.run("playbooks/plan.yml")
    assert shown.code == 0, shown.screen
    assert "schema/08_odd.sql:3" in shown.screen
    at_05.write("02_people_core.sql", "CREATE TABLE members (id int);\n")
    refused = at_05.run("playbooks/plan.yml")
    assert refused.code == 2
    assert "schema/02_people_core.sql was changed after it was applied" in refused.screen


def test_status_as_table_and_as_json(at_05):
    at_05.run("migrate.yml", "-e", "target=06")
    shown = at_05.run("playbooks/status.yml")
    assert shown.code == 0
    first = shown.screen.splitlines()[0]
    assert first == "local / habitat   schema 06   API healthy"
    assert "06       security             applied" in shown.screen
    assert "07       email_verifications  pending" in shown.screen
    assert "LOCK      free" in shown.screen
    assert "BACKUPS   local-" in shown.screen
    assert "schema 05  verified, " in shown.screen
    assert "NEXT      ansible-playbook migrate.yml -e env=local" in shown.screen
    data = json.loads(at_05.run("playbooks/status.yml", "-e", "output=json").screen)
    assert data["current"] == "06"
    assert data["healthy"] is True
    assert data["last_run"]["outcome"] == "succeeded"


@pytest.mark.long
def test_status_of_stopped_services_says_so(at_05):
    at_05.stop_service("habitat:")
    shown = at_05.run("playbooks/status.yml")
    assert shown.code == 0
    assert "services DOWN" in shown.screen


def test_backup_alone(at_05):
    predicted = at_05.run("playbooks/backup.yml", "--check")
    assert predicted.code == 0, predicted.screen
    assert not (at_05.runtime / "backups").exists()
    done = at_05.run("playbooks/backup.yml")
    assert done.code == 0, done.screen
    assert "BACKUP    local-" in done.screen
    assert done.changed == predicted.changed
    assert len(list((at_05.runtime / "backups").glob("*.dump"))) == 1
    assert at_05.query(LOCKS) == [(0,)]


@pytest.mark.long
def test_baseline_of_a_database_without_a_ledger(at_05):
    at_05.execute("DROP TABLE schema_migrations, schema_migrations_progress")
    refused = at_05.run("migrate.yml")
    assert refused.code == 2
    assert "playbooks/baseline.yml -e env=local -e to=07" in refused.screen
    predicted = at_05.run("playbooks/baseline.yml", "-e", "to=05", "--check")
    assert at_05.versions() == []
    done = at_05.run("playbooks/baseline.yml", "-e", "to=05")
    assert done.code == 0, done.screen
    assert "BASELINE  01, 02, 03, 04, 05 recorded without being run; the schema is at 05" in done.screen
    assert done.changed == predicted.changed
    again = at_05.run("playbooks/baseline.yml", "-e", "to=05")
    assert (again.code, set(again.changed.values())) == (0, {0})
    assert at_05.versions() == ["01", "02", "03", "04", "05"]
    assert at_05.query("SELECT has_table_privilege('habitat_app', 'schema_migrations', 'INSERT')") == [(False,)]
    assert at_05.run("migrate.yml").code == 0


@pytest.mark.long
def test_the_table_of_the_founding_document(operator):
    """A database that was kept by hand: two columns, rows by hand, migrated on from there."""
    shutil.rmtree(operator.schema)
    operator.schema.mkdir()
    operator.execute(
        "CREATE TABLE schema_migrations (version varchar(255) PRIMARY KEY, applied_at timestamptz DEFAULT now())"
    )
    operator.execute("ALTER TABLE schema_migrations OWNER TO habitat; GRANT SELECT ON schema_migrations TO habitat_app")
    operator.execute("INSERT INTO schema_migrations (version) VALUES ('01')")
    operator.write("01_first.sql", "SELECT 1;")
    operator.write("02_second.sql", "CREATE TABLE second (id int);")
    done = operator.run("migrate.yml")
    assert done.code == 0, done.screen
    assert operator.versions() == ["01", "02"]
    shown = operator.run("playbooks/status.yml").screen
    assert "01       first   by hand" in shown
