# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The guard as one file that runs by itself, also when nothing of Ansible is on the host any more."""

from __future__ import annotations

import inspect
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType

from ansible_collections.habitat.runbook.plugins.module_utils import (
    account,
    bridge,
    command_line,
    container,
    docker,
    fence_record,
    guard,
    health,
    lock_session,
    probe,
    recovery,
    run_folder,
    services,
    services_compose,
    services_kinds,
    services_supervisor,
    services_systemd,
    table,
    way_in,
)

PARTS: tuple[ModuleType, ...] = (
    account, bridge, command_line, container, docker, fence_record, guard, health, lock_session, probe, recovery,
    run_folder, services, services_compose, services_kinds, services_supervisor, services_systemd, table, way_in,
)  # fmt: skip
"""All modules that the guard needs."""

_MAIN = f"import sys\nfrom {guard.__name__} import main\nsys.exit(main(sys.argv[1:]))\n"


def write(folder: Path) -> Path:
    """Write the program into a folder and return its path."""
    path = folder / run_folder.PROGRAM
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o700), "wb") as handle:
        handle.write(f"#!{sys.executable}\n".encode())
        with zipfile.ZipFile(handle, "w") as program:
            program.writestr("__main__.py", _MAIN)
            packages: set[str] = set()
            for part in PARTS:
                names = part.__name__.split(".")
                packages.update("/".join(names[:depth]) for depth in range(1, len(names)))
                program.writestr("/".join(names) + ".py", inspect.getsource(part))
            for package in sorted(packages):
                program.writestr(f"{package}/__init__.py", "")
        handle.flush()
        os.fsync(handle.fileno())
    return path
