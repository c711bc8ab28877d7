# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Long steps as jobs of their own on the host: they go on when the controller, or the link to it, is gone.

A module forks itself: the child, in a session of its own, does the work and writes what it would have printed into a
file of the run; the parent waits for it for a while and answers with that, or with "it is running".
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import linecache
import os
import sys
import time
import traceback
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.habitat.runbook.plugins.module_utils import run_folder

OPTIONS = {"run_dir": {"type": "path"}, "wait": {"type": "float"}}
"""Options of a module whose work may be a job, as in the documentation fragment habitat.runbook.job."""

_POLL_SECONDS = 0.02
_NO_RESULT = "the step has left no result: it was ended from outside, or the disk of its run is full; see status.yml"


def run(module: AnsibleModule, name: str, work: Callable[[], Any]) -> None:
    """Do the work, which ends by exit_json or fail_json, as a job of the run in option run_dir.

    Option ``wait``: seconds after which the answer is "it is running"; None, check mode and no run_dir mean no job.
    """
    run_dir, wait = module.params["run_dir"], module.params["wait"]
    if module.check_mode or wait is None or not run_dir or not Path(run_dir).is_dir():
        return work()
    run_folder.sign_of_life(run_dir)
    path = output(Path(run_dir), name)
    path.unlink(missing_ok=True)
    child = _fork(path, work)
    if wait_for(path, wait, lambda: os.waitpid(child, os.WNOHANG)[0] != 0):
        relay(path)
    module.exit_json(changed=False, running=name)


def output(run_dir: Path, name: str) -> Path:
    """The file that has a job's result when the job is done; while it works there is one ending in .part."""
    return run_dir / f"job-{name}.json"


def wait_for(path: Path, seconds: float, ended: Callable[[], bool] = lambda: False) -> bool:
    """Wait until the job is over; False when it still works after so many seconds."""
    deadline = time.monotonic() + seconds
    while not path.exists() and not ended() and at_work(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def at_work(path: Path) -> bool:
    """Whether the job's process lives: it holds a lock on what it writes."""
    try:
        with path.with_suffix(".part").open() as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def relay(path: Path) -> NoReturn:
    """Print a job's result as if it were ours, and exit."""
    sys.stdout.write(read(path))
    sys.stdout.flush()
    sys.exit(0)


def read(path: Path) -> str:
    """A job's result as it was printed; that it was ended when there is none."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_text()
    return json.dumps({"failed": True, "gone": True, "msg": _NO_RESULT})


def _fork(path: Path, work: Callable[[], Any]) -> int:
    """Start the child; it has read all its code and holds its lock when this returns."""
    part = path.with_suffix(".part")
    ready, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        os.read(ready, 1)
        os.close(ready)
        return child
    try:
        os.setsid()
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream, target in ((0, nowhere), (1, handle), (2, nowhere)):
            os.dup2(target, stream)
        _load_all()
        os.write(tell, b".")
        os.close(tell)
        _finish(work)
        os.fsync(handle)
        part.rename(path)
    finally:
        os._exit(0)


def _finish(work: Callable[[], Any]) -> None:
    try:
        work()
    except SystemExit:
        sys.stdout.flush()
    except BaseException as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(f"{type(error).__name__}: {error} ({Path(at.filename).name}:{at.lineno})".split())
        sys.stdout.write(json.dumps({"failed": True, "msg": text}))
        sys.stdout.flush()


def _load_all() -> None:
    """Load what may be needed later: the module's code is a temporary file that is removed when the parent ends."""
    archive = getattr(sys.modules[AnsibleModule.__module__].__spec__.loader, "archive", None)  # type: ignore[union-attr]
    if not archive:
        return
    with zipfile.ZipFile(archive) as code:
        for name in code.namelist():
            if name.endswith(".py") and "/module_utils/" in name and "/_ansiballz/" not in name:
                # One that cannot be loaded here could not have been used, either.
                with contextlib.suppress(Exception):
                    module = importlib.import_module(name[: -len(".py")].removesuffix("/__init__").replace("/", "."))
                    # Some give their own text to a process of their own.
                    linecache.getlines(str(module.__file__), vars(module))
