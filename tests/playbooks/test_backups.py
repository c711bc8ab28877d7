"""What becomes of backups: tried out by drill.yml, copied off the host, removed when there are too many."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

SECRET = "c4n4ry"


def backups(operator) -> list[str]:
    """Ids of the backups, oldest first."""
    return sorted(path.stem for path in (operator.runtime / "backups").glob("*.json"))


def databases(operator) -> list[str]:
    return sorted(name for (name,) in operator.query("SELECT datname FROM pg_database WHERE datname ~ '^habitat_.*z-'"))


def of_variables(**variables) -> list[str]:
    return ["-e", json.dumps(variables)]


@pytest.mark.long
def test_a_drill_restores_the_newest_backup_and_leaves_nothing(at_05):
    assert at_05.run("playbooks/backup.yml").code == 0
    done = at_05.run("playbooks/drill.yml")
    assert done.code == 0, done.screen
    (one,) = backups(at_05)
    assert f"DRILL     {one}" in done.screen
    assert re.search(rf"RESULT    SUCCEEDED   {one} can be restored, in ", done.screen)
    assert databases(at_05) == []
    assert at_05.services() == {name: "RUNNING" for name in at_05.services()}
    shown = at_05.run("playbooks/status.yml").screen
    assert f"DRILL     {one} restored in " in shown
    assert "LOCK      free" in shown


@pytest.mark.long
def test_a_drill_without_a_backup_or_of_a_damaged_one_fails_and_says_what_to_type(at_05):
    none = at_05.run("playbooks/drill.yml")
    assert none.code == 2
    assert "REFUSED   there is no verified backup of local / habitat" in none.screen
    assert "ansible-playbook playbooks/backup.yml -e env=local" in none.screen
    assert at_05.run("playbooks/backup.yml").code == 0
    (one,) = backups(at_05)
    dump = at_05.runtime / "backups" / f"{one}.dump"
    content = bytearray(dump.read_bytes())
    content[len(content) // 2] ^= 1
    dump.write_bytes(content)
    before = at_05.written()
    looked = at_05.run("playbooks/drill.yml", "--check")
    assert looked.code == 0, looked.screen
    assert [path for path in at_05.written() if path.name == "drill.json"] == []
    assert set(before) <= set(at_05.written())
    failed = at_05.run("playbooks/drill.yml")
    assert failed.code == 2
    assert f"RESULT    FAILED   {one} could NOT be restored" in failed.screen
    assert "changed, damaged" in " ".join(failed.screen.split())
    assert "take another one: ansible-playbook playbooks/backup.yml -e env=local" in failed.screen
    assert databases(at_05) == []
    shown = at_05.run("playbooks/status.yml").screen
    assert f"DRILL     {one} could NOT be restored" in shown
    assert "LOCK      free" in shown


@pytest.mark.long
def test_a_copy_into_a_folder_is_there_whole_and_no_older_backup_too_many_stays(at_05, tmp_path):
    vault = tmp_path / "vault"
    given = of_variables(habitat_backup_copy={"folder": str(vault)}, habitat_backup_keep=1)
    refused = at_05.run("playbooks/backup.yml", *given)
    assert refused.code == 2
    assert f"{vault}, where backups are copied to, is not there" in refused.screen
    assert len(backups(at_05)) == 1
    vault.mkdir()
    predicted = at_05.run("playbooks/backup.yml", *given, "--check")
    done = at_05.run("playbooks/backup.yml", *given)
    assert (predicted.code, done.code) == (0, 0), done.screen
    assert predicted.changed == done.changed
    (one,) = backups(at_05)
    assert f"          copied to {vault} and read back there" in done.screen
    assert "RETAIN    1 old backup removed" in done.screen
    for path in (at_05.runtime / "backups").glob(f"{one}.*"):
        assert (vault / path.name).read_bytes() == path.read_bytes()
    assert {path.stem.split(".")[0] for path in vault.iterdir()} == {one}


@pytest.mark.long
def test_a_migration_does_not_begin_without_the_copy_and_with_it_it_does(at_05, tmp_path):
    vault = tmp_path / "vault"
    vault.mkdir()
    tool = [sys.executable, "-c"]
    copy = "import shutil, sys; [shutil.copy(one, sys.argv[1]) for one in sys.argv[2:]]"
    digest = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"
    works = {
        "command": [*tool, copy, str(vault), "{dump}", "{manifest}"],
        "verify": [*tool, digest, f"{vault}/{{id}}.dump"],
    }
    lies = {**works, "command": [*tool, f"import sys; print('{SECRET}'); sys.exit('https://bob:{SECRET}@vault: no')"]}
    failed = at_05.run("migrate.yml", *of_variables(habitat_backup_copy=lies))
    assert failed.code == 2
    assert at_05.versions()[-1] == "05"
    assert "https://***@vault: no" in failed.screen
    assert SECRET not in failed.screen
    warned = at_05.run("migrate.yml", "-e", "target=06", *of_variables(habitat_backup_copy={**lies, "required": False}))
    assert warned.code == 0, warned.screen
    assert "warn  the backup was NOT copied" in warned.screen
    both = of_variables(habitat_backup_copy={**works, "to": "the vault"}, habitat_backup_after=True)
    done = at_05.run("migrate.yml", *both)
    assert done.code == 0, done.screen
    assert done.screen.count("copied to the vault and read back there") == 2
    assert at_05.versions()[-1] == "07"
    assert len(list(Path(vault).glob("*.dump"))) == 2
    assert at_05.report()["copied_to"] == "the vault"
