"""Copies of backups off their host: whole or not there, read back, and honest about what went wrong."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import dump_files, off_host
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError

ID = "local-20261122t100211z-k3f"
PYTHON = [sys.executable, "-c"]
COPY = """
import os, shutil, sys
target = sys.argv[1]
for one in sys.argv[2:]:
    if os.path.isdir(one):
        shutil.copytree(one, os.path.join(target, os.path.basename(one)))
    else:
        shutil.copy(one, target)
"""
SPOIL = """
dump = os.path.join(target, os.path.basename(sys.argv[2]))
with open(os.path.join(dump, "toc.dat") if os.path.isdir(dump) else dump, "ab") as file:
    file.write(b"x")
"""
SECRET = "c4n4ry"


@pytest.fixture
def source(tmp_path) -> Path:
    folder = tmp_path / "backups"
    folder.mkdir()
    (folder / f"{ID}.globals.sql").write_text("CREATE ROLE x;\n")
    (folder / f"{ID}.json").write_text("{}\n")
    return folder


@pytest.fixture
def vault(tmp_path) -> Path:
    folder = tmp_path / "vault"
    folder.mkdir()
    return folder


def told(source: Path, form: str) -> dict:
    """What the functions read of a manifest, of a dump of this form that is made."""
    dump, sql = source / f"{ID}.dump", source / f"{ID}.globals.sql"
    if form == dump_files.CUSTOM:
        dump.write_bytes(os.urandom(3_000_000))
    else:
        dump.mkdir()
        for name in ("toc.dat", "3021.dat.zst", "blobs 16.toc"):
            (dump / name).write_bytes(os.urandom(50_000))
    size, digest = dump_files.size_of(dump), dump_files.digest_of(dump)
    return {
        "id": ID,
        "dump": {"file": dump.name, "size": size, "sha256": digest, "form": form},
        "globals": {"file": sql.name, "size": sql.stat().st_size, "sha256": dump_files.digest_of(sql)},
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


BOTH = pytest.mark.parametrize("form", [dump_files.CUSTOM, dump_files.DIRECTORY])


@BOTH
def test_a_folder_gets_everything_once(source, vault, form):
    known = told(source, form)
    assert off_host.into_folder(source, known, vault) is True
    assert contents(vault) == contents(source)
    modes = {path.stat().st_mode & 0o777 for path in vault.rglob("*")}
    assert modes <= {0o600, 0o700}
    assert off_host.into_folder(source, known, vault) is False


@BOTH
def test_what_a_killed_copy_left_half_is_written_anew(source, vault, form):
    known = told(source, form)
    part = vault / f"{ID}.dump.part"
    if form == dump_files.CUSTOM:
        part.write_bytes(b"half")
    else:
        part.mkdir()
        (part / "toc.dat").write_bytes(b"half")
    off_host.into_folder(source, known, vault)
    assert contents(vault) == contents(source)


def test_another_backup_of_the_same_name_is_not_overwritten(source, vault):
    known = told(source, dump_files.CUSTOM)
    (vault / f"{ID}.dump").write_bytes(b"of another host")
    with pytest.raises(BackupError, match="is there already and is another one; give every host a folder"):
        off_host.into_folder(source, known, vault)
    assert contents(vault) == {f"{ID}.dump": b"of another host"}


def test_a_dump_that_changed_since_it_was_taken_is_not_given_its_name(source, vault):
    known = told(source, dump_files.CUSTOM)
    with (source / f"{ID}.dump").open("ab") as dump:
        dump.write(b"x")
    with pytest.raises(BackupError, match="is not what was copied"):
        off_host.into_folder(source, known, vault)
    assert contents(vault) == {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_said_and_nothing_half_stays(source, vault, monkeypatch):
    known = told(source, dump_files.CUSTOM)
    part, really = vault / f"{ID}.dump.part", os.open

    def open_full(path, *rest, **more):
        # The one disk that is full without being a test's own.
        return really("/dev/full", os.O_WRONLY) if path == part else really(path, *rest, **more)

    monkeypatch.setattr(os, "open", open_full)
    with pytest.raises(BackupError, match=r"has no room for backup .* make room there"):
        off_host.into_folder(source, known, vault)
    assert contents(vault) == {}


def test_folders_that_will_not_do(source, vault, tmp_path):
    assert "is on the same disk as the backups" in off_host.check_folder(vault, source)[0]
    for folder, why in ((tmp_path / "none", "is not there; mount it"), (source, "the folder of the backups itself")):
        with pytest.raises(BackupError, match=why):
            off_host.check_folder(folder, source)


def verify(vault: Path, form: str) -> list[str]:
    if form == dump_files.CUSTOM:
        return ["sha256sum", f"{vault}/{{id}}.dump"]
    return ["sh", "-c", f"cd {vault}/{{id}}.dump && sha256sum -- *"]


@BOTH
def test_a_command_copies_and_another_one_reads_back(source, vault, form):
    known = told(source, form)
    command = [*PYTHON, COPY, str(vault), "{dump}", "{globals}", "{manifest}"]
    off_host.by_command(source, known, command, verify(vault, form), 60)
    assert contents(vault) == contents(source)


@BOTH
def test_a_copy_that_is_another_one_is_found(source, vault, form):
    known = told(source, form)
    with pytest.raises(BackupError, match=r"is not what was copied: its sha256 there is [0-9a-f]{8}\.\.\."):
        off_host.by_command(source, known, [*PYTHON, COPY + SPOIL, str(vault), "{dump}"], verify(vault, form), 60)


def test_a_verification_that_prints_nothing_proves_nothing(source):
    known = told(source, dump_files.CUSTOM)
    with pytest.raises(BackupError, match="no sha256 was printed"):
        off_host.by_command(source, known, ["true"], ["true"], 60)
    known["dump"]["form"] = dump_files.DIRECTORY
    with pytest.raises(BackupError, match="no sha256 was printed"):
        off_host.by_command(source, known, ["true"], ["true"], 60)


def test_of_what_a_failing_program_says_one_line_is_shown_without_passwords(source):
    known = told(source, dump_files.CUSTOM)
    said = f"import sys; print('{SECRET}'); sys.exit('ftp://bob:{SECRET}@vault failed\\x1b[2J\\n{SECRET} more' + 'x' * 999)"
    with pytest.raises(BackupError) as failed:
        off_host.by_command(source, known, [*PYTHON, said], ["true"], 60)
    text = str(failed.value)
    assert "ftp://***@vault failed" in text
    assert SECRET not in text
    assert text.isprintable()
    assert len(text) < 300


def test_a_program_that_takes_too_long_is_ended(source):
    begun = time.monotonic()
    with pytest.raises(
        BackupError, match=r"took longer than 0\.2 s and was ended; see habitat_backup_copy\.time_limit"
    ):
        off_host.by_command(source, told(source, dump_files.CUSTOM), ["sleep", "60"], ["true"], 0.2)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ([], "has no words"),
        (["no-such-program-4711"], "no-such-program-4711, which copies backups, is not there"),
        (["true", "{dmup}"], r"\{dmup\} in a command for copying backups is not known; known: \{id\}"),
    ],
)
def test_commands_that_will_not_do_are_refused_before_they_run(source, command, why):
    with pytest.raises(BackupError, match=why):
        off_host.check_commands(["true"], command)


def test_words_reach_the_program_as_they_are(source, vault):
    known = told(source, dump_files.CUSTOM)
    odd = "$HOME; `id` '\" {dump}"
    write = f"import sys; open({str(vault / 'words')!r}, 'w').write(sys.argv[1])"
    with pytest.raises(BackupError):
        off_host.by_command(source, known, [*PYTHON, write, odd], ["true"], 60)
    assert (vault / "words").read_text() == odd.replace("{dump}", str(source / f"{ID}.dump"))
