"""Proving a backup by restoring it, in every form, and refusing what is damaged afterwards."""

from __future__ import annotations

import functools
import os
import random
import shutil
from pathlib import Path

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import client_programs, dump, dump_files, manifest
from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import reopened
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name
from ansible_collections.habitat.runbook.plugins.module_utils.copies import VERIFY, copy_name
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, quoted
from ansible_collections.habitat.runbook.plugins.module_utils.restore import restore_backup

from demo.embedded import postgres

BIN = str(postgres.BIN)
RUN = f"20261122t100251z-{os.environ.get('PYTEST_XDIST_WORKER', 'k3f')[:3]}"
ID = f"local-{RUN}"
ROWS = """
CREATE TABLE t AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 3000) g;
CREATE TABLE u (id bigserial PRIMARY KEY, at timestamptz DEFAULT now());
INSERT INTO u SELECT FROM generate_series(1, 100)"""


@pytest.fixture
def session(cluster, database):
    with cluster.connect(database, application_name=session_name(RUN)) as connection:
        yield connection


def take(session: psycopg.Connection, folder: Path, **more) -> dict:
    return dump.take_backup(session, folder, "local", RUN, "alice", dump.How(**{"bin_dir": BIN, **more})).manifest


def databases(session: psycopg.Connection) -> list[str]:
    return [name for (name,) in session.execute("SELECT datname FROM pg_database ORDER BY 1")]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


FORMS = [(form, jobs, how) for form, jobs in (("custom", 1), ("directory", 3)) for how in ("zstd", "gzip", "none")]


@pytest.mark.parametrize(
    ("form", "jobs", "compression"),
    [FORMS[0], FORMS[4], *(pytest.param(*one, marks=pytest.mark.long) for one in FORMS[1:4] + FORMS[5:])],
)
def test_every_form_is_restored_and_compared(session, folder, form, jobs, compression):
    session.execute(ROWS)
    before = databases(session)
    told = take(session, folder, form=form, jobs=jobs, compression=compression)
    assert told["proof"]["kind"] == "restore"
    assert 0 < told["proof"]["restore_seconds"] <= told["proof"]["seconds"] < told["seconds"]
    assert (told["dump"]["form"], told["dump"]["compression"]) == (form, compression)
    assert told["tables"]["public.t"]["rows"] == 3000
    assert databases(session) == before
    assert left(folder) == [f"{ID}.dump", f"{ID}.globals.sql", f"{ID}.json"]
    assert manifest.list_backups(folder, check=True)[0].verified
    made = folder / f"{ID}.dump"
    assert (made.is_dir(), made.stat().st_mode & 0o777) == ((True, 0o700) if form == "directory" else (False, 0o600))
    session.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), %s) >= 0", [told["snapshot"]["lsn"]])


def test_what_can_be_dumped_and_not_restored_is_no_backup(session, folder):
    """A constraint that looks into another table: rows come before those that it looks for."""
    session.execute(
        "CREATE TABLE zones (id int); INSERT INTO zones VALUES (1);"
        "CREATE FUNCTION known(int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT EXISTS (SELECT FROM public.zones WHERE id = $1)';"
        "CREATE TABLE addresses (zone int CHECK (known(zone))); INSERT INTO addresses VALUES (1)"
    )
    before = databases(session)
    with pytest.raises(
        BackupError, match=r"not kept, since it could not be restored for its proof: .*addresses.*violates"
    ):
        take(session, folder)
    assert (left(folder), databases(session)) == ([], before)
    assert take(session, folder, proof=manifest.READ)["proof"] | {"seconds": 0} == {
        "kind": "read",
        "seconds": 0,
        "restore_seconds": None,
    }


def test_what_comes_back_differently_is_no_backup(session, folder):
    """A generated column is computed anew, here by a function that only claims to be immutable."""
    session.execute(
        "CREATE FUNCTION place(int) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN current_database(); END';"
        "CREATE TABLE p (id int, v text GENERATED ALWAYS AS (place(id)) STORED); INSERT INTO p (id) VALUES (1)"
    )
    with pytest.raises(BackupError, match=r"restored it is not what is in .*: .*public\.p"):
        take(session, folder)
    assert left(folder) == []


def test_left_overs_of_a_dead_proof_are_dropped(session, database, folder):
    name = copy_name(database, VERIFY, "20261122t100251z-old")
    session.execute(f"CREATE DATABASE {quoted(name)}")
    take(session, folder)
    assert name not in databases(session)


def test_a_subscription_does_not_keep_the_copy(session, folder):
    """A database with one cannot be dropped; its slot is the original's, and stays."""
    session.execute(
        "CREATE SUBSCRIPTION \"o'ne\" CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false, slot_name = 'kept')"
    )
    before = databases(session)
    try:
        assert take(session, folder)["proof"]["kind"] == "restore"
        assert databases(session) == before
        assert session.execute("SELECT subslotname FROM pg_subscription").fetchall() == [("kept",)]
    finally:
        session.execute('ALTER SUBSCRIPTION "o\'ne" SET (slot_name = NONE); DROP SUBSCRIPTION "o\'ne"')


