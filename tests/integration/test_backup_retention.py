"""What a real ledger, its history and kept copies refer to, and what the module would remove for it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import dump, history, ledger, manifest, references
from ansible_collections.habitat.runbook.plugins.module_utils.copies import BEFORE, POINT, RESTORE, copy_name
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted

from demo.embedded import postgres
from tests.integration.module_process import run as run_module

RUNS = [f"202611{day:02d}t100211z-k3f" for day in range(1, 10)]
NOW = "20261122t100211z-k3f"


def of(run_id: str) -> str:
    return f"local-{run_id}"


@pytest.fixture
def copies(cluster, database) -> Iterator[dict[str, str]]:
    """Databases beside the test's own: kept by the second run, a restore point of the third, a restore of the fourth."""
    kinds = {BEFORE: RUNS[1], POINT: RUNS[2], RESTORE: RUNS[3]}
    made = {kind: copy_name(database, kind, run_id) for kind, run_id in kinds.items()}
    with cluster.connect() as admin:
        for name in made.values():
            admin.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0")
        yield made
        for name in made.values():
            admin.execute(f"DROP DATABASE {quoted(name)}")


@pytest.fixture
def lived(connection) -> None:
    """A ledger to which runs 5 and 6 added, and a history in which run 2 had put the backup of run 1 back."""
    ledger.ensure_ledger(connection)
    history.ensure(connection)
    for version, run_id in (("05", RUNS[4]), ("06", RUNS[5])):
        query = "INSERT INTO schema_migrations (version, name, applied_at, run_id) VALUES (%s, 'x', %s, %s)"
        connection.execute(query, [version, f"2026-11-{RUNS.index(run_id) + 1:02d} 10:03:00+00", run_id])
    restored = history.values(
        history.RESTORE, Run(RUNS[1], "alice"), "04", milliseconds=0, detail={"source": of(RUNS[0])}
    )
    connection.execute(history.INSERT, restored)
    applied = history.values(history.APPLY, Run(RUNS[5], "alice"), "06", milliseconds=1)
    connection.execute(history.INSERT, applied)


def test_what_refers_to_backups(connection, database, copies, lived):
    found = references.read_references(connection, database, "local")
    assert found == {
        of(RUNS[5]): "taken by the run that applied 06",
        of(RUNS[1]): f"taken by the run that made {copies[BEFORE]}",
        of(RUNS[2]): f"taken by the run that made {copies[POINT]}",
        of(RUNS[0]): f"put back when {copies[BEFORE]} was kept",
    }


def test_nothing_refers_to_anything_in_an_empty_database(connection, database):
    assert references.read_references(connection, database, "local") == {}


@pytest.fixture
def folder(tmp_path, connection, database) -> Path:
    """A backup of each of the runs, all but the third whole; their manifests say what a real one says."""
    made = tmp_path / "backups"
    how = dump.How(bin_dir=str(postgres.BIN), proof=manifest.READ)
    taken = dump.take_backup(connection, made, "local", RUNS[0], "alice", how).manifest
    for number, run_id in enumerate(RUNS):
        copy = json.loads(json.dumps(taken).replace(of(RUNS[0]), of(run_id)))
        copy.update(run_id=run_id, taken_at=f"2026-11-{number + 1:02d}T10:02:11.000000Z")
        copy["tag"] = "sale" if number == 3 else None
        for end in (".dump", ".globals.sql"):
            content = (made / f"{of(RUNS[0])}{end}").read_bytes()
            (made / f"{of(run_id)}{end}").write_bytes(content)
        (made / f"{of(run_id)}.json").write_text(manifest.to_text(copy))
    (made / f"{of(RUNS[2])}.dump").write_bytes(b"cut off")
    return made


@pytest.fixture
def server(cluster, database) -> dict[str, str]:
    """Options with which modules of this run reach the test's database."""
    place = {"login_db": database, "login_unix_socket": str(cluster.folder), "login_user": "postgres"}
    return {**place, "run_id": NOW, "env": "local"}


