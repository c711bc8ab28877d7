"""Backups by the client programs inside the database's container, and which programs are taken."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import (
    backup_proof,
    checks,
    client_programs,
    dump,
    restore,
    table_counts,
)
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, quoted

from demo.embedded import postgres
from tests.integration.backing_up import names
from tests.integration.contained import (  # noqa: F401 - fixtures among them
    ID,
    RUN,
    Server,
    docker,
    fill,
    nothing_left,
    path,
    server,
)
from tests.waiting import wait_for

# ruff: noqa: F811

# They need a Docker engine, and their time goes to containers.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("engine")]

HOST_15 = Path("/usr/lib/postgresql/15/bin")
EVENT_TRIGGER = """
CREATE FUNCTION nothing() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER late ON ddl_command_end EXECUTE FUNCTION nothing();
"""


@pytest.fixture
def hidden(server, path) -> client_programs.Tools:
    return client_programs.find_tools(None, 150000, server.id)


def take(server: Server, folder: Path, database: str = "habitat", **more) -> dict:
    with server.connect(database, "boss") as session:
        return dump.take_backup(session, folder, "local", RUN, "alice", dump.How(container=server.id, **more)).manifest


def restored(server: Server, tools: client_programs.Tools, folder: Path, told: dict) -> restore.Restored:
    copy = f"Copy '{os.getpid()}"
    with server.connect("postgres", "boss") as admin:
        try:
            path = folder / told["dump"]["file"]
            return restore.restore_backup(
                admin, lambda name: server.connect(name, "boss"), tools, path, told, copy, jobs=3
            )
        finally:
            admin.execute(f"DROP DATABASE IF EXISTS {quoted(copy)} WITH (FORCE)")


def test_a_backup_restored_and_compared(server, hidden, tmp_path):
    assert (hidden.place, hidden.jobs(4)) == (f" inside container {server.name}", 1)
    server.admin("CREATE DATABASE everything TEMPLATE template0")
    fill(server, "everything", "boss", 44)
    server.admin(EVENT_TRIGGER, "everything")
    told = take(server, tmp_path / "b", "everything")
    assert told["dump"]["size"] > 20_000_000
    assert told["pg_dump_version"] == hidden.version
    assert told["tables"]["public.zz_binary"]["rows"] == 44
    assert told["sequences"]['public."Odd ""Name_id_seq"'] == {"last_value": 1000, "is_called": True}
    assert (told["large_objects"]["count"], told["ledger_versions"]) == (1, ["06", "07"])
    assert names(tmp_path / "b") == [f"{ID}.dump", f"{ID}.globals.sql", f"{ID}.json"]
    done = restored(server, hidden, tmp_path / "b", told)
    assert (done.differences, done.warnings, done.rows) == ([], [], 1047)


def test_a_dump_that_is_begun_anew_has_nothing_of_the_one_before(server, hidden, tmp_path, monkeypatch):
    """Somebody changes a table between the end of pg_dump and the session that counts."""
    truncating = threading.Thread(
        target=server.admin, args=("TRUNCATE slow; INSERT INTO slow VALUES (2), (3)", "habitat"), daemon=True
    )
    waits = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'test' AND wait_event_type = 'Lock'"

    def late(connection):
        if truncating.ident is None:
            dump_file = tmp_path / "b" / f"{ID}.dump.part"
            wait_for(lambda: dump_file.stat().st_size > 5_000_000 and not server.processes())
            truncating.start()
            wait_for(lambda: server.admin(waits))
        return client_programs.reopened(connection)

    monkeypatch.setattr(table_counts, "reopened", late)
    told = take(server, tmp_path / "b")
    truncating.join(60)
    assert told["tables"]["public.slow"]["rows"] == 2
    done = restored(server, hidden, tmp_path / "b", told)
    assert (done.differences, done.warnings) == ([], [])


@pytest.mark.skipif(not HOST_15.exists(), reason=f"needs the programs in {HOST_15}")
def test_host_and_container_read_each_others_dumps(server, hidden, tmp_path):
    host = client_programs.find_tools(str(HOST_15), 150000)
    by_host = take(server, tmp_path / "host", bin_dir=str(HOST_15))
    by_container = take(server, tmp_path / "container")
    for tools, folder, told in ((hidden, "host", by_host), (host, "container", by_container)):
        found = restored(server, tools, tmp_path / folder, told).differences
        # Other minor releases of pg_dump may write the schema differently, which is not what is tried here.
        assert [text for text in found if not text.startswith("the schema is another")] == []


def test_a_difference_is_found(server, hidden, tmp_path):
    told = take(server, tmp_path / "b")
    told["schema_sha256"] = "0" * 64
    (difference,) = restored(server, hidden, tmp_path / "b", told).differences
    assert difference.startswith("the schema is another than in the backup")


def test_a_damaged_dump_is_not_read_back(server, hidden, tmp_path):
    take(server, tmp_path / "b")
    whole = tmp_path / "b" / f"{ID}.dump"
    for length in (0, 3, whole.stat().st_size - 1):
        with whole.open("r+b") as file:
            file.truncate(length)
        with pytest.raises(BackupError, match=r"read back whole \(pg_restore inside container .* failed: .*input file"):
            backup_proof.read_back(hidden, whole, "")


# Which programs


def test_those_of_the_host_come_first(server, monkeypatch):
    monkeypatch.setenv("PATH", f"{postgres.BIN}:{os.environ['PATH']}")
    assert client_programs.find_tools(None, 150020, server.id).place == ""
    assert checks.check_tools(None, 150020, server.id).text.endswith(" is not older than the server")


def test_those_inside_are_told(server, path):
    check = checks.check_tools(None, 150000, server.id)
    version = docker("exec", server.id, "pg_dump", "--version").split()[2]
    assert (check.state, check.text) == ("ok", f"pg_dump {version} inside container {server.name}")


@pytest.mark.skipif(not HOST_15.exists(), reason=f"needs the programs in {HOST_15}")
def test_older_ones_of_the_host_do_not_do(server, path):
    (path / "pg_dump").symlink_to(HOST_15 / "pg_dump")
    (path / "pg_restore").symlink_to(HOST_15 / "pg_restore")
    assert client_programs.find_tools(None, 150000, server.id).place == ""
    assert client_programs.find_tools(None, 150099, server.id).place == f" inside container {server.name}"
    assert client_programs.find_tools(None, 150099).place == ""
    with pytest.raises(BackupError) as refused:
        client_programs.find_tools(None, 160000, server.id)
    assert str(refused.value).startswith(f"{path}/pg_dump is 15.")
    assert f"bin_dir; pg_dump inside container {server.name} is 15." in str(refused.value)
    assert checks.check_tools(None, 160000, server.id).state == "fail"


def test_a_wrong_bin_dir_is_an_error(server, path):
    with pytest.raises(BackupError, match="there is no pg_dump in /nowhere; install the PostgreSQL 15 client"):
        client_programs.find_tools("/nowhere", 150000, server.id)
    assert checks.check_tools("/nowhere", 150000, server.id).state == "fail"


@pytest.mark.parametrize("container", ["no-such-container", None])
def test_a_container_that_is_not_there(path, container):
    with pytest.raises(BackupError, match="there is no pg_dump in the PATH; install the PostgreSQL 15 client") as told:
        client_programs.find_tools(None, 150000, container)
    assert ("No such" in str(told.value)) == bool(container)
    assert "\n" not in str(told.value)


# What Docker may do


def test_output_that_docker_cuts_is_refused(server, hidden, path, tmp_path):
    (path / "docker").unlink()
    (path / "docker").write_text(
        f"""#!/bin/sh\ncase "$*" in
        *--schema-only*) {shutil.which("docker", path="/usr/local/bin:/usr/bin:/bin")} "$@" | /usr/bin/head -c 2000;;
        *) exec {shutil.which("docker", path="/usr/local/bin:/usr/bin:/bin")} "$@";; esac\n"""
    )
    (path / "docker").chmod(0o755)
    with pytest.raises(
        BackupError, match=f"pg_dump inside container {server.name} was cut off: docker ended before it"
    ):
        take(server, tmp_path / "b")
    assert names(tmp_path / "b") == []
