"""Files against ledger: states, refusals, targets and baselines, without a database."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.comparison import (
    Comparison,
    baseline_versions,
    compare,
    refuse_target,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.samples import by_hand, checksum, head, ledger, progress, row

NUMBERS = st.lists(st.integers(0, 2000), unique=True, max_size=8)
TIMESTAMP = 20260210100000


def files(*versions: str) -> list[dict]:
    return [head(version) for version in versions]


def step(version: str, **changes: Any) -> dict:
    """The head of a file that is no transaction, with what ran of it unchanged."""
    return head(version, **{"mode": "steps", "prefix": checksum("p"), **changes})


def compared(heads: list[dict], found: dict) -> Comparison:
    return compare(heads, found, "staging")


def states(comparison: Comparison) -> dict[str, str]:
    return {state.version: state.label for state in comparison.states}


def whats(comparison: Comparison) -> list[str]:
    return [refusal.what for refusal in comparison.refusals]


def test_every_state_a_version_can_have():
    heads = [*files("01", "02", "03", "04", "06"), step("08"), head("09")]
    rows = [
        row("01", kind="baseline"),
        row("02"),
        by_hand("03"),
        row("04", checksum=checksum("b")),
        row("05"),
        row("07"),
    ]
    found = compared(heads, ledger(*rows, progress=[progress("08")]))
    assert states(found) == {
        "01": "baseline",
        "02": "applied",
        "03": "by hand",
        "04": "changed",
        "05": "missing",
        "06": "out of order",
        "07": "missing",
        "08": "partial 2/5",
        "09": "pending",
    }
    assert found.current == "07"
    assert [state.version for state in found.pending()] == ["08", "09"]


def test_a_state_carries_what_the_ledger_knows():
    (applied,) = compared(files("02"), ledger(row("02"))).states
    assert (applied.applied_at, applied.applied_by, applied.duration_ms, applied.run_id) == (
        "2026-02-10T09:00:00.120311+00:00",
        "alice",
        12,
        "20260210t090000z-a1b",
    )
    (partial,) = compared([step("08")], ledger(progress=[progress("08")])).states
    assert (partial.done, partial.total, partial.run_id) == (2, 5, "20261121t220000z-p02")
    assert partial.error == "canceling statement due to lock timeout"


def test_an_empty_database_has_everything_pending_and_no_version():
    found = compared(files("01", "02"), ledger(exists=False, objects=0))
    assert (states(found), found.current, found.refusals) == ({"01": "pending", "02": "pending"}, None, [])


def test_nothing_at_all():
    found = compared([], ledger(exists=False, objects=0))
    assert (found.states, found.current, found.refusals, found.pending()) == ([], None, [], [])


def test_the_founding_tables_two_columns_are_enough():
    found = compared(files("01", "02"), ledger({"version": "01", "applied_at": "2026-02-10T09:00:00"}))
    assert (states(found), found.refusals) == ({"01": "by hand", "02": "pending"}, [])


def test_a_number_in_the_version_column_is_a_version():
    assert states(compared(files("01"), ledger({"version": 1}))) == {"1": "by hand"}


@given(NUMBERS, NUMBERS, st.data())
def test_order_is_that_of_the_numbers(in_files, in_ledger, data):
    zeros = st.integers(0, 3).map(lambda count: "0" * count)
    heads = [head(f"{data.draw(zeros)}{number}") for number in in_files]
    rows = [by_hand(f"{data.draw(zeros)}{number}") for number in in_ledger]
    found = compared(heads, ledger(*rows))
    numbers = [int(state.version) for state in found.states]
    assert numbers == sorted(set(in_files) | set(in_ledger))
    assert found.current is None if not in_ledger else int(found.current) == max(in_ledger)


@given(NUMBERS, NUMBERS)
def test_a_row_by_hand_is_never_a_mismatch(in_files, in_ledger):
    found = compared(files(*map(str, in_files)), ledger(*(by_hand(str(number)) for number in in_ledger)))
    assert all(state.state == "by hand" for state in found.states if state.number in in_ledger)
    about_files = [f"schema/{number}_members.sql is out of order" for number in in_files]
    assert set(whats(found)) <= {*about_files, "the database is not empty but has no ledger of migrations"}


@given(NUMBERS, NUMBERS)
def test_pending_is_exactly_what_is_not_recorded(in_files, in_ledger):
    found = compared(files(*map(str, in_files)), ledger(*(row(str(number)) for number in in_ledger), objects=0))
    late = {state.number for state in found.states if state.state == "out of order"}
    pending = {state.number for state in found.pending()}
    assert pending | late == set(in_files) - set(in_ledger)
    assert not pending & late
    assert all(number < max(in_ledger) for number in late)
    assert bool(found.refusals) == bool(late or set(in_ledger) - set(in_files))


@given(NUMBERS, st.integers(0, 2000))
def test_a_target_cuts_what_is_pending(in_files, target):
    found = compared(files(*map(str, in_files)), ledger(objects=0))
    assert [state.number for state in found.pending(str(target))] == sorted(n for n in in_files if n <= target)


def test_timestamps_and_small_numbers_live_together():
    found = compared(files("07", str(TIMESTAMP)), ledger(row("07")))
    assert [state.version for state in found.pending()] == [str(TIMESTAMP)]


def test_the_comparison_as_data_is_plain_json():
    data = compared(files("01", "05"), ledger(row("02"))).as_data()
    assert json.loads(json.dumps(data)) == data
    assert [version["label"] for version in data["versions"]] == ["out of order", "missing", "pending"]
    assert set(data["refusals"][0]) == {"what", "found", "next"}


REFUSED = {
    "edited": (
        [head("05", "indexes", checksum=checksum("b"))],
        ledger(row("05", "indexes")),
        "schema/05_indexes.sql was changed after it was applied",
        "applied 2026-02-10 09:00:00 with sha256 aaaaaaaa..., now bbbbbbbb...",
        "restore the file (git log -- schema/05_indexes.sql) and put the change into a new migration",
    ),
    "edited, applied nobody knows when": (
        files("05"),
        ledger(row("05", checksum=checksum("b"), applied_at=None)),
        "schema/05_members.sql was changed after it was applied",
        "applied at an unknown time with",
        "restore the file",
    ),
    "missing": (
        [],
        ledger(row("05", "indexes")),
        "migration 05 is applied but its file is missing",
        "applied 2026-02-10 09:00:00 as 05_indexes.sql",
        "git log --diff-filter=D -- 'schema/05_*'",
    ),
    "missing and without a name": (
        [],
        ledger(row("05", None)),
        "migration 05 is applied",
        "as the file of 05",
        "bring",
    ),
    "out of order": (
        files("04", "05"),
        ledger(row("05")),
        "schema/04_members.sql is out of order",
        "05 is already applied and 04 is not",
        "rename it to a version above 05",
    ),
    "partial and edited where it already ran": (
        [step("08", prefix=checksum("q"))],
        ledger(progress=[progress("08")]),
        "schema/08_members.sql was changed after it was begun",
        "2 of its 5 statements already ran",
        "restore those statements",
    ),
    "partial and gone": (
        [],
        ledger(progress=[progress("08")]),
        "the file of partial 08 is missing",
        "2 of its 5 statements already ran",
        "bring the file back",
    ),
    "partial and a transaction now": (
        [step("08", mode="transaction")],
        ledger(progress=[progress("08")]),
        "schema/08_members.sql was begun in steps and could be one transaction now",
        "2 of its 5 statements already ran",
        "-- migrate: transaction=false",
    ),
    "another tool's table": (
        files("01"),
        ledger(foreign="its column dirty says golang-migrate made it"),
        "the table schema_migrations is not the runbook's",
        "its column dirty says golang-migrate made it",
        "rename it",
    ),
    "versions that are no numbers": (
        files("01"),
        ledger(by_hand("01"), by_hand("v2"), by_hand("三"), by_hand("")),
        "the ledger holds a version that cannot be used",
        'version "v2" is no number; version "三" is no number; version "" is no number',
        "correct it in schema_migrations",
    ),
    "tables but no ledger": (
        files("01", "06"),
        ledger(exists=False),
        "the database is not empty but has no ledger of migrations",
        "14 tables, views, types or functions and no row in schema_migrations",
        "ansible-playbook playbooks/baseline.yml -e env=staging -e to=06",
    ),
    "tables and an empty ledger": (files("06"), ledger(), "the database is not empty", "no row", "-e to=06"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_cause_evidence_and_way_out(case):
    heads, found, what, evidence, way_out = REFUSED[case]
    (refusal,) = compared(heads, found).refusals
    assert refusal.what.startswith(what)
    assert evidence in refusal.found
    assert way_out in refusal.next


def test_every_problem_is_named_not_only_the_first():
    heads = [head("01", checksum=checksum("b")), head("02", checksum=checksum("b"))]
    assert len(compared(heads, ledger(row("01"), row("02"), row("03"))).refusals) == 3


def test_a_partial_migration_goes_on_when_what_ran_is_unchanged():
    found = compared([step("08", checksum=checksum("b"))], ledger(progress=[progress("08")]))
    assert found.refusals == []
    assert [state.version for state in found.pending()] == ["08"]


@pytest.mark.parametrize("mode", ["steps", "as_written", "transaction"])
def test_a_partial_migration_of_which_nothing_ran_may_change_as_it_likes(mode):
    found = compared([step("08", prefix=checksum("q"), mode=mode)], ledger(progress=[progress("08", done=0)]))
    assert found.refusals == []


def test_a_partial_migration_of_which_nothing_ran_and_whose_file_is_gone_is_not_pending_for_ever():
    # migrate.yml has nothing to run for it, so status.yml must not send the operator there again and again.
    found = compared([], ledger(progress=[progress("08", done=0)], objects=0))
    assert found.pending() == [] or found.refusals


def test_a_ledger_with_the_same_number_twice_is_refused():
    # Someone inserts '6' by hand beside our '06': which of both counts must not depend on the order of the rows.
    found = compared([head("06", checksum=checksum("b"))], ledger(row("06"), by_hand("6")))
    assert found.refusals


def test_a_refusal_shows_versions_as_they_are_written():
    (refusal,) = compared(files("001", "002", "003"), ledger(row("001"), row("003"))).refusals
    assert "003 is already applied and 002 is not" in refusal.found
    assert "above 003" in refusal.next


def test_files_below_a_first_row_by_hand_belong_into_a_baseline():
    # A team that began to record at 06 has 01 to 05 in the database: renaming them would run them again.
    found = compared(files("01", "02", "06"), ledger(by_hand("06")))
    assert found.refusals
    command = "if the database already has it: ansible-playbook playbooks/baseline.yml -e env=staging -e to=06"
    assert [refusal.next.startswith(command) for refusal in found.refusals] == [True, True]


AT_05 = (files("01", "03", "05", "07"), ledger(row("01"), row("03"), row("05")))
MANY = [f"{number:04d}" for number in range(1, 1001)]


def targeted(target: str | None, heads: list[dict] = AT_05[0], found: dict = AT_05[1]) -> list:
    return refuse_target(compared(heads, found), target, "staging")


@pytest.mark.parametrize("target", [None, "05", "7", "07", "0007"])
def test_targets_that_are_fine(target):
    assert targeted(target) == []


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("03", "ansible-playbook rollback.yml -e env=staging -e to=03"),
        ("08", "there is no migration 08"),
        ("08", "known: 01, 03, 05, 07"),
        ("6; DROP", 'target is "6; DROP"'),
        ("6; DROP", "such as 07"),
        ("-1", 'target is "-1"'),
        ("٧", 'target is "٧"'),
        ("", 'target is ""'),
    ],
)
def test_targets_that_are_refused(target, words):
    (refusal,) = targeted(target)
    assert words in f"{refusal.what}\n{refusal.found}\n{refusal.next}"


def test_a_target_without_any_file():
    (refusal,) = targeted("07", [], ledger(exists=False, objects=0))
    assert (refusal.what, refusal.found) == ("there is no migration 07", "known: none")


def test_a_target_nobody_has_is_not_offered_as_a_way_back():
    (refusal,) = targeted("04")
    assert refusal.what == "there is no migration 04"
    assert "rollback.yml" not in refusal.next


@pytest.mark.parametrize("verb", ["target", "baseline"])
def test_a_thousand_known_versions_do_not_fill_the_screen(verb):
    heads, found = files(*MANY), ledger()
    comparison = compared(heads, found)
    if verb == "target":
        refused = refuse_target(comparison, "9999", "staging")
    else:
        refused = baseline_versions(comparison, found, "9999", "staging")[1]
    assert len(refused[0].found) < 200
    assert MANY[-1] in refused[0].found


def recorded(found: dict, to: str, *versions: str) -> tuple[list[str], list]:
    return baseline_versions(compared(files(*(versions or ("01", "02", "03", "04"))), found), found, to, "staging")


@pytest.mark.parametrize(
    ("found", "to", "expected"),
    [
        (ledger(), "03", ["01", "02", "03"]),
        (ledger(exists=False), "3", ["01", "02", "03"]),
        (ledger(by_hand("02")), "03", ["01", "03"]),
        (ledger(by_hand("03")), "03", ["01", "02"]),
        (ledger(row("01", kind="baseline")), "03", ["02", "03"]),
        (ledger(row("01"), row("02"), row("03")), "03", []),
        (ledger(row("01", kind="baseline"), row("02", kind="baseline")), "02", []),
    ],
)
def test_a_baseline_records_what_is_not_recorded_yet(found, to, expected):
    assert recorded(found, to) == (expected, [])


@pytest.mark.parametrize(
    ("found", "to", "what"),
    [
        (ledger(), "09", 'there is no migration "09"'),
        (ledger(), "o3", 'there is no migration "o3"'),
        (ledger(), "", 'there is no migration ""'),
        (ledger(exists=False, objects=0), "03", "the database is empty"),
        (ledger(row("01")), "03", "baseline is for a database without runs"),
        (ledger(row("01"), by_hand("02")), "03", "baseline is for a database without runs"),
    ],
)
def test_a_baseline_is_refused(found, to, what):
    versions, (refusal,) = recorded(found, to)
    assert (versions, refusal.what) == ([], what)


def test_the_way_out_of_an_empty_database_is_a_migration():
    _, (refusal,) = recorded(ledger(exists=False, objects=0), "03")
    assert refusal.next == "run: ansible-playbook migrate.yml -e env=staging"
