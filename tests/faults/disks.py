"""Disks that are full: refused beforehand, or safe. Small file systems of their own; only root can mount them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults import invariants
from tests.faults.shots import Outcome, everything_shown
from tests.faults.stand import PATIENT_SILENCE, Command, Stand, next_command, quick, standing, wait_for
from tests.playbooks.conftest import Finished

DISK_MEGABYTES = 400
"""More than what preflight wants to be left free."""

_CHUNK = b"\0" * 4096


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    folder.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        wait_for(lambda: subprocess.run(["umount", str(folder)], capture_output=True).returncode == 0, "umount", 60)


def can_mount(folder: Path) -> bool:
    try:
        with small_disk(folder / "try", 1):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def fill(folder: Path) -> Path:
    """Leave no byte free; removing the file gives the room back."""
    ballast = folder / "ballast"
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(_CHUNK):
            pass
    with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
        while file.write(b"\0"):
            pass
    return ballast


def full(stand: Stand, which: str, moment: str) -> Outcome:
    """``which``: runs or backups; ``moment``: beforehand, or the phase of the run that finds it full."""
    outcome, begun = Outcome("migrate", f"{which} full, {moment}", "ENOSPC"), time.monotonic()
    if not (os.geteuid() == 0 and can_mount(stand.folder)):
        outcome.note = "SKIPPED: only root can mount a small disk"
        return outcome
    stand.reset("habitat_05")
    folder = stand.runtime / which
    shutil.rmtree(folder, ignore_errors=True)
    with small_disk(folder, DISK_MEGABYTES):
        command = _run_into(stand, folder, moment)
        done = command.finished()
        (folder / "ballast").unlink(missing_ok=True)
        _judge(stand, done, command, outcome)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _run_into(stand: Stand, folder: Path, moment: str) -> Command:
    if moment == "beforehand":
        fill(folder)
        return stand.launch("migrate.yml", *quick(PATIENT_SILENCE))
    command = stand.launch("migrate.yml", *quick(PATIENT_SILENCE))
    wait_for(lambda: _seen(stand, moment) or command.process.poll() is not None, moment)
    fill(folder)
    return command


def _seen(stand: Stand, moment: str) -> bool:
    folders = stand.run_folders()
    return bool(folders) and any((one["event"], one["what"]) == ("done", moment) for one in stand.journal(folders[0]))


def _judge(stand: Stand, done: Finished, command: Command, outcome: Outcome) -> None:
    """It failed with a word, nothing was lost, and with room again the same command succeeds."""
    command.gone()
    outcome.note = " ".join(next(iter(_words(done)), "no word").split())[:90]
    outcome.expect(done.code != 0 or stand.versions()[-1] == "07", "it neither failed nor did its work")
    outcome.broken += [f"before: {one}" for one in invariants.broken(stand)]
    typed = next_command(stand.type("playbooks/status.yml").screen) or ["migrate.yml"]
    for words in (typed, ["migrate.yml"]):
        again = stand.type(*words)
        outcome.expect(again.code == 0, f"with room again {words[0]} ends with {again.code}")
    outcome.expect(stand.versions()[-1] == "07", "the migration is not done")
    outcome.broken += [f"after: {one}" for one in invariants.broken(stand)]
    if outcome.broken:
        outcome.shown = everything_shown(stand)


def _words(done: Finished) -> list[str]:
    return [line for line in done.screen.splitlines() if line.startswith(("FAILED", "REFUSED", "RESULT"))]


def full_data(stand: Stand) -> Outcome:
    """The disk of the database's own data, on a stand of its own whose folder is a small disk."""
    outcome, begun = Outcome("migrate", "data full, beforehand", "ENOSPC"), time.monotonic()
    if not (os.geteuid() == 0 and can_mount(stand.folder)):
        outcome.note = "SKIPPED: only root can mount a small disk"
        return outcome
    elsewhere = stand.folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    with small_disk(stand.folder / "small", 600) as folder, standing(folder) as other:
        other.aside = elsewhere
        other.reset("habitat_05")
        ballast = fill_but(folder, 1024 * 1024)
        places = [f"habitat_{name}_dir={elsewhere / name}" for name in ("state", "backup", "reports")]
        done = other.type("migrate.yml", *quick(PATIENT_SILENCE), *(word for place in places for word in ("-e", place)))
        ballast.unlink()
        outcome.note = " ".join(next(iter(_words(done)), "no word").split())[:90]
        refused = "fail  space for the data" in done.screen and "nothing was changed" in done.screen
        outcome.expect(refused, f"it was not refused: {done.screen[-300:]}")
        outcome.expect(done.code == 2 and other.versions()[-1] == "05", f"it ends with {done.code}")
        outcome.broken += [f"before: {one}" for one in invariants.broken(other)]
        outcome.expect(other.type("migrate.yml").code == 0, "with room again it does not succeed")
        outcome.broken += [f"after: {one}" for one in invariants.broken(other)]
    outcome.seconds = time.monotonic() - begun
    return outcome


def fill_but(folder: Path, left: int) -> Path:
    ballast = folder / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - left))
    return ballast
