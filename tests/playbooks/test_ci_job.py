"""The steps of .github/workflows/database-migration.yml, run in a checkout of their own as GitHub's runner runs them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.embedded import state
from tests.playbooks.conftest import UP, begin_window, kill_everything

WORKFLOW = state.REPOSITORY / ".github" / "workflows" / "database-migration.yml"
EXPRESSION = re.compile(r"\$\{\{\s*(\w+)\.(\w+)\s*\}\}")
NOT_CHECKED_OUT = shutil.ignore_patterns(
    ".venv", ".git", ".runtime", ".hypothesis", ".*_cache", "__pycache__", "reports", "backups"
)
SECRETS = {
    "HABITAT_SSH_KEY": "-----BEGIN KEY-----\r\nhunter2\r\n-----END KEY-----",
    "HABITAT_VAULT_PASSWORD": "o' $pen",
}
VARIABLES = {"HABITAT_KNOWN_HOSTS": "habitat.example.com ssh-ed25519 AAAA"}


def workflow() -> dict[str, Any]:
    # YAML 1.1 would read the key `on` as true; this loader makes texts only, so there is nothing unsafe in it.
    return yaml.load(WORKFLOW.read_text(), Loader=yaml.BaseLoader)  # noqa: S506


def steps() -> list[dict[str, Any]]:
    return workflow()["jobs"]["run"]["steps"]


class Job:
    """A checkout and a runner's folders; each call is one run of the workflow's job."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.checkout = folder / "check out"
        shutil.copytree(state.REPOSITORY, self.checkout, symlinks=True, ignore=NOT_CHECKED_OUT)
        self._have_it_installed()
        self.temp = folder / "temp"
        self.temp.mkdir()
        self.summary = folder / "summary.md"
        # Without what a make around the tests would make of a make inside them.
        around = {name: text for name, text in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        self.environment = {
            **around,
            "CI": "true",
            "GITHUB_ACTOR": "octocat",
            "GITHUB_RUN_ID": "4711",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_WORKSPACE": str(self.checkout),
            "RUNNER_TEMP": str(self.temp),
            "HABITAT_RUNTIME": str(runtime),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
        self.log, self.ran = "", []

    def _have_it_installed(self) -> None:
        """The .venv of this test run, younger than requirements.txt, so that `make venv` finds nothing to do."""
        installed = self.checkout / ".venv"
        installed.mkdir()
        for name in ("bin", "lib", "pyvenv.cfg"):
            (installed / name).symlink_to(Path(sys.prefix) / name)
        (installed / "ready").touch()

    def __call__(self, upto: str = "", environment: str = "local", cancelled: str = "", **inputs: str) -> int:
        """Run the steps, the last of them being upto; the exit code of the first one that failed.

        cancelled: the step in which somebody cancels the job; it is left out, as if it had been killed outright.
        """
        values = {"check": "false", "accept_data_loss": "false", "environment": environment, **inputs}
        contexts = {"inputs": values, "secrets": SECRETS, "vars": VARIABLES}
        code, over, self.log, self.ran = 0, False, "", []
        for step in steps():
            condition = step.get("if", "success()").split(" && ")[0]
            assert condition in ("success()", "always()", "cancelled()")
            over = over or bool(cancelled and step["name"].startswith(cancelled))
            if "run" in step and {"always()": True, "success()": not code and not over, "cancelled()": over}[condition]:
                ended = self._run(step, contexts)
                code = code or ended
            if upto and step["name"].startswith(upto):
                break
        return code

    def _run(self, step: dict[str, Any], contexts: dict[str, dict[str, str]]) -> int:
        # GitHub hands an empty text for what does not exist.
        own = {
            name: EXPRESSION.sub(lambda found: contexts[found[1]].get(found[2], ""), text)
            for name, text in step.get("env", {}).items()
        }
        done = subprocess.run(
            ["bash", "-e", "-c", step["run"]],
            cwd=self.checkout,
            env={**self.environment, **own},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=600,
            check=False,
        )
        self.log += done.stdout
        self.ran.append(step["name"])
        return done.returncode

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The reports among what the last step uploads, newest last."""
        uploaded = next(step["with"]["path"] for step in steps() if "upload-artifact" in step.get("uses", ""))
        return [json.loads(path.read_text()) for path in sorted((self.checkout / uploaded).glob("*/report.json"))]


@pytest.fixture
def job(tmp_path: Path, running_stack: Path) -> Iterator[Job]:
    yield Job(tmp_path, running_stack)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Job]:
    """A job that gets no further than its inputs and needs no stack."""
    yield Job(tmp_path, tmp_path / "no stack")


@pytest.mark.long
def test_up_is_the_run_an_operator_types(job, at_05):
    code = job(direction="up", target="06")
    assert code == 0, job.log
    assert at_05.versions()[-1] == "06"
    (report,) = job.kept
    assert (report["outcome"], report["run"]["operator"], report["run"]["origin"]) == (
        "succeeded",
        "octocat",
        "GitHub run 4711",
    )
    assert "RESULT    SUCCEEDED   schema 05 -> 06" in job.log
    assert report["run"]["id"] in job.summary.read_text()
    assert list(job.temp.iterdir()) == [], "credentials stay nowhere"
    assert not [text for text in ("hunter2", SECRETS["HABITAT_VAULT_PASSWORD"]) if text in job.log]


@pytest.mark.long
def test_a_cancelled_job_puts_right_what_its_run_left(job, at_05):
    run_id = kill_everything(at_05, begin_window(at_05))
    assert at_05.services()["habitat:api1"] == "STOPPED"
    assert job(direction="up", cancelled="Run the runbook") == 0, job.log
    assert at_05.services() == UP
    assert f"CUT OFF   run {run_id} by " in job.log
    assert "NEXT      ansible-playbook playbooks/resume.yml -e env=local" in job.log
    assert list(job.temp.iterdir()) == [], "credentials stay nowhere"


@pytest.mark.long
def test_check_status_and_down(job, at_05):
    assert job(direction="up", check="true") == 0, job.log
    assert "CREATE TABLE" in job.log
    assert at_05.versions()[-1] == "05"
    assert job(direction="up") == 0, job.log
    assert job(direction="status") == 0, job.log
    assert "local / habitat   schema 07   API healthy" in job.log
    at_05.stop_service("habitat:worker")
    at_05.execute("INSERT INTO members (display_name, email) VALUES ('a', 'a@x.org')")
    at_05.execute(
        "INSERT INTO email_verifications (member_id, email, token, expires_at) "
        "SELECT id, email, 'token', now() FROM members LIMIT 1"
    )
    assert job(direction="down", steps="1") == 2
    assert "the down migrations would drop or change rows" in job.log
    assert at_05.versions()[-1] == "07"
    assert job(direction="down", steps="1", accept_data_loss="true") == 0, job.log
    assert at_05.versions()[-1] == "06"
    assert job(direction="down") == 2
    assert "NEXT      type one of these" in job.log
    assert job(direction="down", backup="latest") == 0, job.log
    assert at_05.versions()[-1] == "07"
    assert [report["outcome"] for report in job.kept][-1] == "succeeded"


def hostile(canary: str) -> dict[str, str]:
    return {
        "substitution": f"$(touch {canary})",
        "backquotes": f"`touch {canary}`",
        "semicolon": f"07; touch {canary}",
        "quotes": f"""'"; touch {canary}; '""",
        "newline": f"07\ntouch {canary}",
        "template": f"{{{{ lookup('pipe', 'touch {canary}') }}}}",
        "statement": f"{{% set x = lookup('pipe', 'touch {canary}') %}}",
        "blanks": "07 -e env=staging",
        "file": "@/etc/passwd",
        "command of the runner": "07\n::add-path::/tmp",
        "long": "x" * 5120 + ";",
    }


@pytest.mark.parametrize("kind", hostile(""))
@pytest.mark.parametrize(
    ("direction", "name"),
    [("up", "target"), ("down", "to"), ("down", "steps"), ("down", "backup"), ("down", "reason")],
)
def test_hostile_inputs_do_nothing(desk, tmp_path, direction, name, kind):
    canary = tmp_path / "canary"
    assert desk(direction=direction, **{name: hostile(str(canary))[kind]}) == 2
    assert desk.log.count("REFUSED") == 1
    assert f'REFUSED   {name} is "' in desk.log
    assert not re.search("^(::|touch)", desk.log, re.MULTILINE)
    assert "Run the runbook" not in desk.ran
    assert not canary.exists()
    assert list(desk.temp.iterdir()) == []


@pytest.mark.parametrize("name", ["environment", "direction"])
def test_a_hostile_choice_does_nothing(desk, tmp_path, name):
    canary = tmp_path / "canary"
    for value in hostile(str(canary)).values():
        assert desk("Check the", **{"environment": "local", "direction": "up", name: value}) == 2
        assert f'REFUSED   {name} is "' in desk.log
    assert not canary.exists()


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"direction": "up", "to": "05"}, "to does not belong to direction up"),
        ({"direction": "status", "check": "true"}, "check does not belong to direction status"),
        ({"direction": "down", "target": "05"}, "target does not belong to direction down"),
        ({"direction": "down", "to": "05", "steps": "1"}, "to and steps are both given"),
        ({"direction": "up", "target": "latest"}, 'target is "latest"'),
        ({"direction": "up", "reason": "because"}, "reason does not belong to direction up"),
        ({"direction": "down", "backup": "latest", "adopt_identity": "staging"}, "adopt_identity is given alone"),
        ({"direction": "sideways"}, 'direction is "sideways"'),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused(desk, inputs, said):
    assert desk("Check the", **inputs) == 2
    assert f"REFUSED   {said}" in desk.log
    assert list(desk.temp.iterdir()) == []


def test_what_is_put_down_for_the_run(desk):
    assert desk("Check the", environment="production", direction="down", backup="latest", check="true") == 0, desk.log
    assert desk.log.replace("make: Nothing to be done for 'venv'.\n", "") == ""
    folder = desk.temp / "habitat"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    assert json.loads(texts["command.json"]) == ["rollback.yml", "--check", "--diff"]
    assert json.loads(texts["variables.json"]) == {"env": "production", "backup": "latest", "confirm": "production"}
    assert texts["ssh_key"] == "-----BEGIN KEY-----\nhunter2\n-----END KEY-----\n"
    assert texts["known_hosts"] == VARIABLES["HABITAT_KNOWN_HOSTS"] + "\n"
    assert texts["vault"] == SECRETS["HABITAT_VAULT_PASSWORD"] + "\n"


def test_a_reason_may_be_a_sentence(desk):
    why = "Ticket #4711 (größer): slow query, see alice/bob."
    more = {"direction": "down", "backup": "production-20261122t100211z-k3f", "adopt_identity": "staging"}
    assert desk("Check the", environment="staging", reason=why, **more) == 0, desk.log
    assert json.loads((desk.temp / "habitat" / "variables.json").read_text())["reason"] == why


def test_a_key_without_known_hosts_is_refused(desk, monkeypatch):
    monkeypatch.delitem(VARIABLES, "HABITAT_KNOWN_HOSTS")
    assert desk("Check the", direction="status") == 2
    assert "the variable HABITAT_KNOWN_HOSTS is empty" in desk.log
    assert list(desk.temp.iterdir()) == []


def test_the_workflow_takes_what_its_first_step_reads():
    on = workflow()["on"]
    declared = set(on["workflow_dispatch"]["inputs"])
    read = {name for step in steps() for name in step.get("env", {}) if name.startswith("INPUT_")}
    assert read == {f"INPUT_{name.upper()}" for name in declared}
    assert set(on) == {"workflow_dispatch"}
    assert on["workflow_dispatch"]["inputs"]["environment"]["options"] == ["staging", "production"]


def test_nothing_of_outside_is_in_a_shell_line_and_every_action_is_pinned():
    for step in steps():
        assert "${{" not in step.get("run", "")
        assert "uses" not in step or re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"])
    secrets = [step["name"] for step in steps() if "secrets." in json.dumps(step)]
    assert secrets == ["Check the inputs, put the credentials down"]
    assert workflow()["permissions"] == {}
    assert workflow()["concurrency"]["cancel-in-progress"] == "false"
