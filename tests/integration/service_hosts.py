"""Ground for tests of the service managers: an image of links into the host's /usr, and the module itself."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.services import ServiceError
from ansible_collections.habitat.runbook.plugins.modules.services import work

from tests.integration.module_process import MODULES, begin, finish

REPOSITORY = Path(__file__).parents[2]
DEFAULTS: dict[str, Any] = {
    **{"state": "read", "scope": "system", "log_lines": 0},
    **{name: None for name in ("log_since", "server_url", "folder", "file", "run_dir")},
}
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
USR = "--volume=/usr:/usr:ro"


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], text=True, capture_output=True, check=False)
    assert not check or done.returncode == 0, done
    return done.stdout.strip()


def require_engine() -> None:
    """Skip the module's tests unless there is an engine that sees this machine's own files."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker Engine answers here", allow_module_level=True)
    if not Path("/bin").is_symlink() or not Path("/usr/bin/python3").exists():
        pytest.skip("this host has not all its programs in /usr", allow_module_level=True)


def import_image(name: str, files: dict[str, str]) -> None:
    """An image of some kilobytes: the files, and a root whose programs are those of the /usr it is started with."""
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for link, target in LINKS.items():
                if Path(f"/{target}").exists():
                    entry = tarfile.TarInfo(link)
                    entry.type, entry.linkname = tarfile.SYMTYPE, target
                    tar.addfile(entry)
            for path, text in files.items():
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(text.encode()), 0o755 if text.startswith("#!") else 0o644
                tar.addfile(entry, io.BytesIO(text.encode()))
        subprocess.run(["docker", "import", "-", name], input=packed.getvalue(), capture_output=True, check=True)


def services(check: bool = False, **options: Any) -> dict[str, Any]:
    """What the module answers, without a process of its own; ``{"msg"}`` when it fails."""
    try:
        return work({**DEFAULTS, **options}, check)
    except ServiceError as error:
        return {"msg": str(error)}


def module(*command: str, check: bool = False, **options: Any) -> dict[str, Any]:
    """What the module answers as Ansible runs it; ``command`` starts Python where that is done."""
    program = [*(command or (sys.executable,)), "-m", f"{MODULES}.services"]
    return finish(begin(program, {**options, "_ansible_check_mode": check}))
