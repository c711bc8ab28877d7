"""What is said about a run over several hosts, wherever it stands; screens are kept in ``golden/fleet``."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import fleet
from ansible_collections.habitat.runbook.plugins.plugin_utils import reports

from tests.unit.runs import RUNS, finished
from tests.unit.samples import UGLY, raw, run
from tests.unit.test_report import tables_of

WELL, FAILED, REFUSED, SICK = (
    finished(RUNS[name]) for name in ("succeeded", "migration_failed", "refused", "unhealthy")
)
HOSTS = ["db1", "db2", "db3"]


def combined(
    reports: dict[str, dict[str, Any]], begun: dict[str, str] | None = None, hosts: list[str] | None = None
) -> dict[str, Any]:
    return fleet.combine(reports, hosts or HOSTS, begun or {})


def outcomes(whole: dict[str, Any]) -> list[str]:
    return [row["outcome"] for row in whole["hosts"]]


UGLY_HOSTS = [f"db1 | `{UGLY}`", "[db2](http://example.com)", "db3\\", "*_~db4", "db5" * 20]
SCENES = {
    "first": combined({"db1": WELL}),
    "all": combined(dict.fromkeys(HOSTS, WELL)),
    "all_but_those_with_nothing_to_do": combined(
        {"db2": WELL}, {"db1": fleet.NOTHING_TO_DO, "db3": fleet.NOTHING_TO_DO}
    ),
    "one_failed": combined({"db1": WELL, "db2": FAILED}),
    "first_refused": combined({"db1": REFUSED}),
    "two_failed_at_once": combined({"db3": SICK, "db2": FAILED, "db1": WELL}),
    "in_one_batch": combined({"db2": WELL}, {"db1": fleet.GOING_ON, "db3": fleet.GOING_ON}),
    "one_lost": combined({"db1": WELL}, {"db2": fleet.LOST}),
    "ugly": combined(
        {UGLY_HOSTS[0]: WELL, UGLY_HOSTS[1]: finished(RUNS["ugly"]), UGLY_HOSTS[4]: FAILED},
        {UGLY_HOSTS[2]: fleet.GOING_ON},
        UGLY_HOSTS,
    ),
}


@pytest.mark.parametrize("name", SCENES)
def test_the_screen(golden, name):
    golden(f"fleet/screen_{name}", fleet.screen(SCENES[name]))


@pytest.mark.parametrize("name", SCENES)
def test_the_report_for_people(golden, name):
    golden(f"fleet/markdown_{name}", fleet.markdown(SCENES[name]).rstrip("\n"))


@pytest.mark.parametrize("name", SCENES)
def test_no_name_breaks_the_table_or_becomes_markup(name):
    text = fleet.markdown(SCENES[name])
    (table,) = tables_of(text)
    assert set(table) == {5}
    assert len(table) == 2 + len(SCENES[name]["hosts"])
    plain = text.replace("\\<", "").replace("\\[", "").replace("\\`", "")
    assert [mark for mark in ("<script", "[db2]", "`") if mark in plain] == []


@pytest.mark.parametrize("name", SCENES)
def test_the_report_for_programs_is_plain_json_with_every_host_once(name):
    whole = SCENES[name]
    assert json.loads(json.dumps(whole)) == whole
    hosts = [row["host"] for row in whole["hosts"]]
    assert len(set(hosts)) == len(hosts) == (len(UGLY_HOSTS) if name == "ugly" else 3)
    assert whole["format"] == WELL["format"]


@pytest.mark.parametrize("hosts", list(itertools.permutations(HOSTS)))
def test_the_hosts_are_in_the_order_of_the_run_and_the_worst_decides(hosts):
    reports = {"db1": WELL, "db2": FAILED, "db3": SICK}
    for order in itertools.permutations(HOSTS):
        whole = combined({host: reports[host] for host in order}, hosts=list(hosts))
        assert [row["host"] for row in whole["hosts"]] == list(hosts)
        assert whole["outcome"] == SICK["outcome"]
        assert whole["state"] == f"db3: {SICK['state']} db2: {FAILED['state']}"
        assert whole["next"] == SICK["next"]


def test_a_lost_host_is_bad_and_says_where_to_look():
    whole = combined({"db1": WELL, "db3": FAILED}, {"db2": fleet.LOST})
    assert whole["outcome"] == fleet.LOST
    assert whole["state"].startswith("db2: It was begun and could not be reached any more. db3: ")
    assert whole["next"] == "look first: ansible-playbook playbooks/status.yml -e env=staging"
    assert fleet.stopped_by({"db1": WELL}, {"db2": fleet.LOST}) == (
        "db2 of this run ended with LOST on the way, so no further host is begun"
    )


def finished_at(text: str) -> dict[str, Any]:
    return {**WELL, "finished_at": text}


def test_the_run_ends_with_its_last_host():
    reports = {"db1": finished_at("2026-11-22T10:05:00+00:00"), "db2": finished_at("2026-11-22T10:04:00+00:00")}
    assert combined(reports)["finished_at"] == "2026-11-22T10:05:00+00:00"


@pytest.mark.parametrize(
    ("begun", "outcome", "told"),
    [
        ({}, "going_on", ["not_begun", "not_begun", "succeeded"]),
        ({"db2": "going_on"}, "going_on", ["not_begun", "going_on", "succeeded"]),
        ({"db1": "nothing_to_do", "db2": "going_on"}, "going_on", ["nothing_to_do", "going_on", "succeeded"]),
        (
            {"db1": "nothing_to_do", "db2": "nothing_to_do"},
            "succeeded",
            ["nothing_to_do", "nothing_to_do", "succeeded"],
        ),
    ],
)
def test_the_whole_has_succeeded_when_no_host_is_left(begun, outcome, told):
    whole = combined({"db3": WELL}, begun)
    assert outcomes(whole) == told
    assert whole["outcome"] == outcome


def test_hosts_that_are_not_begun_are_named_as_untouched():
    whole = combined({"db1": FAILED})
    assert whole["state"] == f"db1: {FAILED['state']} Not begun and untouched: db2, db3."
    assert combined({"db1": WELL})["state"] == "1 of 3 hosts done. Not begun and untouched: db2, db3."
    assert combined(dict.fromkeys(HOSTS, WELL))["state"] == "3 of 3 hosts done."


def test_only_what_ended_well_is_counted_as_done():
    assert "1 of 3 hosts done" in fleet.screen(combined({"db1": WELL, "db2": FAILED}))
    assert "1 of 1 host done" in fleet.screen(combined({"db1": WELL}, {}, ["db1"]))
    assert "0 of 1 host done" in fleet.screen(combined({"db1": SICK}, {}, ["db1"]))


def test_no_report_is_linked_that_is_not_there():
    lines = fleet.markdown(combined({"db1": WELL}, {"db2": fleet.GOING_ON})).splitlines()
    rows = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| db")}
    assert "db1/report.md" in rows["db1"]
    assert [host for host in ("db2", "db3") if "report.md" in rows[host]] == []


@pytest.mark.parametrize("failed", [FAILED, REFUSED, SICK])
def test_nothing_more_is_begun_after_a_host_that_did_not_succeed(failed):
    why = fleet.stopped_by({"db1": WELL, "db2": failed}, {"db3": fleet.GOING_ON})
    assert why
    assert why.startswith("db2 of this run ended with ")
    assert why.endswith("so no further host is begun")


def test_the_first_by_name_is_named():
    reports = {"db2": FAILED, "db1": SICK}
    assert [fleet.stopped_by(dict(order), {}) for order in itertools.permutations(reports.items())] == [
        "db1 of this run ended with STOPPED, NEEDS YOU, so no further host is begun"
    ] * 2


def test_the_next_is_begun_while_all_succeeded():
    assert fleet.stopped_by({}, {"db1": fleet.GOING_ON}) is None
    assert fleet.stopped_by({"db1": WELL, "db2": finished(raw(run=run(operator=UGLY)))}, {}) is None


def begun(batch: list[str], **registered: dict[str, Any]) -> dict[str, str]:
    """How hosts stand by what they have registered; those that are not in the batch are done."""
    hosts = list(registered)
    return reports.begun({"ansible_play_hosts_all": hosts, "ansible_play_batch": batch, "hostvars": registered})


def test_how_the_hosts_stand_that_were_begun():
    taken = {"turn_taken": {"changed": False}}
    assert begun(
        ["db4"],
        db1={**taken, "preflight_ledger": {"pending": []}},
        db2={**taken, "plan_revert_found": {"reverts": []}},
        db3={**taken, "preflight_ledger": {"pending": ["07"]}},
        db4=taken,
        db5={},
    ) == {"db1": fleet.NOTHING_TO_DO, "db2": fleet.NOTHING_TO_DO, "db3": fleet.LOST, "db4": fleet.GOING_ON}


def test_a_host_for_which_the_play_was_left_out_was_not_begun():
    """As resume.yml does where nothing was cut off; the task is skipped there, which is a result, too."""
    assert begun(["db2"], db1={"turn_taken": {"skipped": True}}, db2={"turn_taken": {}}) == {"db2": fleet.GOING_ON}
