"""A bench for backups that are restored into new databases."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import client_programs, dump, restore
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import READ, BackupError, quoted

from demo.embedded import postgres
from tests.waiting import wait_for

BIN = str(postgres.BIN)
# Of its own in every test process: sessions and processes are looked for by it.
RUN = f"20261122t100231z-{os.environ.get('PYTEST_XDIST_WORKER', 'k3f')[:3]}"
ID = f"local-{RUN}"
HOW = dump.How(bin_dir=BIN, proof=READ)


class Bench:
    """Takes a backup of one database and restores it into another, as one role."""

    def __init__(self, cluster, folder: Path, database: str) -> None:
        self.cluster, self.folder, self.database = cluster, folder, database
        self.copy = f'{database} "Copy"'
        self.user = "postgres"
        with cluster.connect() as session:
            self.tools = client_programs.find_tools(BIN, session.info.server_version)

    def connect(self, name: str) -> psycopg.Connection:
        options = session_options("30s", "1min")
        return self.cluster.connect(name, user=self.user, application_name=session_name(RUN), options=options)

    def take(self) -> dict:
        with self.connect(self.database) as session:
            return dump.take_backup(session, self.folder, "local", RUN, "alice", HOW).manifest

    def restore(self, manifest: dict, jobs: int = 2) -> restore.Restored:
        with self.connect("postgres") as admin:
            return restore.restore_backup(admin, self.connect, self.tools, self.dump, manifest, self.copy, jobs)

    def refusal(self, manifest: dict, left: bool = False) -> str:
        """The sentence with which a restore fails; neither database nor session may be left."""
        with pytest.raises(BackupError) as refused:
            self.restore(manifest)
        text = str(refused.value)
        assert "\n" not in text
        assert (self.copy in self.databases()) == left
        wait_for(lambda: not self.sessions())
        return text

    def compare(self, manifest: dict, name: str | None = None) -> list[str]:
        with self.connect(name or self.copy) as session:
            differences, warnings = restore.compare(session, self.tools, manifest, name or self.copy)
        assert warnings == []
        return differences

    @property
    def dump(self) -> Path:
        return self.folder / f"{ID}.dump"

    def databases(self) -> list[str]:
        with self.cluster.connect() as admin:
            return [name for (name,) in admin.execute("SELECT datname FROM pg_database")]

    def sessions(self) -> list:
        text = "SELECT datname, state, query FROM pg_stat_activity WHERE application_name = %s"
        with self.cluster.connect() as admin:
            return admin.execute(text, [session_name(RUN)]).fetchall()

    def execute(self, statement: str, name: str | None = None, **more) -> None:
        with self.cluster.connect(name or self.copy, client_encoding="UTF8", **more) as session:
            session.execute(statement)


@pytest.fixture
def bench(cluster, database, tmp_path):
    made = Bench(cluster, tmp_path / "backups", database)
    yield made
    with cluster.connect() as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {quoted(made.copy)} WITH (FORCE)")


@pytest.fixture
def owner(cluster, bench):
    """A role that owns the database, may create databases and is no superuser; the bench works as it."""
    bench.user = name = f"Owner {os.getpid()}"
    with cluster.connect() as admin:
        admin.execute(f"CREATE ROLE {quoted(name)} LOGIN CREATEDB")
        admin.execute(f"ALTER DATABASE {quoted(bench.database)} OWNER TO {quoted(name)}")
    yield name
    with cluster.connect() as admin:
        for database in (bench.database, bench.copy):
            admin.execute(f"DROP DATABASE IF EXISTS {quoted(database)} WITH (FORCE)")
        admin.execute(f"DROP OWNED BY {quoted(name)}")
        admin.execute(f"DROP ROLE {quoted(name)}")
