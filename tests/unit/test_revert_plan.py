"""Which migrations are taken back, in which order and with which text; and what keeps them from being."""

from __future__ import annotations

import random
from dataclasses import asdict
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.bundle import read_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.bundle_writer import write_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.comparison import Refusal
from ansible_collections.habitat.runbook.plugins.module_utils.revert_plan import Revert, plan_revert
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.habitat import MIGRATIONS
from tests.unit.reading import good
from tests.unit.samples import by_hand, checksum, head, progress, row

RESTORE = "restore the backup: ansible-playbook rollback.yml -e env=staging -e backup=latest"
DROP = "DROP TABLE members;"


def at(version: str, time: str, **changes: Any) -> dict[str, Any]:
    return row(version, applied_at=time, **changes)


def down(state: str, reason: str = "", sql: str = "") -> dict[str, Any]:
    return {"down": {"state": state, "sql": sql, "reason": reason}}


def planned(
    heads: list[dict],
    rows: list[dict],
    to: str | None = None,
    steps: int | None = None,
    begun: list[dict] | None = None,
) -> tuple[list[Revert], list[Refusal]]:
    if to is None and steps is None:
        to = "0"
    return plan_revert(heads, rows, begun or [], to, steps, "staging")


def order(rows: list[dict], to: str | None = None, steps: int | None = None) -> list[str]:
    reverts, refusals = planned([head(str(one["version"])) for one in rows], rows, to, steps)
    assert refusals == []
    return [revert.version for revert in reverts]


def refused(heads: list[dict], rows: list[dict], **more: Any) -> Refusal:
    reverts, (refusal,) = planned(heads, rows, **more)
    assert reverts == []
    assert refusal.found
    return refusal


APPLIED = [row("01"), row("03"), row("05"), row("07")]


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("0", ["07", "05", "03", "01"]),
        ("000", ["07", "05", "03", "01"]),
        ("01", ["07", "05", "03"]),
        ("5", ["07"]),
        ("05", ["07"]),
        ("7", []),
    ],
)
def test_everything_above_the_version_is_taken_back(to, expected):
    assert order(APPLIED, to=to) == expected


@pytest.mark.parametrize(("steps", "expected"), [(1, ["07"]), (3, ["07", "05", "03"]), (4, ["07", "05", "03", "01"])])
def test_the_newest_steps_are_taken_back(steps, expected):
    assert order(APPLIED, steps=steps) == expected


def test_nothing_is_applied():
    assert planned([head("01")], [], to="0") == ([], [])


def test_a_version_zero_stays_when_it_is_gone_back_to():
    rows = [row("00"), row("01")]
    assert (order(rows, to="0"), order(rows, steps=2)) == (["01"], ["01", "00"])


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        ("2026-02-10T09:00:00.2+00:00", "2026-02-10T09:00:00.120311+00:00"),
        ("2026-02-10T09:00:00.000001+00:00", "2026-02-10T09:00:00+00:00"),
        # The hour that comes twice when summer time ends.
        ("2026-10-25T02:10:00+01:00", "2026-10-25T02:30:00+02:00"),
        ("2026-02-10T00:30:00-05:30", "2026-02-10T05:30:00Z"),
        ("2026-02-10T09:00:01", "2026-02-10T09:00:00+00:00"),
        ("2026-02-10 09:00:01+00", "2026-02-10T09:00:00+00:00"),
        ("1890-01-01T00:00:00+00:00", "1890-01-01T00:19:31.9+00:19:32"),
        ("infinity", "2026-02-10T09:00:00+00:00"),
        ("2026-02-10T09:00:00+00:00", "-infinity"),
        ("2026-02-10T09:00:00+00:00", "0044-03-15T00:00:00+00:00 BC"),
        ("2026-02-10T09:00:00+00:00", "0001-01-01T00:00:00+14:00"),
        ("9999-12-31T23:59:59-12:00", "2026-02-10T09:00:00+00:00"),
        ("2026-02-10T09:00:00+00:00", None),
    ],
)
def test_what_was_applied_last_goes_first_whatever_its_number(newer, older):
    # 03 was recorded by hand after 05; what ran last may build on what ran before.
    rows = [at("05", older), at("03", newer)]
    assert order(rows, to="0") == ["03", "05"]
    assert order(rows, steps=1) == ["03"]
    # The number decides which are meant, the time only their order.
    assert order(rows, to="03") == ["05"]


