"""``python -m tests.faults.by_runner PLAYBOOK ARGUMENTS``: a job as AWX runs it, cancelled once a file is there."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path

import ansible_runner

from demo.embedded import state


def main() -> int:
    wish = Path(os.environ["HABITAT_CANCEL_WISH"])
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as private:
        done = ansible_runner.run(
            private_data_dir=private,
            project_dir=str(state.REPOSITORY),
            playbook=sys.argv[1],
            cmdline=shlex.join(sys.argv[2:]),
            cancel_callback=wish.exists,
            settings={"pexpect_timeout": 1},
        )
    print(done.status)
    return done.rc


if __name__ == "__main__":
    sys.exit(main())
