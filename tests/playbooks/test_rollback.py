"""rollback.yml: the founding document's example done right, down migrations, restore points, refusals."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import manifest
from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import find_tools
from ansible_collections.habitat.runbook.plugins.module_utils.restore_comparison import compare

HISTORY = "public.schema_migrations_history"


class Writer:
    """A client that writes and reconnects fifty times a second, and remembers what it was told is committed.

    It is no superuser: the sessions of one could not be ended by the runbook's role.
    """

    def __init__(self, operator: Any) -> None:
        self.operator, self.acknowledged, self.stopping = operator, [], threading.Event()
        operator.execute("CREATE TABLE writes (id bigint); ALTER TABLE writes OWNER TO habitat")
        stack = operator.stack
        self.where = {"host": stack.host, "port": stack.port, "user": stack.owner, "password": stack.owner_password}
        self.where["dbname"] = "habitat"
        self.thread = threading.Thread(target=self._write)

    def _write(self) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            try:
                with psycopg.connect(**self.where, autocommit=True) as connection:
                    connection.execute("INSERT INTO writes VALUES (%s)", [number])
                    self.acknowledged.append(number)
            except psycopg.Error:
                time.sleep(0.01)
            time.sleep(0.02)

    def __enter__(self) -> Writer:
        self.thread.start()
        return self

    def __exit__(self, *nothing: object) -> None:
        self.stopping.set()
        self.thread.join()


def rows(operator: Any, database: str) -> set[int]:
    with operator.connect(database) as connection:
        return {number for (number,) in connection.execute("SELECT id FROM writes")}


def newest_backup(operator: Any) -> dict[str, Any]:
    return manifest.read(max((operator.runtime / "backups").glob("*.json")))


def differences(operator: Any, told: dict[str, Any]) -> list[str]:
    """What the live database has otherwise than the backup; its history goes on and is left out."""
    tables = {key: entry for key, entry in told["tables"].items() if key != HISTORY}
    with operator.connect() as connection:
        tools = find_tools(operator.stack.bin_dir, connection.info.server_version)
        found, _ = compare(connection, tools, dict(told, tables=tables), "habitat")
    return [line for line in found if HISTORY not in line]


def outcome(operator: Any) -> str:
    return operator.report()["outcome"]


def kept(operator: Any) -> list[str]:
    query = "SELECT datname FROM pg_database WHERE datname LIKE 'habitat\\_before\\_%' ORDER BY 1"
    return [name for (name,) in operator.query(query)]


def copies(operator: Any) -> list[str]:
    return [name for (name,) in operator.query("SELECT datname FROM pg_database WHERE datname ~ '^habitat_[a-z]+_2'")]


@pytest.fixture
def at_07(at_05) -> Iterator[Any]:
    """An operator whose database has members in it and was migrated from 05 to 07, the worker being stopped."""
    at_05.stop_service("habitat:worker")
    at_05.execute(
        "INSERT INTO members (display_name, email) SELECT 'm' || i, 'm' || i || '@x.org' FROM generate_series(1, 50) i"
    )
    at_05.execute("ALTER DATABASE habitat SET work_mem = '7MB'")
    yield at_05
    at_05.start_service("habitat:worker")


def test_the_founding_documents_example_done_right(at_07):
    with Writer(at_07) as writer:
        migrated = at_07.run("migrate.yml")
        assert migrated.code == 0, migrated.screen
        told = newest_backup(at_07)
        at_07.execute("UPDATE members SET email = 'corrupted' || email")
        at_07.execute("INSERT INTO writes SELECT -id FROM writes")
        at_07.execute("ALTER DATABASE habitat RESET work_mem")
        done = at_07.run("rollback.yml", "-e", "backup=latest")
    assert done.code == 0, done.screen
    (former,) = kept(at_07)
    before, now = rows(at_07, former), rows(at_07, "habitat")
    assert set(writer.acknowledged) <= before | now, "no acknowledged write is lost"
    later = now - {number for number in before if number > 0}
    at_07.execute(f"DELETE FROM writes WHERE id IN ({', '.join(map(str, later)) or '0'})")
    assert differences(at_07, told) == []
    assert at_07.versions() == ["01", "02", "03", "04", "05"]
    assert at_07.query("SELECT to_regclass('email_verifications')") == [(None,)]
    assert at_07.query("SHOW work_mem") == [("7MB",)]
    assert at_07.query("SELECT count(*) FROM pg_stats WHERE schemaname = 'public'")[0][0] > 0
    counted = re.search(r"public\.writes +\d+ +([0-9 ]+?)  ", done.screen[done.screen.index("LEFT OUT") :])
    assert f"kept as {former}" in done.screen
    assert counted, done.screen
    assert "VERIFY    schema_migrations is at 05" in done.screen
    with at_07.connect(former) as connection:
        assert connection.execute("SELECT count(*) FROM members WHERE email LIKE 'corrupted%'").fetchone() == (50,)
    assert set(at_07.services().values()) == {"RUNNING", "STOPPED"}
    assert outcome(at_07) == "succeeded"
    assert copies(at_07) == [former]
    history = at_07.query("SELECT event, version FROM schema_migrations_history ORDER BY at DESC LIMIT 3")
    assert history == [("restore", "05"), ("apply", "07"), ("apply", "06")]


@pytest.mark.long
def test_a_second_rollback_and_a_rollback_of_the_rollback(at_07):
    at_07.run("migrate.yml")
    backup = newest_backup(at_07)["id"]
    first = at_07.run("rollback.yml", "-e", "backup=latest")
    assert first.code == 0, first.screen
    second = at_07.run("rollback.yml", "-e", f"backup=backups/{backup}.dump")
    assert second.code == 0, second.screen
    assert f"from backup {backup}" in second.screen
    assert at_07.versions()[-1] == "05"
    oldest, _ = kept(at_07)
    back = at_07.run("rollback.yml", "-e", f"backup={oldest}")
    assert back.code == 0, back.screen
    assert at_07.versions()[-1] == "07"
    assert "migrations that come back: 06 security, 07 email_verifications" in back.screen
    assert len(kept(at_07)) == 2
    again = at_07.run("migrate.yml")
    assert "schema is at 07, nothing pending" in again.screen


@pytest.mark.long
def test_without_a_choice_it_lists_what_there_is_and_does_nothing(at_07):
    at_07.run("migrate.yml")
    backup = newest_backup(at_07)["id"]
    at_07.execute("INSERT INTO members (display_name, email) VALUES ('late', 'late@x.org')")
    before = at_07.written(), at_07.processes(), copies(at_07)
    done = at_07.run("rollback.yml")
    assert done.code == 2
    assert re.search(rf"{backup} .* 05 +restored, ", done.screen)
    assert f"ansible-playbook rollback.yml -e backup={backup}" in done.screen
    assert "ansible-playbook rollback.yml -e env=local -e to=06" in done.screen
    assert (at_07.written(), at_07.processes(), copies(at_07)) == before
    listed = at_07.run("rollback.yml", "-e", "output=json")
    data = json.loads(listed.screen[listed.screen.index("{") : listed.screen.rindex("}") + 1])
    assert data["backups"][0]["written"]["rows"] >= 1


@pytest.mark.long
def test_check_mode_shows_the_rollback_and_changes_nothing(at_07):
    at_07.run("migrate.yml")
    before = at_07.written(), at_07.processes(), copies(at_07), at_07.versions()
    for choice in ("backup=latest", "to=05"):
        done = at_07.run("rollback.yml", "--check", "--diff", "-e", choice)
        assert done.code == 0, done.screen
        assert "schema 07 -> 05" in done.screen
        assert "nothing was changed" in done.screen
        assert (at_07.written(), at_07.processes(), copies(at_07), at_07.versions()) == before


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (["backup=staging-20261122t100211z-k3f"], "is of environment staging"),
        (["backup=local-20261122t100211z-k3f"], "there is no backup local-20261122t100211z-k3f"),
        pytest.param(
            ["backup=pre-migration-20260210-100000"],
            "there is no backup pre-migration-20260210-100000",
            marks=pytest.mark.long,
        ),
        pytest.param(["backup=latest"], "there is no backup", marks=pytest.mark.long),
        (["backup=latest", "to=05"], "backup and to are both given"),
        (["to=99"], "05"),
        (["steps=0"], "expected a number from 1 to 999"),
        pytest.param(["steps=9"], "5", marks=pytest.mark.long),
        (["to=05", "accept_data_loss=maybe"], "known: true, false"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_touched(at_05, choice, words):
    before = at_05.processes(), copies(at_05), at_05.versions()
    done = at_05.run("rollback.yml", *[word for one in choice for word in ("-e", one)])
    assert done.code == 2
    assert "REFUSED" in done.screen
    assert words in done.screen
    assert "nothing was changed" in done.screen
    assert "Traceback" not in done.screen
    assert (at_05.processes(), copies(at_05), at_05.versions()) == before


@pytest.mark.long
def test_a_damaged_backup_is_refused_while_everything_is_up(at_05):
    at_05.run("playbooks/backup.yml")
    (dump,) = (at_05.runtime / "backups").glob("*.dump")
    raw = bytearray(dump.read_bytes())
    raw[len(raw) // 2] ^= 1
    dump.write_bytes(raw)
    before = at_05.processes(), copies(at_05)
    done = at_05.run("rollback.yml", "-e", f"backup={dump.stem}")
    assert done.code == 2
    assert f"is not the dump that the manifest of backup {dump.stem} describes" in done.screen
    assert "The services were not touched, the schema is at 05." in done.screen
    assert (at_05.processes(), copies(at_05)) == before


@pytest.mark.long
def test_down_migrations_ask_before_rows_go(at_07):
    at_07.run("migrate.yml")
    at_07.execute(
        "INSERT INTO email_verifications (member_id, email, token, expires_at) "
        "SELECT id, email, id::text, now() FROM members LIMIT 3"
    )
    processes = at_07.processes()
    done = at_07.run("rollback.yml", "-e", "to=05")
    assert done.code == 2
    assert "table public.email_verifications" in done.screen
    assert "add -e accept_data_loss=true" in done.screen
    assert (at_07.processes(), at_07.versions()[-1]) == (processes, "07")
    done = at_07.run("rollback.yml", "-e", "to=05", "-e", "accept_data_loss=true")
    assert done.code == 0, done.screen
    assert at_07.versions()[-1] == "05"
    assert at_07.query("SELECT to_regclass('email_verifications')") == [(None,)]
    assert (outcome(at_07), at_07.report()["schema"]) == ("succeeded", "07 -> 05")
    before = at_07.written()
    again = at_07.run("rollback.yml", "-e", "to=05")
    assert (again.code, set(again.changed.values())) == (0, {0})
    assert again.screen.splitlines()[0] == "local / habitat: schema is at 05, nothing to take back"
    assert at_07.written() == before


@pytest.mark.long
def test_a_down_that_fails_leaves_the_services_up(at_07):
    at_07.run("migrate.yml")
    at_07.write("08_a.sql", "CREATE TABLE a8 (id int);\nCREATE TABLE b8 (id int);\n-- Down migration\nDROP TABLE a8;")
    at_07.run("migrate.yml")
    done = at_07.run("rollback.yml", "-e", "steps=1")
    assert done.code == 2
    assert "does not bring the schema back" in done.screen
    assert "ansible-playbook rollback.yml -e env=local -e backup=latest" in done.screen
    assert (outcome(at_07), at_07.versions()[-1]) == ("stopped_safe", "08")
    assert at_07.services()["habitat:api1"] == "RUNNING"


@pytest.mark.long
def test_a_failure_with_something_committed_is_put_back(at_07):
    at_07.write("07_email_verifications.sql", "-- Up migration\nCREATE TABLE broken (id int REFERENCES nowhere(id));\n")
    done = at_07.run("migrate.yml")
    assert done.code == 2
    assert "if health fails: the restore point is put back, the services start on schema 05" in done.screen
    assert "RESULT    ROLLED BACK   schema 05" in done.screen
    assert at_07.versions()[-1] == "05"
    assert at_07.query("SHOW work_mem") == [("7MB",)]
    assert outcome(at_07) == "rolled_back"
    (former,) = copies(at_07)
    assert former in done.screen
    with at_07.connect(former) as connection:
        assert connection.execute("SELECT max(version) FROM schema_migrations").fetchone() == ("06",)
    assert at_07.services()["habitat:api1"] == "RUNNING"


@pytest.mark.long
def test_failing_health_is_put_back_and_what_was_written_meanwhile_is_kept(at_07):
    # The application cannot connect any more; the owner still can, and is told that its write is committed.
    at_07.write("08_break.sql", "REVOKE CONNECT ON DATABASE habitat FROM PUBLIC;\n-- Down migration\nSELECT 1;")
    with Writer(at_07) as writer:
        done = at_07.run("migrate.yml", "-e", '{"habitat_health_deadline": 20}')
    assert done.code == 2, done.screen
    assert outcome(at_07) == "rolled_back"
    assert at_07.versions()[-1] == "05"
    assert "The services are up and healthy" in done.screen
    (former,) = kept(at_07)
    assert set(writer.acknowledged) <= rows(at_07, former) | rows(at_07, "habitat")
    counted = re.search(r"LEFT OUT +([0-9 ]+) rows? (?:is|are) in (\S+) only", done.screen)
    assert counted, done.screen
    assert counted[2] == former
    assert int(counted[1].replace(" ", "")) >= 10


@pytest.mark.long
def test_a_restore_point_that_is_insisted_on_is_missed_before_anything_is_touched(at_05):
    processes = at_05.processes()
    done = at_05.run("migrate.yml", "-e", "habitat_on_partial=restore", "-e", "habitat_restore_point_budget=0")
    assert done.code == 2
    assert "no restore point can be taken: it would take about" in done.screen
    assert (at_05.processes(), at_05.versions()[-1]) == (processes, "05")


@pytest.mark.long
def test_a_restore_point_is_shown_kept_and_removed_by_policy(at_05):
    done = at_05.run("migrate.yml", "-e", "target=06", "-e", "habitat_restore_point_keep=always")
    assert done.code == 0, done.screen
    (point,) = copies(at_05)
    status = at_05.run("playbooks/status.yml")
    assert re.search(rf"COPIES +{point} .* restore point", status.screen)
    assert re.search(r"HISTORY +\S+ \S+ +apply +06", status.screen)
    back = at_05.run("rollback.yml", "-e", f"backup={point}", "--check")
    assert "schema 06 -> 05, from copy" in back.screen
    assert at_05.run("migrate.yml").code == 0
    assert copies(at_05) == []


@pytest.mark.long
def test_no_secret_reaches_the_screen_or_a_file(at_07: Any):
    at_07.run("migrate.yml")
    done = at_07.run("rollback.yml", "-e", "backup=latest", "-vvvv")
    assert done.code == 0, done.screen[-3000:]
    password = at_07.stack.owner_password
    assert password not in done.screen
    files = [path for path in at_07.written() if isinstance(path, Path) and path.is_file()]
    assert all(password.encode() not in path.read_bytes() for path in files)


@pytest.mark.long
def test_back_to_an_empty_database(operator):
    migrated = operator.run("migrate.yml", "-e", "target=02")
    assert migrated.code == 0, migrated.screen
    done = operator.run("rollback.yml", "-e", "backup=latest")
    assert done.code == 0, done.screen
    assert "schema 02 -> empty" in done.screen
    assert "VERIFY    the schema is empty" in done.screen
    query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'S')"
    own = {("schema_migrations_history",), ("schema_migrations_environment",)}
    assert set(operator.query(query)) == own
    assert operator.run("migrate.yml", "-e", "target=02").code == 0


@pytest.mark.long
def test_grants_settings_comment_limit_and_another_owner_come_back(at_07):
    at_07.execute("CREATE ROLE keeper; GRANT keeper TO habitat")
    try:
        at_07.execute(
            "ALTER DATABASE habitat OWNER TO keeper; REVOKE CONNECT ON DATABASE habitat FROM PUBLIC; "
            "GRANT CONNECT ON DATABASE habitat TO habitat, habitat_app; COMMENT ON DATABASE habitat IS 'don''t touch'; "
            'ALTER DATABASE habitat CONNECTION LIMIT 50; ALTER DATABASE habitat SET search_path = "$user", public'
        )
        query = """SELECT ARRAY(SELECT acl::text FROM unnest(datacl) acl ORDER BY 1), datconnlimit,
                   pg_get_userbyid(datdba), shobj_description(oid, 'pg_database'),
                   ARRAY(SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setdatabase = oid AND setrole = 0 ORDER BY 1)
                   FROM pg_database WHERE datname = current_database()"""
        before = at_07.query(query)
        assert at_07.run("migrate.yml").code == 0
        at_07.execute("ALTER DATABASE habitat SET work_mem = '1GB'; COMMENT ON DATABASE habitat IS 'touched'")
        done = at_07.run("rollback.yml", "-e", "backup=latest")
        assert done.code == 0, done.screen
        assert "work_mem" in done.screen
        assert at_07.query(query) == before
    finally:
        at_07.execute("ALTER DATABASE habitat OWNER TO habitat")
        for name in kept(at_07):
            at_07.execute(f'ALTER DATABASE "{name}" OWNER TO habitat')
        at_07.execute("DROP OWNED BY keeper")
        at_07.execute("DROP ROLE keeper")