@given(st.lists(st.tuples(st.integers(1, 10**12), st.integers(0, 3)), unique_by=lambda pair: pair[0], max_size=9))
def test_order_and_choice_do_not_depend_on_the_order_of_the_rows(pairs):
    rows = [at(f"{number:03d}", f"2026-02-10T09:00:0{second}+00:00") for number, second in pairs]
    expected = [f"{number:03d}" for number, _ in sorted(pairs, key=lambda pair: (pair[1], pair[0]), reverse=True)]
    shuffled = random.Random(len(pairs)).sample(rows, len(rows))  # noqa: S311 (no secret)
    assert order(shuffled, to="0") == expected
    for steps in range(1, len(rows) + 1):
        assert order(shuffled, steps=steps) == expected[:steps]
    for limit, _ in pairs:
        assert set(order(shuffled, to=str(limit))) == {f"{n:03d}" for n, _ in pairs if n > limit}


@pytest.mark.parametrize(
    ("to", "steps", "what", "found"),
    [
        ("02", None, "migration 02 is not applied", "applied: 01, 03, 05, 07"),
        ("99", None, "migration 99 is not applied", "applied: 01, 03, 05, 07"),
        ("5; DROP", None, 'to is "5; DROP"', "such as 07"),
        ("-1", None, 'to is "-1"', "digits"),
        ("٧", None, 'to is "٧"', "digits"),
        ("", None, 'to is ""', "digits"),
        (None, 5, "5 migrations cannot be taken back", "4 are applied: 01, 03, 05, 07"),
        (None, 0, "steps is 0", "1 or more"),
        (None, -2, "steps is -2", "1 or more"),
        (None, None, "how far to go back is not clear", "neither"),
        ("05", 1, "how far to go back is not clear", "both"),
    ],
)
def test_questions_that_are_refused(to, steps, what, found):
    reverts, (refusal,) = plan_revert([head("07")], APPLIED, [], to, steps, "staging")
    assert (reverts, refusal.what) == ([], what)
    assert found in refusal.found


def test_steps_of_which_there_are_none():
    assert refused([], [], steps=1).found == "0 are applied: none"
    assert refused([], [row("01")], steps=2).found == "1 is applied: 01"


def test_a_thousand_versions_do_not_fill_the_screen():
    rows = [row(f"{number:04d}") for number in range(1, 1001)]
    refusal = refused([], rows, to="9999")
    assert refusal.found == "applied: 0001, 0002, 0003, ... 0998, 0999, 1000 (1000 in all)"


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([by_hand("v2"), row("01")], 'version "v2" is no number'),
        ([by_hand("6"), row("06")], 'versions "6" and "06" are the same number'),
        ([by_hand("٦")], 'version "٦" is no number'),
        ([by_hand("")], 'version "" is no number'),
    ],
)
def test_a_ledger_that_cannot_be_used(rows, found):
    refusal = refused([head("06")], rows)
    assert (refusal.found, refusal.next) == (found, "correct it in schema_migrations")


def test_versions_may_be_numbers_in_another_tools_table():
    assert order([row("1") | {"version": 1}, row("2") | {"version": 2}], to="1") == ["2"]


@pytest.mark.parametrize(
    ("found", "stored"),
    [(row("07"), "DROP TABLE old;"), (row("07"), None), (row("07", kind="baseline"), "x"), (by_hand("07"), None)],
)
def test_an_unchanged_file_is_what_is_run(found, stored):
    ((revert,), _) = planned([head("07")], [found | {"down_sql": stored}])
    assert asdict(revert) == {
        "version": "07",
        "name": "members",
        "applied_at": found["applied_at"],
        "text": DROP,
        "source": "file",
        "note": "",
        "file": "schema/07_members.sql",
        "line": 1,
        "lock_timeout": None,
        "statement_timeout": None,
    }


