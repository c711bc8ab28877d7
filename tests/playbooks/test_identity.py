"""A database of another environment, a backup that is brought in from one, and what the run's role could not restore."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.copies import list_copies

from demo.embedded import postgres
from tests.integration.module_process import run as run_module

IDENTITY = "SELECT environment, reason FROM schema_migrations_environment"
BACKUP = "production-20261122t100211z-k3f"


def state(operator) -> tuple:
    with operator.connect("postgres") as connection:
        copies = [copy.name for copy in list_copies(connection, "habitat")]
    backups = sorted(path.name for path in (operator.runtime / "backups").glob("*"))
    return operator.processes(), operator.versions(), copies, backups


def call(operator, env: str) -> None:
    operator.execute(f"UPDATE schema_migrations_environment SET environment = '{env}'")


def test_migrating_tells_the_database_its_environment_and_another_one_is_refused(at_05):
    assert at_05.query(IDENTITY) == [("local", None)]
    call(at_05, "production")
    before = state(at_05)
    done = at_05.run("migrate.yml")
    assert done.code == 2, done.screen
    assert "REFUSED   the database says it is production, env is local" in done.screen
    assert "point the inventory of local at its own database" in done.screen
    assert state(at_05) == before
    assert at_05.report()["outcome"] == "refused"


@pytest.mark.long
@pytest.mark.parametrize(
    "typed",
    [
        ("playbooks/plan.yml",),
        ("playbooks/backup.yml",),
        ("playbooks/baseline.yml", "-e", "to=05"),
        ("rollback.yml", "-e", "backup=latest"),
        ("rollback.yml", "-e", "steps=1"),
    ],
)
def test_every_verb_refuses_a_database_of_another_environment(at_05, typed):
    assert at_05.run("playbooks/backup.yml").code == 0
    call(at_05, "production")
    before = state(at_05)
    done = at_05.run(*typed)
    assert done.code == 2, done.screen
    assert "the database says it is production, env is local" in done.screen
    assert state(at_05) == before


@pytest.mark.long
def test_a_production_backup_is_adopted_by_name_and_with_a_reason(at_05):
    call(at_05, "production")
    at_05.execute("CREATE TABLE only_in_production ()")
    at_05.execute("ALTER TABLE only_in_production OWNER TO habitat")
    stack = at_05.stack
    connection = {"login_unix_socket": str(stack.socket_folder), "login_port": stack.port, "login_db": "habitat"}
    folder = {"backup_dir": str(at_05.runtime / "backups"), "bin_dir": str(postgres.BIN)}
    run_id = BACKUP.removeprefix("production-")
    taken = run_module(
        "database_backup", login_user=stack.superuser, env="production", run_id=run_id, **connection, **folder
    )
    assert not taken.get("failed"), taken
    at_05.execute("DROP TABLE only_in_production")
    call(at_05, "local")
    before = state(at_05)
    done = at_05.run("rollback.yml", "-e", f"backup={BACKUP}")
    assert done.code == 2
    assert f"backup {BACKUP} is of environment production" in done.screen
    assert '-e adopt_identity=local -e reason="..."' in done.screen
    assert state(at_05) == before
    adopting = ("-e", f"backup={BACKUP}", "-e", "adopt_identity=local", "-e", "reason=ticket 4711, slow query")
    done = at_05.run("rollback.yml", "--check", *adopting)
    assert done.code == 0, done.screen
    assert "ADOPTS a database of production" in done.screen
    assert state(at_05) == before
    done = at_05.run("rollback.yml", *adopting)
    assert done.code == 0, done.screen
    assert "ADOPTS a database of production: it becomes local's" in done.screen
    assert (
        "ADOPTED   this database was production's and is local's now   reason: ticket 4711, slow query" in done.screen
    )
    assert at_05.query(IDENTITY) == [("local", "ticket 4711, slow query")]
    assert at_05.query("SELECT to_regclass('only_in_production') IS NOT NULL") == [(True,)]
    assert at_05.query("SELECT count(*) FROM schema_migrations_history WHERE event = 'adopt'") == [(1,)]
    assert at_05.report()["adopts"] == {"from": "production", "to": "local", "reason": "ticket 4711, slow query"}
    assert "ADOPTED" in next(at_05.reports.glob("*/report.md")).read_text()


@pytest.mark.long
@pytest.mark.parametrize("proof", ["restore", "read"])
def test_what_the_role_could_not_restore_is_said_before_anything_starts(at_05, proof):
    at_05.execute("CREATE FUNCTION audit() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'")
    at_05.execute("ALTER FUNCTION audit() OWNER TO habitat")
    at_05.execute("CREATE EVENT TRIGGER audit ON ddl_command_end EXECUTE FUNCTION audit()")
    before = state(at_05)
    done = at_05.run("migrate.yml", "-e", f"habitat_backup_proof={proof}")
    assert "role habitat cannot restore what the backup would hold: event trigger audit" in done.screen
    assert done.code == (2 if proof == "restore" else 0), done.screen
    assert (state(at_05) == before) == (proof == "restore")
