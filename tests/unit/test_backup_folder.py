"""The folder of backups: permissions, half-written files, the order of the last steps."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import backup_folder
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError

ID = "local-20261122t100211z-k3f"
OTHER = "local-20261122t100212z-k3g"


@contextmanager
def umask(value: int):
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path, mask):
    folder = tmp_path / "a" / "b"
    with umask(mask):
        backup_folder.prepare_folder(folder)
        with backup_folder.partial_dump(folder, ID) as fd:
            assert mode(folder / f"{ID}.dump.part") == 0o600
            os.write(fd, b"x")
            backup_folder.write_globals(folder, ID, "--")
            backup_folder.publish(folder, ID, "{}")
    assert mode(folder) == 0o700
    assert {name: mode(folder / name) for name in names(folder)} == {
        f"{ID}.{end}": 0o600 for end in ("dump", "globals.sql", "json")
    }


def test_a_folder_open_to_others_is_closed(tmp_path):
    tmp_path.chmod(0o755)
    backup_folder.prepare_folder(tmp_path)
    assert mode(tmp_path) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(tmp_path):
    os.chown(tmp_path, 12345, 12345)
    for refuse in (backup_folder.prepare_folder, backup_folder.check_folder):
        with pytest.raises(BackupError, match="belongs to user 12345 and not to 0, who runs this; give it to 0 or"):
            refuse(tmp_path)


def test_a_folder_that_cannot_be_made_private_is_refused(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,mode=755", "none", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a read-only file system")
    try:
        with pytest.raises(BackupError, match="cannot be made private: Read-only file system; name another one"):
            backup_folder.prepare_folder(tmp_path)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackupError, match="is not a folder; name another one"):
        backup_folder.prepare_folder(tmp_path / "file")
    with pytest.raises(BackupError, match="cannot be used: Not a directory"):
        backup_folder.prepare_folder(tmp_path / "file" / "below")


@pytest.mark.parametrize("end", ["dump", "json"])
def test_a_backup_that_is_there_is_refused(tmp_path, end):
    (tmp_path / f"{ID}.{end}").write_text("")
    with pytest.raises(BackupError, match=f"{ID}.{end} is there already; a run takes one backup"):
        backup_folder.refuse_existing(tmp_path, ID)
    backup_folder.refuse_existing(tmp_path, OTHER)


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), backup_folder.partial_dump(tmp_path, ID) as fd:
        os.write(fd, b"x")
        raise RuntimeError
    assert names(tmp_path) == []


def test_a_publication_that_fails_leaves_nothing(tmp_path):
    (tmp_path / f"{ID}.json").mkdir()
    with pytest.raises(OSError, match="Is a directory"), backup_folder.partial_dump(tmp_path, ID):
        backup_folder.write_globals(tmp_path, ID, "--")
        backup_folder.publish(tmp_path, ID, "{}")
    assert names(tmp_path) == [f"{ID}.json"]


@contextmanager
def holder(folder: Path, then: str):
    """Another process that is writing backup ID and has come to ``then``."""
    program = (
        "import sys, time\nfrom pathlib import Path\n"
        "from ansible_collections.habitat.runbook.plugins.module_utils import backup_folder\n"
        f"with backup_folder.partial_dump(Path({str(folder)!r}), {ID!r}) as fd:\n"
        f"    {then}\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert other.stdout.readline() == b"ready\n"
        yield other
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
        other.stderr.close()


def test_what_a_living_process_writes_is_left_alone_and_of_a_dead_one_removed(tmp_path):
    (tmp_path / f"{OTHER}.dump.part").write_text("left over")
    (tmp_path / "notes.dump.part").write_text("not ours")
    with holder(tmp_path, "pass") as other:
        assert backup_folder.clean_up(tmp_path) == [f"{OTHER}.dump.part"]
        assert names(tmp_path) == [f"{ID}.dump.part", "notes.dump.part"]
        with (
            pytest.raises(BackupError, match="is being written by another process"),
            backup_folder.partial_dump(tmp_path, ID),
        ):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert names(tmp_path) == [f"{ID}.dump.part", "notes.dump.part"]
        assert backup_folder.clean_up(tmp_path) == [f"{ID}.dump.part"]
    assert names(tmp_path) == ["notes.dump.part"]


def test_killed_before_the_dump_had_its_name(tmp_path):
    (tmp_path / f"{ID}.dump.part").write_text("dump")
    (tmp_path / f"{ID}.json.part").write_text("{}")
    assert backup_folder.clean_up(tmp_path) == [f"{ID}.dump.part", f"{ID}.json.part"]
    assert names(tmp_path) == []


def test_killed_between_the_two_renames_is_finished(tmp_path):
    part = f"Path({str(tmp_path)!r}) / '{ID}"
    steps = f"({part}.json.part').write_text('whole'); ({part}.dump.part').rename({part}.dump')"
    with holder(tmp_path, steps) as other:
        assert backup_folder.clean_up(tmp_path) == []
        assert names(tmp_path) == [f"{ID}.dump", f"{ID}.json.part"]
        other.kill()
        other.wait()
        assert backup_folder.clean_up(tmp_path) == []
    assert names(tmp_path) == [f"{ID}.dump", f"{ID}.json"]
    assert (tmp_path / f"{ID}.json").read_text() == "whole"


def test_a_dump_without_any_manifest_is_not_touched(tmp_path):
    (tmp_path / f"{ID}.dump").write_text("somebody lost its manifest")
    assert backup_folder.clean_up(tmp_path) == []
    assert names(tmp_path) == [f"{ID}.dump"]


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "valuable").write_text("x")
    (tmp_path / f"{ID}.dump.part").symlink_to(tmp_path / "valuable")
    assert backup_folder.clean_up(tmp_path) == []
    with pytest.raises(BackupError), backup_folder.partial_dump(tmp_path, ID):
        pass
    assert (tmp_path / "valuable").read_text() == "x"


def test_the_lock_lives_as_long_as_a_program_that_writes(tmp_path):
    start = (
        "import subprocess; writer = subprocess.Popen(['sleep', '60'], stdout=fd); print(writer.pid, file=sys.stderr)"
    )
    with holder(tmp_path, start) as other:
        writer = int(other.stderr.readline())
        other.kill()
        other.wait()
        assert backup_folder.clean_up(tmp_path) == []
        os.kill(writer, signal.SIGKILL)
        while not backup_folder.clean_up(tmp_path):
            assert names(tmp_path) == [f"{ID}.dump.part"]
    assert names(tmp_path) == []


def test_the_dump_has_its_name_before_the_manifest_has(tmp_path):
    steps = (
        f"folder = Path({str(tmp_path)!r}); "
        "sys.addaudithook(lambda event, given: print(given[1], file=sys.stderr) if event == 'os.rename' else None); "
        f"backup_folder.write_globals(folder, {ID!r}, '--'); backup_folder.publish(folder, {ID!r}, '{{}}'); print(file=sys.stderr)"
    )
    with holder(tmp_path, steps) as other:
        renamed = [Path(line.decode().strip()).name for line in iter(other.stderr.readline, b"\n")]
    assert renamed == [f"{ID}.globals.sql", f"{ID}.dump", f"{ID}.json"]
