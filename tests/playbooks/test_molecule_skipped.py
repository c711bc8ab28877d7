"""The scenarios under molecule/ have a command of their own; make test says whether it would run or skip them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def _engine_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "version"], capture_output=True, check=False, timeout=60).returncode == 0


def test_the_scenarios_can_be_run() -> None:
    if not _engine_answers():
        pytest.skip("molecule's scenarios: no Docker Engine answers; type: .ci/engine, then: make molecule")


def test_without_an_engine_they_are_skipped_in_one_line(tmp_path: Path) -> None:
    """As `make molecule` behaves where Docker is there and its engine is not."""
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    command = ["make", "--no-print-directory", "--assume-old=requirements.txt", "--assume-old=.venv/ready", "molecule"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, text=True, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("SKIPPED   molecule's scenarios: no Docker Engine answers")
