"""What may stand behind ``-e backup=``, and which backup is the latest one."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.choice import (
    environment_of,
    instant,
    latest,
    reduce_backup,
)
from ansible_collections.habitat.runbook.plugins.module_utils.copies import copy_name
from ansible_collections.habitat.runbook.plugins.module_utils.inputs import Refused
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import NAME, BackupError, find_backup
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.samples import BACKUP_ID, RUN_ID, stored

FOUNDING = "pre-migration-20260210-100000"


@pytest.mark.parametrize(
    ("text", "reduced"),
    [
        (BACKUP_ID, BACKUP_ID),
        (f"{BACKUP_ID}.dump", BACKUP_ID),
        (f"{BACKUP_ID}.json", BACKUP_ID),
        (f"/x/{BACKUP_ID}.dump", BACKUP_ID),
        (f"/x y/../{BACKUP_ID}", BACKUP_ID),
        (f"backups/{FOUNDING}.dump", FOUNDING),
        (f"{FOUNDING}.dump", FOUNDING),
        (FOUNDING, FOUNDING),
        ("backups/by-hand.dump", "by-hand"),
        ("latest", "latest"),
        ("latest.dump", "latest"),
        (f"habitat_before_{RUN_ID}", f"habitat_before_{RUN_ID}"),
        (f"habitat_point_{RUN_ID}", f"habitat_point_{RUN_ID}"),
        (f'a/b "c"_point_{RUN_ID}', f'a/b "c"_point_{RUN_ID}'),
    ],
)
def test_what_is_meant(text, reduced):
    assert reduce_backup(text) == reduced


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "-e",
        f"--{BACKUP_ID}",
        f"{BACKUP_ID}\n",
        f"{BACKUP_ID}\x1b[2J",
        "\ud800",
        "Latest",
        "newest",
        "backups/",
        "..",
        "../",
        "/",
        ".dump",
        "..dump",
        "a b.dump",
        "x'; DROP DATABASE habitat; --.dump",
        "$(reboot).dump",
        f"{BACKUP_ID}.dump.part",
        f"{BACKUP_ID}.sql",
        BACKUP_ID.upper(),
        BACKUP_ID[:-1],
        f"habitat_restore_{RUN_ID}",
        f"{'h' * 60}_point_{RUN_ID}",
        f"{'x' * 90}.dump",
        f"/{'x/' * 3000}{BACKUP_ID}.dump",
    ],
)
def test_what_is_refused(text):
    with pytest.raises(Refused) as refused:
        reduce_backup(text)
    told = refused.value.as_data()
    assert all(isinstance(part, str) and part.isprintable() and len(part) < 200 for part in told.values())
    assert told["what"].startswith("backup is ")
    assert told["found"]
    assert told["next"]


@given(st.text(max_size=80))
def test_whatever_is_typed_is_refused_or_safe_to_look_up(text):
    try:
        reduced = reduce_backup(text)
    except Refused:
        return
    assert reduce_backup(reduced) == reduced or "." in text
    assert reduced.isprintable()


@given(st.from_regex(r"[A-Za-z0-9._/ -]{1,40}(\.dump|\.json)?", fullmatch=True))
def test_what_is_accepted_as_a_file_has_a_form_that_the_folder_is_searched_for(text):
    try:
        reduced = reduce_backup(text)
    except Refused:
        return
    with pytest.raises(BackupError, match="there is no backup"):
        find_backup("/nonexistent", reduced)


@pytest.mark.parametrize("database", ["habitat", "Habitat 2", "h" * 63, "ä" * 31, 'a"b'])
@pytest.mark.parametrize("kind", ["before", "point"])
def test_every_copy_can_be_named(database, kind):
    name = copy_name(database, kind, RUN_ID)
    assert reduce_backup(name) == name


@pytest.mark.parametrize(
    ("reduced", "env"),
    [
        (BACKUP_ID, "staging"),
        (f"prod-eu_2-{RUN_ID}", "prod-eu_2"),
        ("latest", None),
        (FOUNDING, None),
        (f"habitat_before_{RUN_ID}", None),
        (f"habitat_point_{RUN_ID}", None),
    ],
)
def test_the_environment_of_an_id(reduced, env):
    assert environment_of(reduced) == env


@given(st.from_regex(NAME, fullmatch=True))
def test_every_id_names_its_environment(identity):
    env = environment_of(identity)
    assert env is not None
    assert identity.startswith(f"{env}-")
    assert len(identity) == len(env) + 1 + len(RUN_ID)


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T10:02:15.120311Z",
        "2026-11-22T10:02:15.120311+00:00",
        "2026-11-22 10:02:15.120311+00",
        "2026-11-22T10:02:15.120311",
        "2026-11-22T15:32:15.120311+05:30",
        "2026-11-22T07:02:15.120311-03",
        "2026-11-22T10:02:15.120311999Z",
    ],
)
def test_one_instant_in_every_spelling(text):
    assert instant(text) == datetime(2026, 11, 22, 10, 2, 15, 120311, tzinfo=timezone.utc)


def test_fractions_are_read_as_postgresql_cuts_them():
    assert instant("2026-11-22T10:02:15.1Z") - instant("2026-11-22T10:02:15Z") == timedelta(milliseconds=100)


@pytest.mark.parametrize("text", ["", "yesterday", "2026-11-22", "2026-11-22T10:02:15ZZ", "infinity"])
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="no ISO 8601 time"):
        instant(text)


def backup(hour: int, **changes: Any) -> dict[str, Any]:
    run_id = f"20261122t{hour:02d}0000z-k3f"
    return stored(**{"id": f"staging-{run_id}", "taken_at": f"2026-11-22T{hour:02d}:00:00.500000Z", **changes})


BROKEN = {"verified": False, "problems": ["the dump is missing"]}
DAY = [backup(12), backup(11, **BROKEN), backup(10), backup(9)]


@pytest.mark.parametrize(
    ("last_commit", "hour"),
    [
        (None, 12),
        ("2026-11-22T12:30:00.000001+00:00", 12),
        ("2026-11-22T12:00:00.500001+00:00", 12),
        ("2026-11-22T12:00:00.5+00:00", 10),  # the same instant: not before
        ("2026-11-22T12:00:00.45Z", 10),
        ("2026-11-22T11:30:00Z", 10),
        ("2026-11-22T12:30:00+02:00", 10),
        ("2026-11-22T09:59:59-00:30", 10),
        ("2026-11-22T10:00:00Z", 9),
    ],
)
def test_the_latest_is_from_before_what_was_committed_last(last_commit, hour):
    assert latest(DAY, last_commit) == backup(hour)
    assert latest(DAY[::-1], last_commit) == backup(hour)


def test_without_any_backup():
    with pytest.raises(Refused) as refused:
        latest([], None)
    assert refused.value.found == "there is no backup at all"


def test_the_refusal_says_why_each_is_none():
    nameless = backup(8, **{**BROKEN, "taken_at": None, "problems": ["a\x1b", "b"]})
    with pytest.raises(Refused) as refused:
        latest([*DAY[:2], nameless, backup(7, **BROKEN), backup(6, **BROKEN)], "2026-11-22T11:30:00Z")
    told = refused.value
    assert "before the last run" in told.what
    assert f"{DAY[0]['id']}: taken 2026-11-22 12:00:00, after" in told.found
    assert f"{DAY[1]['id']}: the dump is missing" in told.found
    assert "a\\x1b, b" in told.found
    assert told.found.endswith("and 2 more")
    assert told.next.endswith(f"-e backup={DAY[0]['id']}")


def test_when_nothing_was_ever_committed_only_being_verified_counts():
    with pytest.raises(Refused) as refused:
        latest([DAY[1]], None)
    assert refused.value.what == "no backup is verified"
    assert "the dump is missing" in refused.value.found
    assert "-e backup" not in refused.value.next
