"""Which kept database is meant, and which backup it has in common with the live one."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import copies, history, salvage_choice

from demo.embedded import postgres

FIRST, SECOND, THIRD = "20261122t100211z-k3f", "20261122t110211z-b7q", "20261122t120211z-aaa"
BACKUP = "local-20261122t093000z-p02"


class Stand:
    """A database with a history, and copies of it."""

    def __init__(self, cluster: Any, database: str, folder: Any) -> None:
        self.cluster, self.database, self.folder = cluster, database, folder
        with cluster.connect(database) as session:
            history.ensure(session)

    def name(self, kind: str, run: str) -> str:
        return copies.copy_name(self.database, kind, run)

    def keep(self, run: str) -> str:
        """A kept database, as the live one is now."""
        name = self.name(copies.BEFORE, run)
        with self.cluster.connect() as admin:
            admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{self.database}"')
        return name

    def put_back(self, run: str, source: str, name: str = "") -> None:
        with self.cluster.connect(name or self.database) as session:
            who = history.Run(run, "alice")
            session.execute(history.INSERT, history.values(history.RESTORE, who, detail={"source": source}))

    def choose(self, **given: Any) -> dict[str, Any]:
        base = {"login_db": self.database, "env": "local", "kept": None, "backup": None, "programs_in": None}
        base.update(backup_dir=str(self.folder), bin_dir=str(postgres.BIN), room="not known")
        with self.cluster.connect(self.database) as session:
            return salvage_choice.choose(session, self.cluster.connect, {**base, **given})

    def refusal(self, **given: Any) -> dict[str, str]:
        (refused,) = self.choose(**given)["refusals"]
        return refused


@pytest.fixture
def stand(cluster, database, tmp_path):
    made = Stand(cluster, database, tmp_path)
    yield made
    with cluster.connect() as admin:
        for copy in copies.list_copies(admin, database):
            admin.execute(f'DROP DATABASE "{copy.name}" WITH (FORCE)')


def test_nothing_kept_is_nothing_to_salvage(stand):
    assert stand.refusal()["what"] == f"no database is kept from before a rollback of {stand.database}"


def test_the_newest_kept_one_and_the_backup_of_its_run(stand):
    stand.keep(FIRST)
    newest = stand.keep(SECOND)
    stand.put_back(FIRST, "local-20261120t093000z-p02")
    stand.put_back(SECOND, BACKUP)
    found = stand.choose()
    assert (found["kept"], found["file"]) == (newest, f"{stand.folder}/{newest}.sql")
    assert f"there is no backup {BACKUP} in" in found["refusals"][0]["what"]
    assert (
        "there is no backup local-20261120t093000z-p02" in stand.refusal(kept=stand.name(copies.BEFORE, FIRST))["what"]
    )


def test_one_that_is_not_there(stand):
    there = stand.keep(FIRST)
    refused = stand.refusal(kept=stand.name(copies.BEFORE, SECOND))
    assert refused["what"] == f"there is no kept database {stand.name(copies.BEFORE, SECOND)}"
    assert (refused["found"], refused["next"]) == (f"kept are: {there}", f"add -e kept={there}")


def test_without_a_history_the_backup_has_to_be_named(stand):
    stand.keep(FIRST)
    assert stand.refusal()["next"] == "name it: add -e backup=ID"
    assert "there is no backup local-x in" in stand.refusal(backup="local-x")["what"]


def test_after_a_restore_point_it_is_the_backup_of_that_run(stand):
    stand.keep(FIRST)
    stand.put_back(FIRST, stand.name(copies.POINT, FIRST))
    assert f"there is no backup local-{FIRST} in" in stand.refusal()["what"]


def test_after_a_rollback_of_a_rollback_it_is_the_one_the_kept_one_came_from(stand):
    stand.put_back(FIRST, "local-20261120t093000z-p02")
    stand.put_back(SECOND, BACKUP)
    stand.keep(THIRD)
    stand.put_back(THIRD, stand.name(copies.BEFORE, SECOND))
    assert f"there is no backup {BACKUP} in" in stand.refusal()["what"]


def test_no_room_is_told_beforehand(stand, monkeypatch):
    stand.keep(FIRST)
    usable = salvage_choice.manifest.Backup(BACKUP, "x.dump", True, (), "2026-11-22T09:30:00.0Z", 5)
    monkeypatch.setattr(salvage_choice.manifest, "find_backup", lambda *given: usable)
    assert stand.choose(backup=BACKUP, room=10**12)["refusals"] == []
    assert stand.refusal(backup=BACKUP, room=1000)["what"].startswith("space for the restored backup: 1 kB free")


def test_the_command_has_everything_but_the_password(stand):
    with stand.cluster.connect(stand.database, password="secret") as session:
        text = salvage_choice.command(session, "/b/a b.sql", None)
        inside = salvage_choice.command(session, "/b/a b.sql", "0123456789abcdef")
    where = f"-h {stand.cluster.folder} -p 5432 -U postgres -d {stand.database}"
    assert text == f"psql -X -q -v ON_ERROR_STOP=1 {where} -f '/b/a b.sql'"
    assert inside == (
        f"docker exec -i 0123456789ab psql -X -q -v ON_ERROR_STOP=1 -U postgres -d {stand.database} < '/b/a b.sql'"
    )
