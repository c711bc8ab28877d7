"""What a run's journal says, and the report of a run that was cut off."""

from __future__ import annotations

import dataclasses
import itertools
import json
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import account
from ansible_collections.habitat.runbook.plugins.module_utils.account import Progress, down_seconds
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.conftest import GOLDEN
from tests.unit.cut_off import (
    DOWN,
    EVERYTHING,
    MANAGER,
    applying,
    begun,
    both,
    cut_off_run,
    line,
    righted,
    started,
    stopping,
    told,
)
from tests.unit.samples import RUN_ID, SERVICES, UGLY

AGAIN = "ansible-playbook migrate.yml -e env=staging"
RESUME = "ansible-playbook playbooks/resume.yml -e env=staging"


def followed(lines: list[dict[str, Any]]) -> Progress:
    return Progress().follow(lines)


# How far it came.


def test_a_run_that_has_just_begun_has_touched_nothing():
    found = followed([line("note", "run")])
    assert (found.phase, found.working, found.touched, found.stopped, found.opened) == (
        "",
        False,
        False,
        [],
        None,
    )


def test_what_is_to_be_stopped_counts_as_stopped_from_the_moment_it_is_ordered():
    found = followed(stopping())
    assert (found.stopped, found.manager, found.opened, found.working) == (SERVICES, MANAGER, 5010, True)
    assert found.touched


def test_a_stop_goes_on_without_its_step_for_a_while_unless_things_were_put_right_since():
    """Its clock starts anew with the host, and who puts things right a second time leaves what runs alone."""
    ordered = followed(stopping()).opened
    assert ordered is not None
    for after, seconds in ((1, True), (899, True), (901, False), (-1, False)):
        assert followed(stopping()).stopping(ordered + after, 900) is seconds
    for ended in (line("done", "STOP", names=SERVICES), line("failed", "STOP"), line("done", "GUARD", problems=["x"])):
        assert not followed([*stopping(), ended]).stopping(ordered + 1, 900)
    assert followed([*stopping(), line("intent", "GUARD")]).stopping(ordered + 1, 900)
    assert not followed(applying()).stopping(ordered + 1, 900)


def test_a_stop_that_failed_may_have_stopped_some():
    found = followed([*stopping(), line("failed", "STOP", 11, error="habitat:worker does not stop")])
    assert (found.stopped, found.opened) == (SERVICES, 5010)


def test_the_window_begins_once_and_ends_when_everything_is_started():
    part = [line("intent", "STOP", 20, names=["habitat:other"], manager=MANAGER)]
    found = followed([*applying(), *part])
    assert (found.opened, found.stopped) == (5010, [*SERVICES, "habitat:other"])
    found.follow([line("done", "START", 21, names=SERVICES)])
    assert (found.opened, found.stopped) == (5010, ["habitat:other"])
    found.follow([line("done", "START", 22, names=["habitat:other"])])
    assert (found.opened, found.stopped, found.touched) == (None, [], True)


def test_a_start_that_failed_leaves_the_window_open():
    found = followed([*applying(), *both("START", 18, names=SERVICES)[:1], line("failed", "START", 19, error="spawn")])
    assert (found.stopped, found.opened) == (SERVICES, 5010)


def test_stopping_nothing_opens_no_window():
    found = followed([*begun(), *both("STOP", 10, names=[], manager=MANAGER)])
    assert (found.stopped, found.opened, found.touched) == ([], None, False)


def test_commits_are_known_with_their_transaction_and_whether_they_were_answered():
    assert followed(applying()).commits == {
        "06": {"xid": "733", "answered": True},
        "07": {"xid": "734", "answered": False},
    }


def test_a_commit_does_not_end_the_step_that_sent_it():
    found = followed(applying())
    assert (found.phase, found.working, found.from_version) == ("APPLY", True, "05")


def test_the_version_before_is_that_of_the_first_step():
    later = line("intent", "APPLY", 30, from_version="06")
    assert followed([*applying(), later]).from_version == "05"
    assert followed([line("intent", "APPLY", 1, from_version=None)]).from_version == "empty"


def test_a_swap_is_done_when_it_says_so():
    assert not followed([line("intent", "SWAP", 1)]).swapped
    assert followed(both("SWAP", 1)).swapped
    assert not followed([line("intent", "SWAP", 1), line("failed", "SWAP", 2, error="x")]).swapped


def test_what_the_guard_and_others_note_changes_nothing_about_how_far_it_came():
    plain = followed(applying())
    others = [line("note", "window", 40, open_for=900, ends_at=1800), line("note", "fence", 41, closed=True)]
    others += [
        line("intent", "GUARD", 42, why="x"),
        line("done", "GUARD", 43, problems=[]),
        line("done", "release", 44),
    ]
    assert dataclasses.replace(followed([*applying(), *others]), righted=False) == plain


