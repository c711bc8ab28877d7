# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a host needs besides the database: Python's psycopg, client programs, two private folders. Standard library."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OLDEST_PSYCOPG = (3, 1)
_OURS_ALONE = 0o700
_SEARCHED = "/usr/lib/postgresql"  # Debian keeps the programs of several versions here


class HostError(Exception):
    """The host is not as it has to be and this cannot change it; the text is one sentence for the operator."""


def user() -> str:
    """Name of the user who runs this."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def psycopg_version() -> str:
    """Version of psycopg 3 for this Python; empty when there is none that can be loaded."""
    try:
        import psycopg
    except ImportError:
        return ""
    return psycopg.__version__


def missing(programs: Iterable[str], version: str, bin_dir: str = "") -> list[str]:
    """What is not there, each as a noun: psycopg for this Python (version: as found), and of the programs which."""
    found = []
    numbers = tuple(int(number) for number in re.findall(r"[0-9]+", version)[:2])
    if numbers < OLDEST_PSYCOPG:
        has = f", it has {version}" if version else ""
        found.append(f"psycopg 3.1 or later for {sys.executable}{has}")
    return found + [name for name in programs if not program(name, bin_dir)]


def program(name: str, bin_dir: str = "") -> str | None:
    """Path of a client program: in ``bin_dir``, or else on the PATH or where Debian keeps it."""
    if bin_dir:
        return shutil.which(name, path=bin_dir)
    debian = sorted(Path(_SEARCHED).glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(debian[-1]) if debian else None)


def folder(path: Path, check: bool) -> str:
    """Make a folder of ours, 0700, with its parents; returns what came of it.

    ok: it was so; made, closed: it was made, or others' access taken away (in check mode: would be); rights: only root
    can make it. Raises HostError for what is no folder and for one of somebody else, which may hold more than ours.
    """
    try:
        info = path.stat()
    except FileNotFoundError:
        return _make(path, check)
    except OSError as error:
        raise HostError(f"{user()} cannot look at {path}: {error.strerror}; let this user pass its parents") from error
    if not stat.S_ISDIR(info.st_mode):
        raise HostError(f"{path} is not a folder; move it away, or name another one in the inventory")
    if info.st_uid != os.geteuid():
        raise HostError(
            f"{path} belongs to user {info.st_uid} and not to {user()}, who runs this; name another folder in the "
            f"inventory, or as root: chown {user()} {path}"
        )
    if stat.S_IMODE(info.st_mode) == _OURS_ALONE:
        return "ok"
    if not check:
        path.chmod(_OURS_ALONE)
    return "closed"


def _make(path: Path, check: bool) -> str:
    above = next(parent for parent in path.parents if parent.exists())
    if not above.is_dir():
        raise HostError(f"{above} is not a folder, and {path} is to be in it; move it away")
    if not os.access(above, os.W_OK | os.X_OK):
        return "rights"
    if not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=_OURS_ALONE, exist_ok=True)
        path.chmod(_OURS_ALONE)
    return "made"


def prepare(folders: Iterable[str], programs: Iterable[str], bin_dir: str, check: bool) -> dict[str, Any]:
    """Look at the host and make the folders that need no rights; see RETURN of module bootstrap_host for the keys."""
    version = psycopg_version()
    states = {path: folder(Path(path), check) for path in folders}
    return {
        "user": user(),
        "python": sys.executable,
        "psycopg": version,
        "programs": {name: program(name, bin_dir) or "" for name in programs},
        "missing": missing(programs, version, bin_dir),
        "folders": states,
        "need_rights": [path for path, state in states.items() if state == "rights"],
        "changed": any(state in ("made", "closed") for state in states.values()),
    }
