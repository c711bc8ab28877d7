"""Backups that are refused rather than incomplete: rights, programs, space."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import (
    client_programs,
    dump,
    manifest,
)
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError

from demo.embedded import postgres
from tests.integration.backing_up import BIN, HOW, ID, RUN, names, refusal, take
from tests.waiting import wait_for

OLD_CLIENT = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def roles(cluster):
    """Two ordinary roles, an owner and an outsider."""
    owner, outsider = (f"{word}_{os.getpid()}" for word in ("owner", "outsider"))
    with cluster.connect() as admin:
        admin.execute(f"CREATE ROLE {owner} LOGIN; CREATE ROLE {outsider} LOGIN")
    yield owner, outsider
    with cluster.connect() as admin:
        for database in [name for (name,) in admin.execute("SELECT datname FROM pg_database WHERE datallowconn")]:
            with cluster.connect(database) as session:
                session.execute(f"DROP OWNED BY {owner}, {outsider}")
        admin.execute(f"DROP ROLE {owner}, {outsider}")


def test_row_level_security_is_refused_by_name(cluster, database, connection, folder, roles):
    owner, outsider = roles
    connection.execute(
        f"CREATE TABLE secrets (id int); INSERT INTO secrets VALUES (1), (2); ALTER TABLE secrets OWNER TO {owner}; "
        f"GRANT SELECT ON secrets TO {outsider}; ALTER TABLE secrets ENABLE ROW LEVEL SECURITY; "
        "CREATE POLICY one ON secrets USING (id = 1); CREATE TABLE plain (id int)"
    )
    connection.execute(f"GRANT SELECT ON plain TO {owner}, {outsider}")
    with cluster.connect(database, user=outsider) as session:
        assert refusal(session, folder) == (
            f"role {outsider} sees only a part of public.secrets because of row-level security, and a backup of a part "
            f'is none; take it as a superuser or as a role with BYPASSRLS (ALTER ROLE "{outsider}" BYPASSRLS)'
        )
    with cluster.connect(database, user=owner) as session:
        assert take(session, folder).manifest["tables"]["public.secrets"]["rows"] == 2
        connection.execute("ALTER TABLE secrets FORCE ROW LEVEL SECURITY")
        shutil.rmtree(folder)
        assert f"role {owner} sees only a part of public.secrets" in refusal(session, folder)
        with pytest.raises(BackupError, match="row-level security"):
            dump.plan_backup(session, folder, "local", RUN, HOW)
        connection.execute(f"ALTER ROLE {owner} BYPASSRLS")
        assert take(session, folder).manifest["tables"]["public.secrets"]["rows"] == 2


def test_a_table_that_may_not_be_read_is_refused_by_name(cluster, database, connection, folder, roles):
    for name in "abcde":
        connection.execute(f"CREATE TABLE {name} (id int)")
    _, outsider = roles
    with cluster.connect(database, user=outsider) as session:
        assert refusal(session, folder) == (
            f"role {outsider} may not read public.a, public.b, public.c and 2 more tables; take the backup as the "
            f'owner or grant the right to read everything (GRANT pg_read_all_data TO "{outsider}")'
        )
        connection.execute(f"GRANT pg_read_all_data TO {outsider}")
        assert len(take(session, folder).manifest["tables"]) == 5


def test_a_large_object_that_may_not_be_read_is_refused_by_number(cluster, database, connection, folder, roles):
    _, outsider = roles
    connection.execute("SELECT lo_from_bytea(4711, 'large'), lo_from_bytea(4712, 'larger')")
    with cluster.connect(database, user=outsider) as session:
        assert refusal(session, folder) == (
            f"role {outsider} may not read 2 large objects; take the backup as a superuser or as the owner or grant the "
            f'right (GRANT SELECT ON LARGE OBJECT 4711 TO "{outsider}")'
        )
        connection.execute(f"GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC; ALTER LARGE OBJECT 4712 OWNER TO {outsider}")
        assert take(session, folder).manifest["large_objects"]["count"] == 2
        connection.execute("SELECT lo_unlink(4711), lo_unlink(4712)")


def test_missing_programs(connection, folder, tmp_path, monkeypatch):
    major = connection.info.server_version // 10000
    text = refusal(connection, folder, bin_dir=str(tmp_path))
    assert text == f"there is no pg_dump in {tmp_path}; install the PostgreSQL {major} client or set bin_dir"
    (tmp_path / "pg_dump").symlink_to(postgres.tool("pg_dump"))
    assert "there is no pg_restore in" in refusal(connection, folder, bin_dir=str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "there is no pg_dump in the PATH" in refusal(connection, folder, bin_dir=None)
    monkeypatch.setenv("PATH", BIN)
    assert take(connection, folder, bin_dir=None).manifest["id"] == ID


@pytest.mark.parametrize("content", ["#!/bin/sh\nexit 3\n", "#!/nowhere\n", "\x7fELF"])
def test_a_program_that_does_not_work(connection, folder, tmp_path, content):
    for name in ("pg_dump", "pg_restore"):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    assert str(tmp_path / "pg_dump") in refusal(connection, folder, bin_dir=str(tmp_path))


@pytest.mark.skipif(not OLD_CLIENT.exists(), reason="needs an older client in /usr/lib/postgresql/15/bin")
def test_a_client_older_than_the_server_is_refused(connection, folder):
    major = connection.info.server_version // 10000
    if major <= 15:
        pytest.skip("the server is not newer than the client")
    text = refusal(connection, folder, bin_dir=str(OLD_CLIENT))
    assert text.startswith(f"{OLD_CLIENT}/pg_dump is 15.")
    assert f"and cannot dump a server of version {major}; install the PostgreSQL {major} client or set" in text


@pytest.mark.skipif(not OLD_CLIENT.exists(), reason="needs an older client in /usr/lib/postgresql/15/bin")
def test_a_client_without_zstd_takes_gzip():
    assert client_programs.find_tools(str(OLD_CLIENT), 150000).compression == "gzip"


def test_a_second_backup_of_the_run_is_refused(connection, folder):
    first = take(connection, folder).manifest
    with pytest.raises(BackupError, match="is there already; a run takes one backup, start another run"):
        take(connection, folder)
    assert manifest.read(folder / f"{ID}.json") == first
    assert names(folder) == [f"{ID}.dump", f"{ID}.globals.sql", f"{ID}.json"]


@contextmanager
def small_disk(place: Path, megabytes: int):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_disk_without_room_is_refused_beforehand(connection, tmp_path):
    with small_disk(tmp_path, 1):
        text = refusal(connection, tmp_path / "b")
        assert not (tmp_path / "b").exists()
    assert re.fullmatch(
        rf"space for the backup: 1 MB free, \d\S* MB and 67 MB to spare needed; make room in {tmp_path}/b", text
    )


def test_a_disk_that_fills_up_meanwhile(connection, tmp_path):
    def fill() -> None:
        wait_for(lambda: (folder / f"{ID}.dump.part").exists())
        with suppress(OSError), (tmp_path / "filler").open("wb") as file:
            while True:
                file.write(bytes(2**20))

    folder = tmp_path / "b"
    connection.execute("CREATE TABLE t AS SELECT gen_random_uuid() AS id FROM generate_series(1, 600000)")
    with small_disk(tmp_path, 150):
        filler = threading.Thread(target=fill)
        filler.start()
        text = refusal(connection, folder)
        filler.join()
        assert re.match(rf"the disk of {folder} is full: it had \d.* for the dump of a database of \d.* MB; make", text)
        assert text.endswith("make room or name another backup_dir, then run this again")
        (tmp_path / "filler").unlink()
        assert take(connection, folder).manifest["id"] == ID
