"""A private PostgreSQL for the whole test session, and a fresh database for every test."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import psycopg
import pytest

from demo.embedded import postgres
from tests.waiting import wait_for

# A shell starts what it puts into the background without SIGINT, and everything below inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")

# In memory a database is made and dropped three times as fast as on a disk.
MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 4_000_000_000


def _is_good_for_all(folder: Path) -> bool:
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        return False
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize > ENOUGH_BYTES and not disk.f_flag & os.ST_NOEXEC


if "TMPDIR" not in os.environ and _is_good_for_all(MEMORY):
    tempfile.tempdir = str(MEMORY)


@dataclass(frozen=True)
class Cluster:
    """A running server: its socket folder, port and superuser."""

    folder: Path
    port: int
    pid: int

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def conninfo(self, database: str = "postgres", user: str = "postgres") -> dict[str, str | int]:
        """Keyword arguments of ``psycopg.connect``."""
        return {"host": str(self.folder), "port": self.port, "dbname": database, "user": user}

    def connect(self, database: str = "postgres", **more) -> psycopg.Connection:
        return psycopg.connect(**{**self.conninfo(database), "autocommit": True, **more})

    def answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            self.connect().close()
            return True
        return False

    def psql(self, database: str, *arguments: str, user: str = "postgres") -> subprocess.CompletedProcess[str]:
        command = [
            postgres.tool("psql"),
            "-X",
            "-h",
            str(self.folder),
            "-p",
            str(self.port),
            "-U",
            user,
            "-d",
            database,
        ]
        return subprocess.run([*command, *arguments], text=True, capture_output=True, check=False)


def _start(folder: Path, **settings: str) -> subprocess.Popen[bytes]:
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            postgres.server_command("postgres", "-D", str(folder / "data"), "-k", str(folder), *options),
            stdout=log,
            stderr=log,
        )


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One server without TCP; a short path, since a socket's may have 107 bytes only."""
    folder = Path(tempfile.mkdtemp(prefix="habitat-pg-"))
    postgres.init_cluster(folder / "data", "postgres")
    server = _start(folder, listen_addresses="", fsync="off", max_connections="60", log_statement="none")
    running = Cluster(folder, 5432, server.pid)
    wait_for(running.answers)
    yield running
    server.send_signal(signal.SIGINT)
    server.wait(timeout=120)
    shutil.rmtree(folder)


_serial = itertools.count(1)


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """Name of an empty database that is dropped after the test."""
    name = f"t{os.getpid()}_{next(_serial)}"
    with cluster.connect() as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0 STRATEGY file_copy')
    yield name
    with cluster.connect() as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture
def connection(cluster: Cluster, database: str) -> Iterator[psycopg.Connection]:
    """An autocommit connection to the test's own database."""
    with cluster.connect(database) as session:
        yield session
