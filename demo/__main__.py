"""``make demo``: the runbook on this machine alone, from an empty folder to a migrated database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

from demo.embedded import state

BIN = Path(sys.executable).parent
FIRST_TARGET = "05"

_NEXT = """
What to try next (first: source .venv/bin/activate):
  ansible-playbook playbooks/status.yml -e env=local        where things stand
  ansible-playbook migrate.yml -e env=local                 says that nothing is pending
  ansible-playbook migrate.yml -e env=local --check --diff  after adding schema/08_something.sql: the plan, with its SQL
  ansible-playbook playbooks/backup.yml -e env=local        a proved backup
  ansible-playbook rollback.yml -e env=local                what there is to go back to, and the command for it
  python -m demo.embedded down                              stop everything, keep the data
"""


def step(title: str, *command: str) -> None:
    """Show what is typed, and run it; the first failure ends the demo with its exit code."""
    print(f"\n== {title}\n$ {' '.join(command)}", flush=True)
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, check=False, cwd=state.REPOSITORY, env={**os.environ, "PATH": path})
    if done.returncode:
        sys.exit(done.returncode)


def schema_version() -> int:
    """The schema's version as the API tells it; 0 for an empty database."""
    stack = state.load(state.runtime_folder())
    if stack is None:
        return 0
    with urllib.request.urlopen(stack.health_urls[0], timeout=5) as answer:  # noqa: S310 (our own loopback address)
        return int(json.load(answer)["schema_version"] or 0)


def main() -> None:
    step("PostgreSQL, two API processes and a worker, all on this machine", "python", "-m", "demo.embedded", "up")
    if schema_version() < int(FIRST_TARGET):
        migrate = ("ansible-playbook", "migrate.yml", "-e", "env=local", "-e", f"target={FIRST_TARGET}")
        step("A database as it was some releases ago", *migrate)
    step("Members and contributions in it", "python", "-m", "demo.embedded", "seed")
    step("The migration", "ansible-playbook", "migrate.yml", "-e", "env=local")
    step("Where things stand now", "ansible-playbook", "playbooks/status.yml", "-e", "env=local")
    print(_NEXT)


if __name__ == "__main__":
    main()