STEPS = ["PREFLIGHT", "BACKUP", "RESTORE", "STOP", "APPLY", "REVERT", "SWAP", "ACCESS", "START", "HEALTH"]
LINES = st.builds(
    lambda event, what, at, names: line(event, what, at, names=names, manager=MANAGER),
    st.sampled_from(["intent", "done", "failed"]),
    st.sampled_from(STEPS),
    st.integers(0, 59),
    st.lists(st.sampled_from(SERVICES), unique=True),
)


@given(st.lists(LINES), st.integers(0, 30))
def test_following_in_parts_is_following_all_at_once(lines, cut):
    assert Progress().follow(lines[:cut]).follow(lines[cut:]) == followed(lines)


@given(st.lists(LINES))
def test_the_window_is_open_exactly_while_something_is_stopped(lines):
    found = followed(lines)
    assert (found.opened is not None) == bool(found.stopped)
    ordered = {name for one in lines if (one["event"], one["what"]) == ("intent", "STOP") for name in one["names"]}
    assert set(found.stopped) <= ordered
    assert account.where(found)


# What to type.


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({}, AGAIN),
        ({"inputs": {"env": "staging", "target": "06", "mode": "recover"}}, f"{AGAIN} -e target=06"),
        (
            {"command": "rollback.yml", "inputs": {"env": "staging", "backup": "a b", "confirm": "staging"}},
            "ansible-playbook rollback.yml -e env=staging -e backup='a b' -e confirm=staging",
        ),
        (
            {"command": "playbooks/backup.yml", "inputs": {"env": "staging", "tag": "before-sale"}},
            "ansible-playbook playbooks/backup.yml -e env=staging -e tag=before-sale",
        ),
    ],
)
def test_the_command_once_more(changes, command):
    assert account.again(cut_off_run(**changes)) == command


def test_production_is_confirmed_by_whoever_resumes_as_by_whoever_began():
    assert account.resume(cut_off_run()) == RESUME
    assert account.resume(cut_off_run(inputs={"confirm": "staging"})) == f"{RESUME} -e confirm=staging"
    production = "ansible-playbook playbooks/resume.yml -e env=production -e confirm=production"
    assert account.resume(cut_off_run(env="production")) == production
    assert account.resume(cut_off_run(env="production", inputs={"confirm": "production"})) == production


@pytest.mark.parametrize(
    ("changes", "finished"),
    [
        ({}, "migrate"),
        ({"command": "playbooks/migrate.yml"}, "migrate"),
        ({"command": "habitat.runbook.migrate"}, "migrate"),
        ({"command": "rollback.yml", "inputs": {"to": "05"}}, "revert"),
        ({"command": "playbooks/rollback.yml", "inputs": {"to": "05"}}, "revert"),
        ({"command": "rollback.yml", "inputs": {"steps": "1"}}, ""),
        ({"command": "rollback.yml", "inputs": {"backup": "latest"}}, ""),
        ({"command": "playbooks/backup.yml"}, ""),
        ({"command": "playbooks/baseline.yml", "inputs": {"to": "06"}}, ""),
    ],
)
def test_only_what_has_a_goal_that_can_be_seen_is_finished(changes, finished):
    assert account.goes_on(cut_off_run(**changes)) == finished


@pytest.mark.parametrize(
    ("run", "lines", "changes", "next_step"),
    [
        ({}, applying(), {}, RESUME),
        ({}, begun(), {}, RESUME),
        ({"command": "playbooks/backup.yml"}, begun(), {}, "ansible-playbook playbooks/backup.yml -e env=staging"),
        ({"command": "playbooks/backup.yml"}, begun(), {"problems": ["x"]}, RESUME),
        ({"command": "rollback.yml", "inputs": {"backup": "b"}}, both("SWAP", 1), {}, ""),
        ({"command": "rollback.yml", "inputs": {"backup": "b"}}, both("SWAP", 1), {"problems": ["x"]}, RESUME),
        (
            {"command": "rollback.yml", "inputs": {"backup": "b"}},
            begun(),
            {},
            "ansible-playbook rollback.yml -e env=staging -e backup=b",
        ),
    ],
)
def test_what_is_next_after_a_run_that_was_cut_off(run, lines, changes, next_step):
    assert told(lines, cut_off_run(**run), **changes)["next"] == next_step


@pytest.mark.parametrize(
    ("applied", "changes", "next_step"),
    [
        (["07", "06", "05"], {}, "ansible-playbook rollback.yml -e env=staging -e steps=2"),
        (["06", "05"], {}, "ansible-playbook rollback.yml -e env=staging -e steps=1"),
        (["07", "05"], {}, "ansible-playbook rollback.yml -e env=staging -e steps=1"),
        (["05"], {}, ""),
        ([], {"schema": account.NOT_READ}, RESUME),
        ([], {"schema": "empty"}, ""),
    ],
)
def test_of_steps_back_those_are_next_that_are_left(applied, changes, next_step):
    run = cut_off_run(command="rollback.yml", inputs={"steps": "2"})
    lines = [*begun(), line("intent", "REVERT", 1, from_version="07", downs=["07", "06"])]
    assert told(lines, run, applied=applied, **changes)["next"] == next_step
    assert told(begun(), run)["next"].endswith("-e steps=2"), "before the first nothing is gone"


