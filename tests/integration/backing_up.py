"""Backups for tests: taking one, refusing one, what a database has in it, and somebody who is in the way."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import (
    dump,
    manifest,
    snapshot,
)
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError

from demo.embedded import postgres

BIN = str(postgres.BIN)
# Of its own in every test process: processes are looked for by it, and test processes run side by side.
RUN = f"20261122t100211z-{os.environ.get('PYTEST_XDIST_WORKER', 'k3f')[:3]}"
ID = f"local-{RUN}"
HOW = dump.How(bin_dir=BIN, proof=manifest.READ)


def take(connection, folder, run=RUN, **more) -> dump.Taken:
    how = dump.How(**{"bin_dir": BIN, "proof": manifest.READ, **more})
    # A run's connection has this name, by which sessions that wait are found.
    connection.execute("SELECT set_config('application_name', %s, false)", [session_name(run)])
    return dump.take_backup(connection, folder, "local", run, "alice", how)


def refusal(connection, folder, **more) -> str:
    """The sentence with which a backup is refused; nothing of it may be left."""
    with pytest.raises(BackupError) as refused:
        take(connection, folder, **more)
    assert names(folder) == []
    text = str(refused.value)
    assert "\n" not in text
    return text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def counts(connection) -> dict:
    with snapshot.exported_snapshot(connection, 1000) as taken:
        return dict(snapshot.count_tables(connection, taken.tables))


def sequences(connection) -> dict:
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE relkind = 'S'"
    ).fetchall()
    values = {}
    for schema, name in rows:
        text = f"SELECT last_value, is_called FROM {manifest.quoted(schema)}.{manifest.quoted(name)}"
        value, called = connection.execute(text).fetchone()
        values[manifest.qualified(schema, name)] = {"last_value": value, "is_called": called}
    return values


@contextmanager
def holding(cluster, database, statement):
    """Another session that has run a statement and does not commit."""
    with cluster.connect(database, autocommit=False, application_name="reporting") as other:
        other.execute(statement)
        yield other.info.backend_pid
        other.rollback()