@pytest.mark.parametrize("kind", ["apply", "baseline"])
@pytest.mark.parametrize(
    ("heads", "note"),
    [
        ([], "its file is gone"),
        ([head("07", checksum=checksum("b"))], "its file was changed after it was applied"),
        (
            [head("07", checksum=checksum("b"), **down("irreversible", "why"))],
            "its file was changed after it was applied",
        ),
    ],
)
def test_the_stored_text_stands_in_and_the_note_says_why(heads, note, kind):
    stored = row("07", "old_name", kind=kind, down_sql="DROP TABLE stored;")
    ((revert,), _) = planned(heads, [stored])
    assert (revert.text, revert.source, revert.note, revert.file, revert.name) == (
        "DROP TABLE stored;",
        "ledger",
        note,
        "the ledger",
        "old_name",
    )


@pytest.mark.parametrize("stored", [None, ""])
def test_without_file_and_stored_text_there_is_only_the_backup(stored):
    refusal = refused([], [row("07", down_sql=stored)])
    assert refusal.what == "the file of migration 07 is gone, and no down text was stored"
    assert refusal.found == "applied 2026-02-10 09:00:00 as 07_members.sql"
    assert refusal.next == f"bring the file back (git log --diff-filter=D -- 'schema/07_*'), or {RESTORE}"
    assert refused([], [by_hand("07") | {"applied_at": None}]).found == "applied at an unknown time"


def test_a_changed_file_without_stored_text_is_not_trusted():
    refusal = refused([head("07", checksum=checksum("b"))], [row("07", down_sql=None)])
    assert refusal.what == "schema/07_members.sql was changed after it was applied, and no down text was stored"
    assert "sha256 aaaaaaaa..., now bbbbbbbb...: its down may not fit what ran" in refusal.found
    assert refusal.next == f"restore the file (git log -- schema/07_members.sql), or {RESTORE}"


@pytest.mark.parametrize(
    ("state", "what", "next"),
    [
        ("irreversible", "schema/07_members.sql is declared irreversible", RESTORE),
        ("none", "schema/07_members.sql cannot be taken back", "add -- Down migration"),
        ("broken", "the down section of schema/07_members.sql cannot be used", "correct it"),
    ],
)
def test_a_file_without_a_usable_down_says_why(state, what, next):
    # An unchanged file decides: what was stored when it was applied may have been taken out of it for a reason.
    for stored in (None, "DROP TABLE stored;"):
        refusal = refused([head("07", **down(state, "members were merged"))], [row("07", down_sql=stored)])
        assert (refusal.what, refusal.found) == (what, "members were merged")
        assert refusal.next.startswith(next)
        assert refusal.next.endswith(RESTORE)


BAD_TEXTS = {
    "DROP TABLE 'x;": "line 1: this ' opens a string that is never closed; add the closing '",
    "DROP TABLE x;\nCOMMIT;": "line 2: COMMIT cannot run in a transaction, and a down runs in one",
    "BEGIN;\nDROP TABLE x;\nCOMMIT;": "line 1: BEGIN cannot run in a transaction, and a down runs in one",
    "ROLLBACK TO a": "line 1: ROLLBACK TO cannot run in a transaction, and a down runs in one",
    "\nDROP INDEX CONCURRENTLY i;": "line 2: DROP INDEX CONCURRENTLY i cannot run in a transaction, and a down runs in one",
    "DROP INDEX CONCURRENTLY IF EXISTS i": "line 1: DROP INDEX CONCURRENTLY IF ... cannot run in a transaction, and",
    "-- nothing": "it holds no statement",
    "\\i undo.sql": "line 1: psql's \\i is not SQL and cannot run in a migration; write it as SQL",
}


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_text_that_cannot_run_is_refused_wherever_it_comes_from(text):
    stored = refused([], [row("07", down_sql=text)])
    assert stored.what == "the down text of 07 in the ledger cannot be used"
    assert stored.found.startswith(BAD_TEXTS[text])
    assert stored.next == f"bring the file back (git log --diff-filter=D -- 'schema/07_*'), or {RESTORE}"
    of_file = refused([head("07", **down("ok", sql=text))], [row("07")])
    assert of_file.what == "the down section of schema/07_members.sql cannot be used"
    assert of_file.found == stored.found
    assert of_file.next == f"correct it (a down section may still change), or {RESTORE}"


