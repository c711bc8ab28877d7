"""Wrong inputs are refused before any connection, in one clear sentence."""

from __future__ import annotations

import os
import subprocess

import pytest

from demo.embedded import state
from tests.playbooks.conftest import BIN


def typed(tmp_path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HABITAT_RUNTIME": str(tmp_path / "none"), "ANSIBLE_NOCOLOR": "1"}
    command = [str(BIN / "ansible-playbook"), *arguments]
    return subprocess.run(command, cwd=state.REPOSITORY, env=environment, text=True, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["migrate.yml"], ["no environment given", "known: compose, local, production, staging", "add -e env=NAME"]),
        (["migrate.yml", "-e", "env=produciton"], ['env is "produciton"', "did you mean production?"]),
        (["migrate.yml", "-e", "env=all"], ['env is "all"', "known: compose, local, production, staging"]),
        (["playbooks/status.yml", "-e", "env=local,staging"], ['env is "local,staging"']),
        (["migrate.yml", "-e", "env=production"], ["production needs to be confirmed", "add -e confirm=production"]),
        (["migrate.yml", "-e", "env=production", "-e", "confirm=yes"], ['confirm is "yes"']),
        (
            ["migrate.yml", "-e", "env=production", "-e", "confirm=production", "-e", "habitat_service_manager=runit"],
            ["production cannot be run", "habitat_service_manager of habitat-production is runit", "known: compose, "],
        ),
        (
            ["playbooks/plan.yml", "-e", "env=staging", "-e", "habitat_service_manager="],
            ["staging cannot be run", "habitat_service_manager of habitat-staging is not set"],
        ),
        (["migrate.yml", "-e", "env=local", "-e", "versoin=06"], ['unknown variable "versoin"']),
        (["migrate.yml", "-e", "env=local", "-e", "target=6;DROP"], ['target is "6;DROP"', "a version is its digits"]),
        (["migrate.yml", "-e", "env=local"], ["local is not ready", "python -m demo.embedded up"]),
        (["migrate.yml", "-e", "env=local", "--limit", "localhost,habitat-local"], ["--limit", "leave it out"]),
        (["playbooks/baseline.yml", "-e", "to=x"], ['to is "x"']),
        (["playbooks/plan.yml", "-e", "env=local", "-e", "output=xml"], ['output is "xml"', "known: table, json"]),
    ],
)
def test_refused(tmp_path, arguments, words):
    done = typed(tmp_path, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout.startswith("REFUSED"), done.stdout
    for word in words:
        assert word in done.stdout
    assert "nothing was changed" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_limit_that_leaves_the_first_play_out_is_no_way_around(tmp_path):
    done = typed(tmp_path, "migrate.yml", "-e", "env=production", "--limit", "habitat-production")
    assert done.returncode != 0
    assert "run it without --limit" in done.stdout


def test_the_playbook_is_the_table_of_contents(tmp_path):
    done = typed(tmp_path, "migrate.yml", "-e", "env=local", "--list-tasks")
    assert done.returncode == 0, done.stderr
    phases = ["preflight", "backup", "stop", "apply", "start", "verify"]
    positions = [done.stdout.index(f"habitat.runbook.{phase} : ") for phase in phases]
    assert positions == sorted(positions)


def test_every_playbook_runs_by_its_full_name(tmp_path):
    for name in ("migrate", "plan", "status", "backup", "baseline"):
        done = typed(tmp_path, f"habitat.runbook.{name}")
        assert "no environment given" in done.stdout, done.stdout + done.stderr
