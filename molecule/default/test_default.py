"""After looking, the migration 05 -> 07, and the same once more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from testinfra.host import Host

from stand.targets import FOLDERS, Target
from stand.terminal import Terminal


def test_looking_changes_nothing(folder: Path, before: dict[str, Any], target: Target) -> None:
    assert json.loads((folder / "shown.json").read_text())[target.name] == before


def test_plan_and_check_show_what_will_run(terminal: Terminal) -> None:
    for screen in (terminal.screens("migrate")[1], terminal.screens("plan")[0]):
        assert "06" in screen and "security" in screen
        assert "07" in screen and "email_verifications" in screen
    assert "CREATE TABLE email_verifications" in terminal.screens("migrate")[1]


def test_migrates_and_a_second_run_changes_nothing(terminal: Terminal) -> None:
    first, again = terminal.screens("migrate")[2:4]
    assert "RESULT    SUCCEEDED   schema 05 -> 07" in first
    assert "inside container" in first
    assert "changed=0" in again.split("PLAY RECAP")[1].split("localhost")[0]


def test_database_has_the_new_schema_and_the_old_rows(target: Target, before: dict[str, Any]) -> None:
    assert target.versions() == ["01", "02", "03", "04", "05", "06", "07"]
    assert target.psql("SELECT count(*) FROM email_verifications") == ["0"]
    assert target.digests() == before["digests"]
    assert target.databases() == ["habitat", "postgres"]


def test_application_runs_in_the_same_containers(target: Target, before: dict[str, Any]) -> None:
    assert target.containers() == before["containers"]
    assert target.ask("GET", "/api/health")[1]["schema_version"] == "07"
    assert target.ask("POST", "/api/members", {"email": "new@example.org", "display_name": "New"})[0] == 201


def test_status_has_nothing_to_do(terminal: Terminal) -> None:
    typed = terminal.type("ansible-playbook playbooks/status.yml -e env=staging")
    assert typed.code == 0
    assert "schema 07   API healthy" in typed.screen
    assert "NEXT      nothing to do" in typed.screen
    assert set(typed.changed.values()) == {0}


def test_only_deploy_can_read_what_a_run_leaves(target: Target, node: Host) -> None:
    for path, found in target.files().items():
        assert found == ("deploy 700" if node.file(path).is_directory else "deploy 600"), path
    for path in FOLDERS:
        assert node.file(path).listdir()
    assert len([path for path in target.files() if path.endswith("/report.md")]) == 2


def test_reports_here_are_private(folder: Path) -> None:
    found = list((folder / "reports").rglob("*"))
    assert [path for path in found if path.name == "report.json"]
    for path in found:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_nothing_is_left_running(target: Target) -> None:
    assert target.ours_running() == []


def test_no_secret_is_shown_or_kept(terminal: Terminal, target: Target, folder: Path, node: Host) -> None:
    """The first migration was typed with -vvv."""
    assert "ESTABLISH SSH CONNECTION" in terminal.screens("migrate")[0]
    texts = terminal.screens() + [path.read_text() for path in (folder / "reports").rglob("report.*")]
    texts += [node.check_output("cat %s", path) for path in target.files() if path.endswith((".json", ".md"))]
    for name, secret in target.secrets().items():
        assert not [text for text in texts if secret in text], name