@pytest.mark.parametrize(
    "section", ["DROP TABLE x;\nCOMMIT;", "SAVEPOINT a;", "BEGIN;\nDROP INDEX CONCURRENTLY i;\nCOMMIT;"]
)
def test_files_with_transaction_control_in_their_down_are_broken_already(section):
    assert good(f"SELECT 1;\n-- Down migration\n{section}\n").down.state == "broken"


def test_a_concurrent_drop_in_a_file_is_ok_there_and_refused_here():
    text = good("SELECT 1;\n-- Down migration\nDROP INDEX CONCURRENTLY i;\n").down
    refusal = refused([head("07", down=asdict(text))], [row("07")])
    assert (text.state, refusal.what) == ("ok", "the down section of schema/07_members.sql cannot be used")


def test_all_refusals_are_listed_at_once_and_nothing_is_planned():
    heads = [head("01"), head("02", **down("irreversible", "why")), head("03", **down("none", "no down section"))]
    rows = [row(version, down_sql=None) for version in ("01", "02", "03", "04")]
    reverts, refusals = planned(heads, rows, begun=[progress("05")])
    assert reverts == []
    assert [refusal.what for refusal in refusals] == [
        "migration 05 is partial",
        "the file of migration 04 is gone, and no down text was stored",
        "schema/03_members.sql cannot be taken back",
        "schema/02_members.sql is declared irreversible",
    ]
    assert all(RESTORE in refusal.next for refusal in refusals)


def test_what_is_not_taken_back_may_be_irreversible():
    heads = [head("01", **down("irreversible", "why")), head("02")]
    assert [one.version for one in planned(heads, [row("01"), row("02")], to="01")[0]] == ["02"]


@pytest.mark.parametrize("question", [{"to": "07"}, {"to": "05"}, {"to": "0"}, {"steps": 1}])
def test_a_partial_migration_above_comes_first(question):
    heads = [head(version) for version in ("01", "03", "05", "07", "08")]
    refusal = refused(heads, APPLIED, begun=[progress("08")], **question)
    assert refusal.what == "migration 08 is partial"
    assert refusal.found.startswith("2 of its 5 statements ran")
    assert refusal.next == (f"finish it first: ansible-playbook migrate.yml -e env=staging -e target=08; or {RESTORE}")


@pytest.mark.parametrize(
    ("begun", "to"),
    [
        (progress("08", done=0), "05"),
        (progress("04"), "05"),
        # Somebody finished it by hand and recorded it.
        (progress("07"), "05"),
    ],
)
def test_partial_migrations_that_are_none_of_our_business(begun, to):
    heads = [head(version) for version in ("01", "03", "05", "07")]
    reverts, refusals = planned(heads, APPLIED, to=to, begun=[begun])
    assert ([revert.version for revert in reverts], refusals) == (["07"], [])


def test_habitats_own_migrations_are_all_taken_back(tmp_path):
    write_bundle(tmp_path / "plan", MIGRATIONS.values())
    heads = [one for one, _ in read_bundle(str(tmp_path / "plan"))]
    rows = [row(one["version"], checksum=one["checksum"], down_sql=one["down"]["sql"]) for one in heads]
    reverts, refusals = planned(heads, rows)
    assert refusals == []
    assert [revert.version for revert in reverts] == ["07", "06", "05", "04", "03", "02", "01"]
    assert {revert.version: revert.text for revert in reverts} == {
        version: migration.down.sql for version, migration in MIGRATIONS.items()
    }
    # The same from the ledger alone.
    stored, refusals = planned([], rows)
    assert refusals == []
    assert [revert.text for revert in stored] == [revert.text for revert in reverts]
