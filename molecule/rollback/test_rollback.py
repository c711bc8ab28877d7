"""What a run leaves when it fails, and the ways back. The tests go on from each other, in this order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from demo import stack

from stand.killing import kill
from stand.targets import COMPOSE_FILE, Target, set_variables, sh
from stand.terminal import Terminal, Typed, until

MIGRATE = "ansible-playbook migrate.yml -e env=staging"
ROLLBACK = "ansible-playbook rollback.yml -e env=staging"

FAILS = """
CREATE TABLE half_made (id int);
DELETE FROM treasury_accounts a WHERE NOT EXISTS (SELECT FROM contributions c WHERE c.account_id = a.id);
UPDATE members SET display_name = 'changed';
SELECT 1 / 0;
"""
UNHEALTHY = """
UPDATE members SET display_name = 'changed';
REVOKE USAGE ON SCHEMA public FROM PUBLIC, habitat_app;
"""
# What is written meanwhile is seen by the last statement, since each has a snapshot of its own.
_WRITTEN = (
    "(SELECT count(*) FROM events), (SELECT count(*) FROM members), (SELECT max(refreshed_at) FROM contribution_totals)"
)
UNTIL_LET_GO = "DO $$BEGIN WHILE EXISTS (SELECT FROM shut) LOOP PERFORM pg_sleep(0.1); END LOOP; END$$"
SLOW = f"""
CREATE TABLE written_{{0}} AS SELECT * FROM (SELECT {_WRITTEN}) AS found (events, members, refreshed);
{{1}};
INSERT INTO written_{{0}} SELECT {_WRITTEN};
"""


@contextmanager
def migration(folder: Path, name: str, text: str) -> Iterator[None]:
    """One more file in schema/ as long as the block runs."""
    path = folder / "schema" / name
    path.write_text(f"-- Migration: {name}\n-- Up migration\n{text}")
    yield
    path.unlink()


def kept(target: Target) -> list[str]:
    """Databases kept from before a swap."""
    return [name for name in target.databases() if name.startswith("habitat_before_")]


def new_member(target: Target, name: str) -> tuple[int, Any]:
    return target.ask("POST", "/api/members", {"email": f"{name}@example.org", "display_name": name})


def test_a_migration_that_fails_is_rolled_back(terminal: Terminal, target: Target, folder: Path) -> None:
    containers, digests = target.containers(), target.digests()
    with migration(folder, "08_fails.sql", FAILS):
        typed = terminal.type(MIGRATE)
    assert typed.code == 2
    assert "08_fails.sql" in typed.screen and "division by zero" in typed.screen
    assert "RESULT    STOPPED, SAFE   schema 07" in typed.screen
    assert target.versions()[-1] == "07"
    assert target.psql("SELECT to_regclass('half_made')") == [""]
    assert target.digests() == digests
    assert target.containers() == containers and target.healthy()
    assert kept(target) == [] and target.ours_running() == []


def test_an_unhealthy_application_gets_its_schema_back(terminal: Terminal, target: Target, folder: Path) -> None:
    containers, digests = target.containers(), target.digests()
    with migration(folder, "08_unhealthy.sql", UNHEALTHY):
        typed = terminal.type(MIGRATE)
    assert typed.code == 2
    assert "permission denied for schema public" in typed.screen, "what the application's log says"
    assert "RESULT    ROLLED BACK   schema 07" in typed.screen
    assert target.versions()[-1] == "07" and target.digests() == digests
    assert target.containers() == containers and target.healthy()
    (former,) = kept(target)
    assert target.psql("SELECT DISTINCT display_name FROM members", former) == ["changed"]
    assert target.ours_running() == []


def test_a_backup_is_put_back_and_the_former_database_kept(terminal: Terminal, target: Target) -> None:
    containers, digests, others = target.containers(), target.digests(), kept(target)
    assert new_member(target, "late")[0] == 201
    written = target.digests()
    typed = terminal.type(f"{ROLLBACK} -e backup=latest")
    assert typed.code == 0
    assert "equal to the backup's snapshot" in typed.screen
    chosen = next(line for line in typed.screen.splitlines() if line.startswith("ROLLBACK")).split("from backup ")[1]
    manifest = json.loads(sh("docker", "exec", target.node, "cat", f"/var/backups/habitat/{chosen.split()[0]}.json"))
    assert target.digests() == digests
    for table, digest in digests.items():
        assert int(digest.split("|")[0]) == manifest["tables"][f"public.{table}"]["rows"], table
    assert target.psql("SELECT count(*) FROM members WHERE display_name = 'late'") == ["0"]
    (former,) = set(kept(target)) - set(others)
    assert target.digests(former) == written
    assert target.containers() == containers and target.healthy()
    assert target.ours_running() == []


def test_down_migrations_go_back_to_a_version(terminal: Terminal, target: Target) -> None:
    if target.versions()[-1] == "05":
        assert terminal.type(MIGRATE).code == 0
    containers, digests, others = target.containers(), target.digests(), kept(target)
    typed = terminal.type(f"{ROLLBACK} -e to=05")
    assert typed.code == 0
    assert "RESULT    SUCCEEDED   schema 07 -> 05" in typed.screen
    assert target.versions()[-1] == "05" and target.digests() == digests
    assert target.psql("SELECT to_regclass('email_verifications')") == [""]
    assert target.containers() == containers and target.healthy() and kept(target) == others


def asleep(target: Target) -> bool:
    """Whether the slow migration is in the middle."""
    return bool(target.psql("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'", "postgres"))


def in_window(typed: Typed, target: Target) -> None:
    """Wait until the slow migration sleeps."""
    until(lambda: typed.code is not None or asleep(target), "the migration sleeps")
    assert typed.code is None, typed.screen


def started_by_hand(target: Target, service: str) -> None:
    sh("docker", "start", target.containers()[service])


def started_by_policy(target: Target, service: str) -> None:
    """Kill the container's process 1 from the host; Docker's restart policy starts it again."""
    pid = int(target.state(service, "Pid"))
    kill(pid)
    until(lambda: target.state(service, "Pid") not in ("0", str(pid)), f"{service} is started again")


def refused_writes(target: Target, name: str) -> int:
    """How the API answers an attempt to write, as soon as it answers at all."""
    return until(lambda: new_member(target, name)[0], "the API answers")


def test_services_that_start_in_the_window_write_nothing(terminal: Terminal, target: Target, folder: Path) -> None:
    (folder / "schema/08_slow.sql").write_text(SLOW.format("a", UNTIL_LET_GO))
    target.psql("SET ROLE habitat_owner; CREATE TABLE shut AS SELECT 1 AS it")
    typed = terminal.start(MIGRATE)
    in_window(typed, target)
    for service in ("api", "worker"):
        started_by_hand(target, service)
    answers = [refused_writes(target, "hand")]
    for service in ("api", "worker"):
        started_by_policy(target, service)
    answers.append(refused_writes(target, "policy"))
    # Not TRUNCATE, which would wait for the migration's own lock.
    target.psql("DELETE FROM shut")
    typed.wait()
    assert typed.code == 0, typed.screen
    assert answers == [503, 503]
    begin, end = target.psql("SELECT * FROM written_a")
    assert begin == end
    assert new_member(target, "after")[0] == 201
    assert target.ours_running() == []


def test_a_shared_superuser_is_kept_out_by_ending_its_sessions(
    terminal: Terminal, target: Target, folder: Path
) -> None:
    settings = stack.settings(target.folder)
    shared = {**settings, "HABITAT_APP_USER": "habitat", "HABITAT_APP_PASSWORD": settings["POSTGRES_PASSWORD"]}
    (target.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in shared.items()))
    sh("docker", "compose", "-f", COMPOSE_FILE, "up", "--detach", "api", "worker", cwd=target.folder)
    # Without a password, too: it is found in the database's container.
    set_variables(folder, habitat_writer_roles=["habitat"], habitat_postgres={"login_user": "habitat"})
    until(target.healthy, "the API is healthy")
    with migration(folder, "09_slow.sql", SLOW.format("b", "SELECT pg_sleep(5)")):
        typed = terminal.start(MIGRATE)
        in_window(typed, target)
        started_by_hand(target, "api")
        typed.wait()
    assert typed.code == 0, typed.screen
    assert "in the window its sessions are ended again and again, which is weaker" in typed.screen
    assert target.versions()[-1] == "09" and target.healthy()
    assert target.ours_running() == []