def test_check_mode_says_what_would_go_and_touches_nothing(server, copies, lived, folder):
    there = sorted(folder.iterdir())
    given = {**server, "run_dir": str(folder.parent / NOW), "backup_dir": str(folder), "keep": 2}
    told = run_module("backup_retention", check=True, **given)
    assert [one["id"] for one in told["removed"]] == [of(RUNS[6]), of(RUNS[4])]
    why = {one["id"]: one["reason"] for one in told["kept"]}
    assert why[of(RUNS[8])] == "the newest one"
    assert why[of(RUNS[7])] == "one of the newest 2"
    assert why[of(RUNS[3])] == "tagged sale"
    assert why[of(RUNS[2])].startswith("not usable: the dump has 7 bytes")
    assert set(why) == {of(RUNS[number]) for number in (8, 7, 5, 3, 2, 1, 0)}
    assert told["changed"] is True
    assert sorted(folder.iterdir()) == there
    coming = run_module("backup_retention", check=True, **given, taken=of(NOW))
    assert [one["id"] for one in coming["removed"]] == [of(RUNS[7]), of(RUNS[6]), of(RUNS[4])]
    refused = run_module("backup_retention", **given)
    assert refused["failed"]
    assert "does not hold the run lock" in refused["msg"]
    assert sorted(folder.iterdir()) == there
    assert os.listdir(folder.parent) == ["backups"]  # noqa: PTH208


def test_a_drill_takes_the_newest_whole_one_and_says_what_is_newer(server, folder):
    given = {**server, "backup_dir": str(folder), "bin_dir": str(postgres.BIN), "state_dir": str(folder.parent)}
    told = run_module("backup_drill", **given)
    assert (told["backup"]["id"], told["older"], told["unusable"], told["refusals"]) == (
        of(RUNS[8]),
        of(RUNS[7]),
        [],
        [],
    )
    for number in (8, 7):
        (folder / f"{of(RUNS[number])}.json").write_text("{}")
    told = run_module("backup_drill", **given, backup="latest")
    assert (told["backup"]["id"], told["unusable"]) == (of(RUNS[6]), [of(RUNS[8]), of(RUNS[7])])
    assert told["changed"] is False
    named = run_module("backup_drill", **given, backup=of(RUNS[0]))
    assert (named["backup"]["id"], named["older"], named["unusable"]) == (of(RUNS[0]), None, [])
    (refusal,) = run_module("backup_drill", **given, backup=of(RUNS[2]))["refusals"]
    assert refusal["found"].startswith(f"{of(RUNS[2])}: the dump has 7 bytes")
    (refusal,) = run_module("backup_drill", **{**given, "env": "staging"})["refusals"]
    assert refusal["next"] == "take one: ansible-playbook playbooks/backup.yml -e env=staging"
    tools = run_module("backup_drill", **{**given, "bin_dir": str(folder)})
    assert "pg_dump is not in" in tools["refusals"][0]["what"]


def test_how_a_drill_went_is_kept_but_not_in_check_mode(server, database, folder):
    given = {**server, "backup_dir": str(folder), "state_dir": str(folder.parent), "state": "recorded"}
    look = {"backup_dir": str(folder), "state_dir": str(folder.parent), "database": database}
    assert run_module("backup_drill", check=True, **given, backup=of(NOW), error="it is damaged")["changed"]
    assert run_module("database_backup_info", **look)["last_drill"] is None
    run_module("backup_drill", **given, backup=of(NOW), error="it is damaged")
    kept = run_module("database_backup_info", **look)["last_drill"]
    assert (kept["id"], kept["ok"], kept["seconds"], kept["error"]) == (of(NOW), False, None, "it is damaged")
    run_module("backup_drill", **given, backup=of(NOW), seconds=3.5, operator="alice")
    kept = run_module("database_backup_info", **look)["last_drill"]
    assert (kept["ok"], kept["seconds"], kept["error"], kept["operator"]) == (True, 3.5, None, "alice")


def test_after_a_drill_restore_points_stay(server, copies, folder):
    given = {**server, "run_dir": str(folder.parent / NOW)}
    assert run_module("database_copies", check=True, **given, kinds=["restore"])["removed"] == [copies[RESTORE]]
    both = run_module("database_copies", check=True, **given)["removed"]
    assert sorted(both) == sorted([copies[RESTORE], copies[POINT]])