# What is said.

REPORTS = {
    "applying": lambda: told(**EVERYTHING),
    "stopping": lambda: told(stopping(), started=SERVICES, healthy=True, schema="05"),
    "begun": lambda: told(begun(), schema="05"),
    "just_begun": lambda: told([line("note", "run")], schema="empty", sessions_ended=1),
    "started": lambda: told(started(), by="cancel.yml", why="bob cancelled it", schema="07"),
    "not_put_right": lambda: told(
        **{**EVERYTHING, "started": [], "healthy": None}, problems=[DOWN, "step APPLY (pid 4121) does not end"]
    ),
    "swapped": lambda: told(
        both("SWAP", 1), cut_off_run(command="rollback.yml", inputs={"backup": "b"}), schema="05", let_in=True
    ),
    "ugly": lambda: told(
        run=cut_off_run(operator=f"{UGLY} | `rm -rf`", origin="[evil](http://x)\n# Heading", database="a_b*c*"),
        why=f"{UGLY} cancelled it",
        problems=["the services are DOWN: \n```\n# Heading"],
    ),
    "sick": lambda: told(**{**EVERYTHING, "healthy": False}),
    "server_away": lambda: told(
        started=SERVICES,
        schema=account.NOT_READ,
        problems=["the database server does not answer, and the application may still not connect (refused)"],
    ),
}


@pytest.mark.parametrize("name", REPORTS)
def test_markdown(golden, name):
    golden(f"cut_off_markdown_{name}", account.markdown(REPORTS[name]()))


def test_no_golden_file_is_left_over():
    assert {path.stem for path in GOLDEN.glob("cut_off_markdown_*.txt")} == {
        f"cut_off_markdown_{name}" for name in REPORTS
    }


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_plain_data_and_its_state_is_sentences(name):
    found = REPORTS[name]()
    assert json.loads(json.dumps(found)) == found
    assert found["cut_off"] is True
    assert found["state"].endswith(".")


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("applying", "stopped_safe"),
        ("begun", "stopped_safe"),
        ("not_put_right", "needs_operator"),
        ("sick", "needs_operator"),
    ],
)
def test_outcome(name, outcome):
    assert REPORTS[name]()["outcome"] == outcome


@pytest.mark.parametrize(
    ("lines", "schema", "shown"),
    [
        (applying(), "06", "05 -> 06"),
        (applying(), "05", "05"),
        (applying(), account.NOT_READ, account.NOT_READ),
        (begun(), "05", "05"),
        ([line("intent", "APPLY", 1, from_version=None)], "01", "empty -> 01"),
    ],
)
def test_schema(lines, schema, shown):
    assert told(lines, schema=schema)["schema"] == shown


def test_the_moment_is_told_for_every_step():
    words = [account.where(followed([line("intent", step)])) for step in STEPS]
    assert len(set(words)) == len(STEPS)
    assert account.where(followed(both("BACKUP", 1))) == "after the backup was taken"


def test_services_that_were_not_touched_are_said_to_be_so():
    assert "The services were not touched." in account.sentence(followed(begun()), righted())
    assert "The services had been started again before." in account.sentence(followed(started()), righted())


def test_what_was_open_is_said_to_be_rolled_back_also_when_the_sessions_ended_by_themselves():
    rolled_back = "ended, and PostgreSQL rolled back what was open there."
    assert f"Its step APPLY was {rolled_back}" in account.sentence(followed(begun()), righted(step_ended="APPLY"))
    both = account.sentence(followed(begun()), righted(step_ended="APPLY", sessions_ended=1))
    assert f"Its step APPLY was ended. 1 database session was {rolled_back}" in both
    stopping = account.sentence(followed(begun()), righted(step_ended="STOP"))
    assert "Its step STOP was ended." in stopping and "rolled back" not in stopping


# How long the application was down.


def probes(text: str, step: float = 0.1) -> list[dict[str, Any]]:
    """probes("gbg"): good, bad, good."""
    return [{"mono": number * step, "good": letter == "g"} for number, letter in enumerate(text)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("g", None),
        ("ggggggg", None),
        ("bbbbbbb", None),
        ("bbbgggg", None),
        ("ggggbbb", None),
        ("gbg", 0.2),
        ("gbbbbbbbbbg", 1.0),
        ("gbgbbbbgbbg", 0.5),
    ],
)
def test_down_seconds(text, seconds):
    assert down_seconds(probes(text)) == seconds


@given(st.text("gb", max_size=40))
def test_down_seconds_are_those_of_the_longest_gap(text):
    runs = [(key, len(list(group))) for key, group in itertools.groupby(text.strip("b"))]
    longest = max((length + 1 for key, length in runs if key == "b"), default=None)
    assert down_seconds(probes(text, 1.0)) == longest


def test_a_run_is_named_in_its_report():
    assert RUN_ID in account.markdown(told())
