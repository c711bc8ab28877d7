"""What is found of runs that were cut off, by their folders alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import interrupted, last_run, recovery, run_folder

from tests.unit.cut_off import DOWN, EVERYTHING, applying, begun, cut_off_run, line, told
from tests.unit.samples import RUN_ID, SERVICES

OLDER, NEWER = "20261121t080000z-x1y", "20261123t080000z-z9z"
RESUME = "ansible-playbook playbooks/resume.yml -e env=staging"


def left(state_dir: Path, run_id: str, lines: list[dict[str, Any]], **changes: Any) -> Path:
    """The folder of a run whose host went away."""
    folder = state_dir / run_id
    folder.mkdir(parents=True)
    (folder / run_folder.RUN).write_text(json.dumps(cut_off_run(id=run_id, **changes)))
    (folder / run_folder.JOURNAL).write_text("".join(json.dumps(one) + "\n" for one in lines))
    return folder


def kept(state_dir: Path, report: dict[str, Any]) -> Path:
    folder = state_dir / run_folder.REPORTS / report["run"]["id"]
    folder.mkdir(parents=True)
    recovery.write_report(folder, report)
    return folder


def of(run_id: str, **changes: Any) -> dict[str, Any]:
    return told(run=cut_off_run(id=run_id, **changes), **EVERYTHING)


def test_a_run_is_described_by_its_journal(tmp_path):
    left(tmp_path, RUN_ID, applying())
    left(tmp_path, OLDER, begun(), database="other")
    (found,) = interrupted.list_unsettled(tmp_path, "habitat")
    assert found == {
        "run_id": RUN_ID,
        "operator": "alice",
        "origin": "AWX job 811",
        "where": "while migrations were applied",
        "at": "2026-11-22T10:02:15.000+00:00",
        "stopped": SERVICES,
        "next": RESUME,
    }


def test_a_run_without_a_journal_is_described_all_the_same(tmp_path):
    folder = left(tmp_path, RUN_ID, [])
    for _ in range(2):
        (found,) = interrupted.list_unsettled(tmp_path, "habitat")
        assert (found["where"], found["at"], found["stopped"]) == ("before anything was touched", None, [])
        (folder / run_folder.JOURNAL).unlink(missing_ok=True)


def test_no_new_run_begins_before_it_is_put_right(tmp_path):
    assert interrupted.refusals(tmp_path, "habitat") == []
    left(tmp_path, RUN_ID, applying())
    left(tmp_path, NEWER, begun())
    assert interrupted.refusals(tmp_path, "habitat") == [
        {
            "what": f"run {RUN_ID} by alice was cut off while migrations were applied and not put right yet",
            "found": "its services are stopped: habitat:api_0, habitat:api_1, habitat:worker",
            "next": RESUME,
        },
        {
            "what": f"run {NEWER} by alice was cut off after the backup was taken and not put right yet",
            "found": "",
            "next": RESUME,
        },
    ]
    assert interrupted.refusals(tmp_path, "other") == []


@pytest.mark.parametrize(
    ("reports", "run_id"),
    [
        ([], None),
        ([of(RUN_ID)], RUN_ID),
        ([of(OLDER), of(RUN_ID)], RUN_ID),
        ([of(OLDER), {**of(RUN_ID), "cut_off": False}], None),
        ([of(OLDER), of(RUN_ID, database="other")], OLDER),
        ([of(OLDER), of(RUN_ID, command="playbooks/backup.yml")], OLDER),
        ([of(OLDER), of(RUN_ID, command="habitat.runbook.backup")], OLDER),
        ([of(OLDER), {**of(RUN_ID), "outcome": "refused", "cut_off": False}], OLDER),
        ([of(RUN_ID, command="rollback.yml", inputs={"to": "05"})], RUN_ID),
        ([of(RUN_ID, command="rollback.yml", inputs={"backup": "latest"})], None),
    ],
)
def test_only_the_newest_run_is_finished_and_only_if_it_was_cut_off(tmp_path, reports, run_id):
    for report in reports:
        kept(tmp_path, report)
    found = interrupted.last_cut_off(tmp_path, "habitat")
    assert (found["run"]["id"] if found else None) == run_id


def test_what_is_no_report_is_passed_by(tmp_path):
    folder = kept(tmp_path, of(RUN_ID))
    for name, text in (("a", "{"), ("b", "[]"), ("z", '{"database": "habitat"')):
        (folder.parent / f"{NEWER}{name}").mkdir()
        (folder.parent / f"{NEWER}{name}" / "report.json").write_text(text)
    found = interrupted.last_cut_off(tmp_path, "habitat")
    assert found and found["run"]["id"] == RUN_ID


def test_it_is_taken_on_once(tmp_path):
    report = of(RUN_ID)
    path = kept(tmp_path, report) / "report.json"
    interrupted.take_on(tmp_path, report, NEWER)
    assert json.loads(path.read_text()) == {**report, "cut_off": False, "resumed_by": NEWER, "next": ""}
    assert interrupted.last_cut_off(tmp_path, "habitat") is None


def test_the_status_finds_the_report_of_a_run_that_was_cut_off(tmp_path):
    path = kept(tmp_path, of(RUN_ID))
    found = last_run.read(path / "report.json")
    assert found and (found["cut_off"], found["outcome"], found["next"]) == (True, "stopped_safe", RESUME)


def test_a_backup_that_was_cut_off_is_done_when_the_same_command_came_to_its_end_since(tmp_path):
    kept(tmp_path, of(OLDER, command="playbooks/backup.yml"))
    reports = tmp_path / run_folder.REPORTS
    found = last_run.newest(reports, "staging")
    assert found and found["next"] == "ansible-playbook playbooks/backup.yml -e env=staging"
    well = [line("intent", "BACKUP", 1), line("done", "BACKUP", 2), line("done", "release", 3)]
    for serial, (lines, changes) in enumerate(
        [
            (well, {"command": "playbooks/drill.yml"}),
            (well, {"inputs": {"env": "staging", "tag": "before-sale"}}),
            ([line("done", "PREFLIGHT", 1), line("done", "release", 3)], {}),
            ([line("intent", "BACKUP", 1), line("failed", "BACKUP", 2), line("done", "release", 3)], {}),
            (well, {}),
        ]
    ):
        assert last_run.newest(reports, "staging") == found
        run_id = f"2026112{serial + 3}t080000z-z9z"
        (reports / run_id).mkdir()
        run = cut_off_run(id=run_id, **{"command": "playbooks/backup.yml", **changes})
        (reports / run_id / run_folder.RUN).write_text(json.dumps(run))
        (reports / run_id / run_folder.JOURNAL).write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert last_run.newest(reports, "staging") == {**found, "next": ""}


def test_at_its_end_a_run_is_told_what_was_seen_of_it(tmp_path):
    folder = tmp_path / RUN_ID
    nothing = {"ended": None, "probes": {"asked": 0, "good": 0, "down_seconds": None}}
    assert interrupted.seen(folder) == nothing
    report = kept(tmp_path, {**of(RUN_ID), "cut_off": False})
    assert interrupted.seen(folder)["ended"] is None
    recovery.write_report(report, of(RUN_ID))
    probes = [{"mono": second, "good": second not in (2, 3)} for second in range(6)]
    text = "".join(json.dumps(one) + "\n" for one in probes)
    (report / run_folder.PROBES).write_text(text + '{"mono": 6, "go')
    assert interrupted.seen(folder) == {"ended": of(RUN_ID), "probes": {"asked": 6, "good": 4, "down_seconds": 3}}


# What is kept of a run that is over.


def test_what_is_worth_keeping_is_kept_and_the_folder_is_gone(tmp_path):
    folder = left(tmp_path, RUN_ID, applying())
    for name in (run_folder.STEP, run_folder.PROGRAM, run_folder.CANCEL, "plan", "fence.json", "job-backup.json"):
        (folder / name).write_text("{}")
    recovery.mark_ended(folder, cut_off_run(), "bob cancelled it")
    recovery.keep(folder, of(RUN_ID))
    report = tmp_path / run_folder.REPORTS / RUN_ID
    assert not folder.exists()
    assert {path.name for path in report.iterdir()} == {
        "run.json",
        "journal.ndjson",
        "ended.json",
        "report.json",
        "report.md",
    }
    assert report.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in report.glob("report.*"))
    with pytest.raises(run_folder.Ended, match="bob cancelled it"):
        run_folder.refuse_ended(folder)


def test_the_token_is_that_of_the_first_end(tmp_path):
    folder = left(tmp_path, RUN_ID, [])
    recovery.mark_ended(folder, cut_off_run(), "first")
    recovery.mark_ended(folder, cut_off_run(), "second")
    assert (run_folder.read_json(folder / run_folder.ENDED) or {})["why"] == "first"


@pytest.mark.parametrize("problems", [[], [DOWN]])
def test_what_could_not_be_put_right_stays_for_the_next_try(tmp_path, problems):
    folder = left(tmp_path, RUN_ID, [*begun(), line("intent", "GUARD", 20, why="x")])
    righted = recovery.account.Righted("resume.yml", "x", problems=problems)
    report = recovery.conclude(folder, cut_off_run(), righted)
    assert folder.exists() is bool(problems)
    assert json.loads((tmp_path / run_folder.REPORTS / RUN_ID / "report.json").read_text()) == report
    assert report["phase"] == "BACKUP"
