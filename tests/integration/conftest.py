"""Helpers for tests of the engine (files in a folder, applied to the test's own database) and of backups."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import engine
from ansible_collections.habitat.runbook.plugins.module_utils.bundle_writer import write_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.comparison import Comparison
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.schema_folder import read_schema
from ansible_collections.habitat.runbook.plugins.module_utils.state import compare_bundle

from demo.embedded import postgres

RUN = Run("20261122t100211z-k3f", "alice")


class Workshop:
    """A schema folder and a database: write files, compare, apply, look."""

    def __init__(self, folder: Path, connect: Callable[..., psycopg.Connection]) -> None:
        self.folder = folder / "schema"
        self.folder.mkdir()
        self.bundle = folder / "plan"
        self._connect = connect
        self.lock_timeout = "2s"

    def write(self, **files: str) -> None:
        """write(m01_name="SQL") makes schema/01_name.sql."""
        for name, text in files.items():
            (self.folder / f"{name[1:]}.sql").write_text(text)

    def remove(self, name: str) -> None:
        (self.folder / f"{name}.sql").unlink()

    def connect(self) -> psycopg.Connection:
        options = session_options(self.lock_timeout, "1min")
        return self._connect(application_name=session_name(RUN.run_id), options=options)

    def compare(self) -> Comparison:
        folder = read_schema(self.folder)
        assert not folder.problems, folder.problems
        write_bundle(self.bundle, folder.migrations)
        with self.connect() as connection:
            return compare_bundle(connection, str(self.bundle), "local")[0]

    def apply(self, target: str | None = None, **more: Any) -> engine.Outcome:
        comparison = self.compare()
        assert not comparison.refusals, comparison.refusals
        versions = [state.version for state in comparison.pending(target)]
        return engine.apply(self.connect(), self.connect, str(self.bundle), versions, RUN, **more)

    def states(self) -> dict[str, str]:
        return {state.version: state.label for state in self.compare().states}

    def query(self, sql: str, *parameters: object) -> list[tuple]:
        with self._connect() as connection:
            return connection.execute(sql, parameters).fetchall()

    def execute(self, sql: str) -> None:
        with self._connect() as connection:
            connection.execute(sql)


@pytest.fixture
def workshop(tmp_path, cluster, database) -> Workshop:
    return Workshop(tmp_path, lambda **more: cluster.connect(database, **more))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where backups go; nobody has made it yet."""
    return tmp_path / "backups"


@pytest.fixture
def restored(cluster, database) -> Iterator[Callable[[Path], psycopg.Connection]]:
    """A function that restores a dump into a new database and returns a connection to it."""
    opened = []

    def restore(path: Path) -> psycopg.Connection:
        name = f"{database}_restored"
        with cluster.connect() as admin:
            admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        command = [postgres.tool("pg_restore"), "-h", str(cluster.folder), "-U", "postgres", "--exit-on-error"]
        subprocess.run([*command, "-d", name, str(path)], check=True)
        opened.append(cluster.connect(name))
        return opened[-1]

    yield restore
    for connection in opened:
        connection.close()
    with cluster.connect() as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{database}_restored" WITH (FORCE)')
