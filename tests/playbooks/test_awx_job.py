"""The job templates of awx/ with answers as AWX's surveys send them, run by ansible-runner, as AWX runs its jobs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2.nativetypes import NativeEnvironment

from demo.embedded import state

BIN = Path(sys.executable).parent
RAW = yaml.safe_load((state.REPOSITORY / "awx" / "vars.yml").read_text())
NOT_CHECKED_OUT = shutil.ignore_patterns(
    ".venv", ".git", ".runtime", ".hypothesis", ".*_cache", "__pycache__", "reports", "backups"
)
META = {
    "job_id": 811,
    "job_launch_type": "manual",
    "job_template_id": 9,
    "job_template_name": "a template",
    "user_id": 3,
    "user_name": "alice",
    "user_email": "alice@example.com",
    "user_first_name": "Alice",
    "user_last_name": "",
    "project_revision": "0" * 40,
    "project_scm_branch": "main",
    "inventory_id": 2,
    "inventory_name": "Habitat environments",
    "workflow_job_id": 810,
    "workflow_job_name": "a workflow",
    "parent_job_schedule_id": 4,
    "parent_job_schedule_name": "a schedule",
}


class Unsafe(yaml.SafeDumper):
    """Marks every text, the keys too, as AWX marks all variables that do not come from the template itself."""


Unsafe.add_representer(str, lambda dumper, text: dumper.represent_scalar("!unsafe", text))


def resolved(value: Any) -> Any:
    """A value of awx/vars.yml with the other variables of that file in it."""
    if isinstance(value, str) and "{{" in value:
        context = {name: resolved(other) for name, other in RAW.items() if name in value}
        return NativeEnvironment().from_string(value).render(context)
    if isinstance(value, list):
        return [resolved(one) for one in value]
    return {key: resolved(one) for key, one in value.items()} if isinstance(value, dict) else value


TEMPLATES = {template["name"]: template for template in resolved(RAW["awx_templates"])}


def survey_sends(template: str, typed: dict[str, Any]) -> dict[str, Any]:
    """Variables of a launch: AWX sends an empty text for what was left blank, and the default of a choice."""
    questions = {question["variable"]: question for question in TEMPLATES[template]["survey"]}
    assert set(typed) <= set(questions)
    assert {name for name, question in questions.items() if question["required"]} <= set(typed)
    return {name: typed.get(name, question.get("default", "")) for name, question in questions.items()}


class Awx:
    """A private data folder of ansible-runner as AWX fills it for a job."""

    def __init__(self, folder: Path, runtime: Path) -> None:
        self.folder, self.stdout, self._jobs = folder / "awx_811", "", 0
        self.project = self.folder / "project"
        shutil.copytree(state.REPOSITORY, self.project, symlinks=True, ignore=NOT_CHECKED_OUT)
        (self.folder / "env").mkdir()
        (self.folder / "inventory").mkdir()
        self._import_inventory()
        variables = {
            "HABITAT_RUNTIME": str(runtime),
            "ANSIBLE_COLLECTIONS_PATH": f"{self.folder}/requirements_collections:collections",
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "ANSIBLE_NOCOLOR": "1",
        }
        (self.folder / "env" / "envvars").write_text(yaml.safe_dump(variables))

    def _import_inventory(self) -> None:
        """A job sees the inventory as a program beside the checkout that prints what was imported from it."""
        command = [str(BIN / "ansible-inventory"), "-i", "inventories", "--list", "--export"]
        done = subprocess.run(command, cwd=self.project, capture_output=True, text=True, check=True)
        hosts = self.folder / "inventory" / "hosts"
        hosts.write_text(f"#!{sys.executable}\nprint({done.stdout!r})\n")
        hosts.chmod(0o700)

    def __call__(self, template: str, *options: str, runner: str = "pexpect", **typed: Any) -> int:
        """Launch a template; the exit code of the job, which has a terminal with runner pexpect only."""
        meta = {f"{prefix}_{name}": value for prefix in ("awx", "tower") for name, value in META.items()}
        unsafe = yaml.dump({**meta, **survey_sends(template, typed)}, Dumper=Unsafe)
        (self.folder / "env" / "extravars").write_text(unsafe + yaml.safe_dump(resolved(RAW["awx_extra_vars"])))
        (self.folder / "env" / "settings").write_text(json.dumps({"runner_mode": runner}))
        (self.folder / "env" / "cmdline").write_text(" ".join(options))
        self._jobs += 1
        playbook = TEMPLATES[template]["playbook"]
        command = [sys.executable, "-m", "ansible_runner", "run", str(self.folder), "-p", playbook]
        command += ["--ident", str(self._jobs)]
        done = subprocess.run(
            command, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=600, check=False
        )
        written = self.folder / "artifacts" / str(self._jobs) / "stdout"
        self.stdout = written.read_text() if written.exists() else done.stdout + done.stderr
        return done.returncode

    def reports(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.project.glob("reports/*/report.json"))]


@pytest.fixture
def awx(tmp_path: Path, running_stack: Path) -> Awx:
    return Awx(tmp_path, running_stack)


@pytest.mark.long
def test_a_migration_with_everything_left_blank(awx, at_05):
    assert awx("Database migration", env="local") == 0, awx.stdout
    assert at_05.versions()[-1] == "07"
    (report,) = awx.reports()
    assert (report["outcome"], report["run"]["operator"]) == ("succeeded", "alice")
    assert report["run"]["origin"] == "AWX job 811"
    assert "RESULT    SUCCEEDED   schema 05 -> 07" in awx.stdout


@pytest.mark.parametrize(
    ("template", "name"),
    [("Database migration", "target"), ("Database rollback", "to"), ("Database rollback", "backup")],
)
def test_an_answer_that_is_a_template_is_never_evaluated(awx, at_05, tmp_path, template, name):
    canary = tmp_path / "canary"
    hostile = f"{{{{ lookup('pipe', 'touch {canary}') }}}}"
    assert awx(template, runner="subprocess", env="local", **{name: hostile}) == 2
    assert f'REFUSED   {name} is "' in awx.stdout
    assert not canary.exists()
    assert at_05.versions()[-1] == "05"


def test_a_version_that_ansible_would_read_as_another_number_is_refused(awx, at_05):
    assert awx("Database migration", env="local", target="012") == 2
    assert "REFUSED   target is " in awx.stdout
    assert at_05.versions()[-1] == "05"


@pytest.mark.long
def test_every_template(awx, at_05):
    assert awx("Database backup", env="local", runner="subprocess") == 0, awx.stdout
    assert awx("Database migration", "--check", "--diff", env="local", target="v06") == 0, awx.stdout
    assert at_05.versions()[-1] == "05"
    assert awx("Database migration", env="local", target="v06", runner="subprocess") == 0, awx.stdout
    assert at_05.versions()[-1] == "06"
    assert awx("Database migration", env="local") == 0, awx.stdout
    assert awx("Database status", env="local") == 0, awx.stdout
    assert "local / habitat   schema 07   API healthy" in awx.stdout
    assert awx("Database resume", env="local") == 0, awx.stdout
    assert awx("Database resume", env="local", mode="recover") == 0, awx.stdout
    assert "no run was cut off, nothing to put right" in awx.stdout
    assert awx("Database cancel", env="local") == 0, awx.stdout
    assert "no run is going on" in awx.stdout
    assert awx("Database rollback", env="local") == 2
    assert "nothing was chosen" in awx.stdout
    assert at_05.versions()[-1] == "07"
    # The API of AWX takes numbers and truth values, too.
    assert awx("Database rollback", env="local", steps=1, accept_data_loss=True) == 0, awx.stdout
    assert at_05.versions()[-1] == "06"
    assert awx("Database rollback", env="local", backup="latest") == 0, awx.stdout
    assert at_05.versions()[-1] == "07"
    assert awx("Database rollback", env="local", to="v06", accept_data_loss="true") == 0, awx.stdout
    assert at_05.versions()[-1] == "06"
    assert awx("Database migration", env="local", target="v05", confirm="local") == 2
    assert "REFUSED   target 05 is below the current version 06" in awx.stdout


def test_surveys_ask_for_what_the_playbooks_take():
    taken = {
        "playbooks/status.yml": {"env", "output"},
        "playbooks/backup.yml": {"env", "tag", "confirm"},
        "playbooks/drill.yml": {"env", "backup"},
        "migrate.yml": {"env", "target", "confirm"},
        "rollback.yml": {"env", "backup", "to", "steps", "adopt_identity", "reason", "accept_data_loss", "confirm"},
        "playbooks/resume.yml": {"env", "mode", "confirm"},
        "playbooks/cancel.yml": {"env", "run"},
    }
    for template in TEMPLATES.values():
        assert {question["variable"] for question in template["survey"]} <= taken[template["playbook"]]
        variables = [question["variable"] for question in template["survey"]]
        assert len(set(variables)) == len(variables)
        assert all({"question_name", "type", "required"} <= set(question) for question in template["survey"])
        # A default that is an empty text, or a choice without one, is refused by some versions of AWX.
        choices = [question for question in template["survey"] if question["type"] == "multiplechoice"]
        assert all(one["required"] or one["default"] in one["choices"] for one in choices)
        assert [one["choices"] for one in choices if one["variable"] == "env"] == [["staging", "production"]]


def test_schedules_answer_what_is_required():
    for schedule in resolved(RAW["awx_schedules"]):
        sent = survey_sends(schedule["template"], schedule["extra_data"])
        assert sent["env"] in ("staging", "production")
        # To put right what is dead needs no confirmation.
        needs_confirmation = "confirm" in sent and sent.get("mode") != "recover"
        assert schedule["extra_data"].get("confirm") == ("production" if needs_confirmation else None)
        assert schedule["rrule"].startswith("DTSTART:2026")


def test_the_playbook_that_sets_awx_up_is_one():
    command = [str(BIN / "ansible-playbook"), "--syntax-check", "awx/configure.yml"]
    done = subprocess.run(command, cwd=state.REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
