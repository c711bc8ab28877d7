"""A database knows of which environment it is: told by the first run, carried by backups and copies, adopted on demand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import (
    catalog,
    copies,
    dump,
    engine,
    history,
    identity,
    ledger,
    loss_counts,
    way_back,
)
from ansible_collections.habitat.runbook.plugins.module_utils import manifest as manifests
from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import find_tools
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.put_back import put_back
from ansible_collections.habitat.runbook.plugins.module_utils.restore import restore_backup
from ansible_collections.habitat.runbook.plugins.module_utils.written_since import count_written

from demo.embedded import postgres
from tests.integration.module_process import run as run_module

RUN_ID = "20261122t100251z-k3f"
STAGING = Run(RUN_ID, "alice", environment="staging")
PRODUCTION = replace(STAGING, environment="production")
HOW = dump.How(bin_dir=str(postgres.BIN), proof=manifests.READ)
SELECT = "SELECT environment, set_by, reason FROM schema_migrations_environment"


def apply(workshop, who=STAGING, target=None) -> engine.Outcome:
    versions = [state.version for state in workshop.compare().pending(target)]
    return engine.apply(workshop.connect(), workshop.connect, str(workshop.bundle), versions, who)


def test_the_first_run_that_changes_the_database_tells_it(workshop):
    workshop.write(m01_a="CREATE TABLE a ();", m02_b="CREATE TABLE b ();")
    apply(workshop, replace(STAGING, environment=""), target="01")
    with workshop.connect() as connection:
        assert identity.read(connection) is None
    assert apply(workshop).failure is None
    assert workshop.query(SELECT) == [("staging", "alice", None)]
    with workshop.connect() as connection:
        assert identity.ensure(connection, "production", "bob") is False
        assert ledger.ensure_ledger(connection, PRODUCTION) is False
        assert identity.read(connection) == "staging"


def test_it_has_one_row_and_is_the_ledgers_own(workshop, cluster, database):
    workshop.write(m01_a="CREATE TABLE a ();")
    workshop.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO PUBLIC")
    with workshop.connect() as connection:
        before = catalog.read_catalog(connection)
        identity.write(connection, "staging", "alice")
        assert catalog.read_catalog(connection) == before
        assert loss_counts.relations(connection) == []
        assert ledger.read_ledger(connection)["objects"] == 0
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO schema_migrations_environment VALUES ('x', now(), 'bob')")
        acl = "SELECT relacl::text FROM pg_class WHERE relname = 'schema_migrations_environment'"
        assert "=arwd" not in connection.execute(acl).fetchone()[0].replace("postgres=arwd", "")
    assert apply(workshop).failure is None


def test_who_may_not_read_it_is_told_nothing(cluster, database, connection):
    identity.write(connection, "staging", "alice")
    connection.execute("CREATE ROLE identity_reader LOGIN")
    try:
        with cluster.connect(database, user="identity_reader") as reader:
            assert identity.read(reader) is None
    finally:
        connection.execute("DROP ROLE identity_reader")


def test_a_table_of_that_name_that_is_not_ours_says_nothing(connection):
    connection.execute("CREATE TABLE schema_migrations_environment (name text)")
    assert identity.read(connection) is None


def test_a_run_of_another_environment_is_refused(workshop):
    workshop.write(m01_a="CREATE TABLE a ();")
    apply(workshop, PRODUCTION)
    whats = [refusal.what for refusal in workshop.compare().refusals]
    assert whats == ["the database says it is production, env is local"]


class Two:
    """A production backup in the folder of staging, whose database is another one."""

    def __init__(self, cluster, database, folder) -> None:
        self.cluster, self.database, self.folder = cluster, database, folder
        self.foreign = f"{database}_prod"
        self.id = f"production-{RUN_ID}"
        with cluster.connect() as admin:
            admin.execute(f"CREATE DATABASE {self.foreign} TEMPLATE template0")
            self.tools = find_tools(str(postgres.BIN), admin.info.server_version)
        for name, who in ((self.foreign, PRODUCTION), (database, STAGING)):
            with cluster.connect(name) as session:
                ledger.ensure_ledger(session, who)
                session.execute(f"CREATE TABLE t AS SELECT '{who.environment}'::text AS rows_of")

    def connect(self, name: str) -> psycopg.Connection:
        return self.cluster.connect(name)

    def take(self, name: str | None = None, env: str = "production") -> dict:
        """Taken on production's host, then copied to staging's."""
        with self.connect(name or self.foreign) as session:
            return dump.take_backup(session, self.folder / "there", env, RUN_ID, "bob", HOW).manifest

    def copy_over(self) -> None:
        here = self.folder / "here"
        here.mkdir(mode=0o700)
        for path in (self.folder / "there").glob(f"{self.id}.[dj]*"):
            shutil.copyfile(path, here / path.name)

    def choose(self, **changes) -> dict:
        given = {
            "login_db": self.database, "env": "staging", "run_id": RUN_ID, "backup": self.id, "room": "not known",
            "backup_dir": str(self.folder / "here"), "bin_dir": str(postgres.BIN), "programs_in": None,
            "adopt_identity": None, "reason": None,
        }  # fmt: skip
        with self.connect(self.database) as session:
            return way_back.choose(session, self.connect, {**given, **changes})

    def restored(self, manifest: dict) -> str:
        name = copies.copy_name(self.database, copies.RESTORE, RUN_ID)
        dumped = self.folder / "here" / f"{self.id}.dump"
        with self.connect("postgres") as admin:
            done = restore_backup(admin, self.connect, self.tools, dumped, manifest, name)
        assert done.differences == []
        return name


ADOPTING = {"adopt_identity": "staging", "reason": "ticket 4711"}


@pytest.fixture
def two(cluster, database, tmp_path):
    made = Two(cluster, database, tmp_path)
    yield made
    with cluster.connect() as admin:
        for copy in copies.list_copies(admin, database):
            admin.execute(f'DROP DATABASE "{copy.name}" WITH (FORCE)')
        admin.execute(f"DROP DATABASE IF EXISTS {made.foreign} WITH (FORCE)")


def whats(found: dict) -> list[str]:
    return [refusal["what"] for refusal in found["refusals"]]


def test_a_production_backup_is_refused_in_staging_unless_it_is_adopted(two):
    told = two.take()
    assert told["database"]["environment"] == "production"
    two.copy_over()
    assert [one.verified for one in manifests.list_backups(two.folder / "here")] == [True]
    found = two.choose()
    assert whats(found) == [f"backup {two.id} is of environment production, not of staging"]
    assert found["source"] is None
    found = two.choose(**ADOPTING)
    assert whats(found) == []
    assert found["adopts"] == {"from": "production", "to": "staging", "reason": "ticket 4711"}


def test_adopting_is_in_the_database_and_in_its_history(two):
    told = two.take()
    two.copy_over()
    name = two.restored(told)
    put_back(two.connect, two.database, name, STAGING, two.id, "production", "ticket 4711")
    with two.connect(two.database) as session:
        assert session.execute("SELECT rows_of FROM t").fetchall() == [("production",)]
        assert session.execute(SELECT).fetchall() == [("staging", "alice", "ticket 4711")]
        query = f"SELECT event, operator, detail FROM {history.TABLE} ORDER BY at"
        (adopt, restored) = session.execute(query).fetchall()
        assert adopt == (
            "adopt",
            "alice",
            {"source": two.id, "from": "production", "to": "staging", "reason": "ticket 4711"},
        )
        assert restored[0] == "restore"
        # Typed again, "latest" means the same backup as before.
        assert history.last_commit(session) is None


def test_a_copy_of_another_environment_is_not_swapped_in_by_mistake(two):
    told = two.take()
    two.copy_over()
    name = two.restored(told)
    with pytest.raises(BackupError, match="the database says it is production, env is staging; nothing was swapped"):
        put_back(two.connect, two.database, name, STAGING, two.id)
    with two.connect(two.database) as session:
        assert session.execute("SELECT rows_of FROM t").fetchall() == [("staging",)]


def test_a_swap_that_fails_adopts_nothing(two, monkeypatch):
    told = two.take()
    two.copy_over()
    name = two.restored(told)
    with two.connect("postgres") as admin:
        admin.execute(f'CREATE DATABASE "{copies.copy_name(two.database, copies.BEFORE, RUN_ID)}"')
    with pytest.raises(BackupError):
        put_back(two.connect, two.database, name, STAGING, two.id, "production", "ticket 4711")
    with two.connect(name) as session:
        assert identity.read(session) == "production"


def test_what_has_no_identity_gets_the_one_of_the_run(two):
    with two.connect(two.foreign) as session:
        session.execute(f"DROP TABLE {identity.TABLE}")
    told = two.take()
    assert told["database"]["environment"] is None
    two.copy_over()
    assert whats(two.choose()) == [f"backup {two.id} is of environment production, not of staging"]
    put_back(two.connect, two.database, two.restored(told), STAGING, two.id)
    with two.connect(two.database) as session:
        assert session.execute(SELECT).fetchall() == [("staging", "alice", None)]


def test_a_manifest_cannot_say_otherwise_than_the_dump(two):
    told = two.take()
    two.copy_over()
    told["database"]["environment"] = "staging"
    name = copies.copy_name(two.database, copies.RESTORE, RUN_ID)
    with two.connect("postgres") as admin:
        dumped = two.folder / "here" / f"{two.id}.dump"
        done = restore_backup(admin, two.connect, two.tools, dumped, told, name)
    assert done.differences == ["the backup is of a database that says it is staging, this one says production"]


def test_the_live_database_is_asked_first(two):
    two.take()
    two.copy_over()
    with two.connect(two.database) as session:
        identity.write(session, "production", "bob")
    assert whats(two.choose(**ADOPTING)) == ["the database says it is production, env is staging"]


def test_a_kept_copy_is_asked_as_well(two):
    kept = copies.copy_name(two.database, copies.BEFORE, RUN_ID)
    with two.connect("postgres") as admin:
        admin.execute(f'CREATE DATABASE "{kept}" TEMPLATE {two.foreign}')
    assert whats(two.choose(backup=kept)) == [f"copy {kept} is of environment production, not of staging"]
    assert two.choose(backup=kept, **ADOPTING)["adopts"]["from"] == "production"
    with two.connect(kept) as session:
        identity.write(session, "staging", "bob")
    found = two.choose(backup=kept, **ADOPTING)
    assert (whats(found), found["adopts"]) == ([], None)
    assert f"adopt_identity is not needed, {kept} is of staging already" in found["notes"]


def test_what_the_server_lacks_is_said_before_anything_is_done(two):
    told = two.take()
    two.copy_over()
    told["database"]["owner"] = "prod_owner"
    told["pg_dump_version"] = "99.1"
    (two.folder / "here" / f"{two.id}.json").write_text(json.dumps(told))
    found = two.choose(**ADOPTING)
    assert whats(found) == [
        f"pg_restore {two.tools.version} cannot read a dump by pg_dump 99.1",
        "the backup needs roles that are not there: prod_owner",
    ]
    assert [refusal["next"] for refusal in found["refusals"]] == [
        "install the client programs of PostgreSQL 99 or set habitat_pg_bin",
        'CREATE ROLE "prod_owner"',
    ]


def test_its_own_tables_are_not_counted_as_written(two):
    told = two.take(two.database, "staging")
    with two.connect(two.database) as session:
        session.execute(f"UPDATE {identity.TABLE} SET reason = 'x'")
        assert count_written(session, [told])[0].tables == []


def test_a_backup_by_another_environment_is_refused(cluster, database, connection, tmp_path):
    identity.write(connection, "production", "bob")
    options = {"login_db": database, "login_unix_socket": str(cluster.folder), "login_user": "postgres", "env": "local"}
    more = {"run_id": RUN_ID, "backup_dir": str(tmp_path / "backups"), "bin_dir": str(postgres.BIN)}
    for check in (True, False):
        answer = run_module("database_backup", check, **options, **more)
        assert answer["failed"]
        assert answer["msg"].startswith("the database says it is production, env is local; point the inventory")
    assert not (tmp_path / "backups").exists()
