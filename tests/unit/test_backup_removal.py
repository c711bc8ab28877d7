"""Removing a backup: cut off after any of its steps it is no backup any more, and the next removal finishes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import backup_folder, backup_removal, dump_files
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import list_backups

ID = "local-20261122t100211z-k3f"
OTHER = "local-20261122t100212z-k3g"


class CutOff(Exception):
    """Stands for the end of the process."""


def make(folder: Path, backup: str, form: str = dump_files.CUSTOM) -> None:
    dump = folder / f"{backup}.dump"
    if form == dump_files.CUSTOM:
        dump.write_text("dump")
    else:
        dump.mkdir()
        (dump / "toc.dat").write_text("toc")
        (dump / "1.dat").write_text("data")
    (folder / f"{backup}.globals.sql").write_text("sql")
    (folder / f"{backup}.json").write_text("{}")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


BOTH = pytest.mark.parametrize("form", [dump_files.CUSTOM, dump_files.DIRECTORY])


@BOTH
def test_everything_of_it_goes_and_nothing_else(tmp_path, form):
    make(tmp_path, ID, form)
    make(tmp_path, OTHER)
    backup_removal.remove(tmp_path, ID)
    assert names(tmp_path) == {f"{OTHER}{end}" for end in (".dump", ".json", ".globals.sql")}
    assert backup_removal.half_removed(tmp_path) == []


@BOTH
def test_cut_off_at_any_moment_it_is_no_backup_and_is_finished(tmp_path, form, monkeypatch):
    calls = (("rename", Path), ("unlink", Path), ("rmdir", Path), ("sync_folder", dump_files))
    for moment in range(20):
        folder = tmp_path / str(moment)
        folder.mkdir()
        make(folder, ID, form)
        left = [moment]
        with monkeypatch.context() as patched:
            for name, owner in calls:
                patched.setattr(owner, name, counting(getattr(owner, name), left))
            try:
                backup_removal.remove(folder, ID)
            except CutOff:
                pass
            else:
                assert moment > 5
                assert names(folder) == set()
                return
        if moment:
            # A backup that is listed at all would be one that somebody could choose.
            assert list_backups(folder) == []
            # The next backup cleans up as well, and must not make a backup of it again.
            backup_folder.clean_up(folder)
            assert list_backups(folder) == []
            left_over = [ID] if names(folder) else []
            assert backup_removal.finish(folder) == left_over
        else:
            backup_removal.remove(folder, ID)
        assert names(folder) == set()
    raise AssertionError("it never came to its end")


def counting(real, left):
    def call(*arguments, **more):
        if left[0] == 0:
            raise CutOff
        left[0] -= 1
        return real(*arguments, **more)

    return call


def test_only_names_of_backups_are_finished(tmp_path):
    (tmp_path / "notes.json.removed").write_text("mine")
    assert backup_removal.finish(tmp_path) == []
    assert names(tmp_path) == {"notes.json.removed"}