def test_a_role_that_may_not_create_databases_is_refused_before_anything(session, cluster, database, folder):
    session.execute(f"CREATE ROLE plain{os.getpid()} LOGIN; GRANT pg_read_all_data TO plain{os.getpid()}")
    with cluster.connect(database, user=f"plain{os.getpid()}") as plain:
        with pytest.raises(
            BackupError, match=r"run ALTER ROLE \"plain\d+\" CREATEDB, or set habitat_backup_proof to read"
        ):
            take(plain, folder)
        with pytest.raises(BackupError, match="may not create the database that a backup is restored into"):
            dump.plan_backup(plain, folder, "local", RUN, dump.How(bin_dir=BIN))
    session.execute(f"DROP OWNED BY plain{os.getpid()}; DROP ROLE plain{os.getpid()}")
    assert not folder.exists()


def test_a_server_without_room_for_the_proof_is_refused_before_anything(session, folder):
    with pytest.raises(BackupError, match=r"space to restore it for the proof: 1 MB free, .* needed; make room in"):
        take(session, folder, room=2**20)
    assert not folder.exists()
    take(session, folder, room=2**30)


def test_a_tag_is_a_word(session, folder):
    with pytest.raises(BackupError, match="tag is 'Big Sale'; expected a word of small letters"):
        take(session, folder, tag="Big Sale")
    assert take(session, folder, tag="before-sale")["tag"] == "before-sale"
    assert manifest.list_backups(folder)[0].tag == "before-sale"


# What is damaged afterwards

FLIPS, CUTS = 20, 7


def damage(path: Path, seed: int) -> None:
    """Flip one bit, or from FLIPS on cut the file short, anywhere."""
    chance, data = random.Random(seed), bytearray(path.read_bytes())  # noqa: S311 - the same damage every time
    if seed < FLIPS:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    else:
        del data[chance.choice([len(data) - 1, chance.randrange(len(data))]) :]
    path.write_bytes(data)


def refusal(session: psycopg.Connection, told: dict, path: Path) -> str:
    """The sentence with which a restore is refused; nothing is created."""
    before, tools = databases(session), client_programs.find_tools(BIN, session.info.server_version)
    with reopened(session, "postgres") as admin, pytest.raises(BackupError) as refused:
        restore_backup(admin, functools.partial(reopened, session), tools, path, told, "incoming")
    assert databases(session) == before
    return str(refused.value)


@pytest.mark.parametrize(
    "compression", ["zstd", *(pytest.param(one, marks=pytest.mark.long) for one in ("gzip", "none"))]
)
def test_every_flipped_bit_and_every_cut_is_refused(session, folder, compression):
    session.execute(ROWS)
    told = take(session, folder, compression=compression, proof=manifest.READ)
    path = folder / f"{ID}.dump"
    whole = path.read_bytes()
    for seed in range(FLIPS + CUTS):
        damage(path, seed)
        assert "it was changed, damaged or replaced" in refusal(session, told, path), seed
        assert not manifest.list_backups(folder, check=True)[0].verified, seed
        path.write_bytes(whole)
    assert manifest.list_backups(folder, check=True)[0].verified


@pytest.mark.long
def test_every_flipped_bit_in_a_folder_is_refused(session, folder, tmp_path):
    session.execute(ROWS)
    told = take(session, folder, form="directory", proof=manifest.READ)
    path, whole = folder / f"{ID}.dump", tmp_path / "whole"
    shutil.copytree(path, whole)
    for seed in range(FLIPS + CUTS):
        files = [one for one in dump_files.files_of(path) if one.stat().st_size]
        damage(files[seed % len(files)], seed)
        assert "it was changed, damaged or replaced" in refusal(session, told, path), seed
        shutil.rmtree(path)
        shutil.copytree(whole, path)
    next(iter(dump_files.files_of(path))).unlink()
    assert "it was changed, damaged or replaced" in refusal(session, told, path)


def test_an_empty_file_and_the_dump_of_another_database_are_refused(session, folder, cluster, database):
    session.execute(ROWS)
    told = take(session, folder, proof=manifest.READ)
    path = folder / f"{ID}.dump"
    with cluster.connect("postgres", application_name=session_name(RUN)) as other:
        take(other, folder.parent / "other", proof=manifest.READ)
    shutil.copy(folder.parent / "other" / f"{ID}.dump", path)
    assert "it was changed, damaged or replaced" in refusal(session, told, path)
    path.write_bytes(b"")
    assert "it was changed, damaged or replaced" in refusal(session, told, path)
