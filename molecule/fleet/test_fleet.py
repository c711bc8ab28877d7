"""Several hosts: a canary that fails, and then all of them. The tests go on from each other, in this order."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stand.targets import Target, set_variables
from stand.terminal import Terminal

MIGRATE = "ansible-playbook migrate.yml -e env=staging"
ONE_BY_ONE = None
CANARY = [1, "100%"]

FAILS = "CREATE TABLE made (id int);\nSELECT 1 / 0;"
CORRECTED = "CREATE TABLE made (id int);"


def write(folder: Path, name: str, text: str) -> None:
    (folder / "schema" / name).write_text(f"{text}\n-- Down migration\nDROP TABLE {name[3:-4]};\n")


def newest_report(folder: Path) -> dict[str, Any]:
    """The report over all hosts of the newest run; each of its hosts has one of its own, unless it was left alone."""
    run = max((path for path in (folder / "reports").iterdir() if path.is_dir()), key=lambda path: path.name)
    report = json.loads((run / "report.json").read_text())
    begun = {row["host"] for row in report["hosts"] if row["outcome"] != "not_begun"}
    assert {path.parent.name for path in run.glob("*/report.json")} == begun
    assert (run / "report.md").is_file()
    return report


def outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {row["host"]: row["outcome"] for row in report["hosts"]}


@pytest.fixture(params=[ONE_BY_ONE, CANARY], ids=["one by one", "canary"])
def serial(request: pytest.FixtureRequest, folder: Path) -> Iterator[Any]:
    set_variables(folder, habitat_serial=request.param)
    return request.param


def test_a_canary_that_fails_leaves_the_others_alone(
    serial: Any, terminal: Terminal, targets: dict[str, Target], folder: Path
) -> None:
    canary, *others = targets.values()
    digests, containers = canary.digests(), canary.containers()
    before = {target.name: target.picture() for target in others}
    write(folder, "08_made.sql", FAILS)
    typed = terminal.type(MIGRATE)
    assert typed.code == 2, typed.screen
    assert "division by zero" in typed.screen
    # 06 and 07 were committed: the restore point took them back.
    assert canary.versions()[-1] == "05" and canary.digests() == digests
    assert canary.containers() == containers and canary.healthy()
    assert {target.name: target.picture() for target in others} == before
    report = newest_report(folder)
    assert report["outcome"] == "rolled_back"
    assert outcomes(report) == {"alpha": "rolled_back", "beta": "not_begun", "gamma": "not_begun"}
    assert "not begun, untouched" in typed.screen
    assert [target.ours_running() for target in targets.values()] == [[], [], []]


def test_corrected_all_are_done(serial: Any, terminal: Terminal, targets: dict[str, Target], folder: Path) -> None:
    name = "08_made.sql" if serial is ONE_BY_ONE else "09_more.sql"
    write(folder, name, CORRECTED.replace("made", name[3:-4]))
    before = {target.name: (target.containers(), target.digests()) for target in targets.values()}
    typed = terminal.type(MIGRATE)
    assert typed.code == 0, typed.screen
    report = newest_report(folder)
    assert report["outcome"] == "succeeded"
    assert outcomes(report) == dict.fromkeys(targets, "succeeded")
    for target in targets.values():
        assert target.versions()[-1] == name[:2] and target.healthy()
        assert (target.containers(), target.digests()) == before[target.name]
        assert target.ours_running() == []
    assert "3 of 3 hosts done" in typed.screen
    assert "inside container" not in typed.screen, "the dumps are made by the hosts' own programs"


def test_nothing_is_left_to_do(terminal: Terminal, targets: dict[str, Target], folder: Path) -> None:
    before = {target.name: target.picture() for target in targets.values()}
    reports = len(list((folder / "reports").iterdir()))
    typed = terminal.type(MIGRATE)
    assert typed.code == 0
    assert {typed.changed[name] for name in targets} == {0}
    assert {target.name: target.picture() for target in targets.values()} == before
    assert len(list((folder / "reports").iterdir())) == reports


def test_without_a_choice_every_host_says_what_it_could_go_back_to(
    terminal: Terminal, targets: dict[str, Target]
) -> None:
    before = {target.name: target.picture() for target in targets.values()}
    typed = terminal.type("ansible-playbook rollback.yml -e env=staging")
    assert typed.code == 2, typed.screen
    for name in targets:
        assert [line for line in typed.screen.splitlines() if line.startswith(f"{name} | BACKUPS")], typed.screen
    assert {target.name: target.picture() for target in targets.values()} == before
