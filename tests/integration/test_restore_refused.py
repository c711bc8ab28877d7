"""Restores that are refused before anything is created, or that other versions of PostgreSQL do."""

from __future__ import annotations

import os

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import client_programs, restore
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted

from tests import servers
from tests.integration.restoring import BIN, ID, Bench, bench, owner  # noqa: F401 - fixtures among them

# ruff: noqa: F811


@pytest.mark.parametrize("damage", ["flipped", "replaced", "cut", "gone"])
def test_another_dump_than_the_manifests_is_refused(bench, connection, damage):
    """Before a database is created: one of a name that is taken would be another error."""
    manifest = bench.take()
    data = bytearray(bench.dump.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    elif damage == "replaced":
        data = bytearray(b"another dump")
    bench.dump.write_bytes(data[:-1] if damage == "cut" else data)
    if damage == "gone":
        bench.dump.unlink()
    bench.copy = bench.database
    text = bench.refusal(manifest, left=True)
    if damage == "gone":
        assert "No such file or directory" in text
    else:
        assert text == (
            f"{bench.dump} is not the dump that the manifest of backup {ID} describes: it was changed, damaged or "
            "replaced after the backup; use another backup"
        )


def test_a_role_that_may_not_create_databases(cluster, bench, owner):
    manifest = bench.take()
    with cluster.connect() as admin:
        admin.execute(f"ALTER ROLE {quoted(owner)} NOCREATEDB")
    assert bench.refusal(manifest) == (
        f"role {owner} may not create databases; run ALTER ROLE {quoted(owner)} CREATEDB"
    )


def test_a_client_older_than_the_dumps_is_refused(bench):
    manifest = {**bench.take(), "pg_dump_version": "99.1"}
    assert bench.refusal(manifest) == (
        f"{BIN}/pg_restore is {bench.tools.version} and cannot read backup {ID} by pg_dump 99.1; "
        "install the PostgreSQL 99 client or set bin_dir"
    )


def test_a_database_that_is_there_is_not_touched(bench, connection):
    manifest = bench.take()
    bench.execute(f"CREATE DATABASE {quoted(bench.copy)}", "postgres")
    bench.execute("CREATE TABLE precious ()")
    assert "already exists" in bench.refusal(manifest, left=True)
    bench.execute("SELECT * FROM precious")


@pytest.mark.parametrize("name", ["O'Brien Müller", "a=b host=/nowhere", "UPPER", r"back\slash %s {}", "-x"])
def test_names_of_databases(bench, connection, name):
    connection.execute("CREATE TABLE t AS SELECT 1 AS id")
    bench.copy = f"{name} {os.getpid()}"
    try:
        assert bench.restore(bench.take()).differences == []
    finally:
        bench.execute(f"DROP DATABASE {quoted(bench.copy)}", "postgres")


@pytest.fixture
def older(tmp_path):
    """A bench on a server of PostgreSQL 15, with the programs of the version that the tests run on."""
    if restore.major(client_programs.find_tools(BIN, 150000).version) < 17:
        pytest.skip("needs programs of version 17 or later")
    with servers.running(15) as (cluster, _):
        bench = Bench(cluster, tmp_path / "backups", "original")
        bench.execute("CREATE DATABASE original", "postgres")
        yield bench


def test_programs_newer_than_the_server(older):
    """pg_restore 17 sets transaction_timeout, which a server of 15 does not know; every other error counts."""
    older.execute("CREATE ROLE worker; CREATE ROLE o LOGIN CREATEDB", "postgres")
    older.execute("CREATE TABLE t AS SELECT 1 AS id; CREATE INDEX ON t (id); ALTER TABLE t OWNER TO worker", "original")
    manifest = older.take()
    done = older.restore(manifest)
    assert (done.differences, done.warnings, done.rows) == ([], [], 1)
    assert older.compare(manifest) == []
    older.execute(f"DROP DATABASE {quoted(older.copy)}", "postgres")
    older.execute("DROP OWNED BY worker; DROP ROLE worker", "original")
    assert "names roles that this server does not have: worker; create them first" in older.refusal(manifest)
    text = older.refusal({**manifest, "roles": []})
    assert text.endswith('pg_restore failed: could not execute query: ERROR: role "worker" does not exist')
