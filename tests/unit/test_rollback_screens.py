"""Every screen of rollback.yml as an operator sees it, kept in ``golden/rollback/``; see test_screens.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import rollback_screens as screens

from tests.unit import samples
from tests.unit.conftest import GOLDEN
from tests.unit.samples import BACKUP_ID, LONG, RUN_ID, SERVER, SERVICES, stored

NOW = 1795349195.0  # 2026-11-22 12:06:35 UTC
KEPT = f"habitat_before_{RUN_ID}"
UGLY = 'public."a\x1b[2J\nFAILED"'


def written(*tables: dict[str, Any], exact: bool = True, rows: int | None = None, **more: int) -> dict[str, Any]:
    total = sum(one["newer"] or 0 for one in tables) if rows is None else rows
    return {"exact": exact, "tables": list(tables), "rows": total, "uncertain": 0, "uncounted": 0, **more}


def differs(
    table: str, newer: int | None, gone: int | None, then: int | None = 9, now: int | None = 9
) -> dict[str, Any]:
    return {"table": table, "then": then, "now": now, "newer": newer, "gone": gone}


WRITTEN = written(differs("public.members", 3, 1), differs("public.contributions", 1201, 0))
UNSURE = written(
    differs("public.members", 3, 1),
    differs("public.secrets", None, None, 7, None),
    differs(UGLY, 1, 0),
    uncertain=2,
    uncounted=1,
)
COMPARED = written(
    differs("public.members", None, None, 4, 6),
    differs("public.events", None, None, 5, 5),
    differs("public.fresh", 3, 0, None, 3),
    differs("public.gone", 0, 12, 12, None),
    differs("public.locked", None, None, 8, None),
    exact=False,
    rows=18,
    uncounted=1,
)


def backup(number: int, **changes: Any) -> dict[str, Any]:
    base = {"id": f"staging-202611{number:02d}t100211z-k3f", "taken_at": f"2026-11-{number:02d}T10:02:15.120311Z"}
    return stored(**{**base, "written": written(rows=0), **changes})


BACKUPS = [
    backup(22, written=written(rows=1204)),
    backup(21, verified=False, problems=["the dump is missing"], written=None),
    backup(20, size=98_000, restore_seconds=None, ledger_version=None, written=written(rows=1_000_000, uncertain=3)),
    backup(19, written=written(rows=5, uncounted=1)),
    backup(12, written=written(rows=31, exact=False)),
    backup(11, written=written(rows=0, uncounted=1)),
    backup(10),
    backup(9, taken_at=None, size=None, ledger_version=None, verified=False, problems=["no JSON", UGLY], written=None),
]
COPIES = [
    {"name": KEPT, "kind": "before", "run_id": RUN_ID, "size": 431_000_000, "version": "07"},
    {"name": f"habitat_point_{RUN_ID}", "kind": "point", "run_id": RUN_ID, "size": 9_500_000, "version": "05"},
    {"name": f"habitat_restore_{RUN_ID}", "kind": "restore", "run_id": RUN_ID, "size": 7_000_000, "version": None},
]
REVERSIBLE = [{"version": "07", "name": "email_verifications"}, {"version": "06", "name": "security"}]


def choices(**changes: Any) -> str:
    base = {"env": "staging", "database": "habitat", "now": NOW, "backups": BACKUPS, "copies": COPIES}
    return screens.choices({**base, "reversible": REVERSIBLE, **changes})


def heading(**changes: Any) -> dict[str, Any]:
    run = samples.run(command="rollback.yml", **changes)
    return {"run": run, "database": "habitat", "host": "db1.internal", "server": SERVER}


SOURCE = {
    "kind": "backup",
    "id": BACKUP_ID,
    "taken_at": "2026-11-22T10:02:15.120311Z",
    "size": 412034101,
    "restore_seconds": 24.1,
}


def plan(**changes: Any) -> str:
    base = {
        **heading(),
        "source": {**SOURCE, "ledger_version": "05"},
        "adopts": None,
        "current": "07",
        "removed": REVERSIBLE,
        "returning": [],
        "written": WRITTEN,
        "settings": [],
        "kept_as": KEPT,
        "running": SERVICES,
        "notes": [],
    }
    return screens.rollback_plan({**base, **changes})


def revert(version: str, name: str, **changes: Any) -> dict[str, Any]:
    return {"version": version, "name": name, "source": "file", "note": "", "statements": 2, **changes}


def loss(what: str, rows: int | None, **changes: Any) -> dict[str, Any]:
    base = {"kind": "table", "what": what, "rows": rows, "estimated": False, "note": "", "line": 30}
    return {**base, "file": "schema/07_email_verifications.sql", **changes}


REVERTS = [
    revert("07", "email_verifications"),
    revert("06", "security", source="ledger", note="its file was changed after it was applied", statements=1),
]
LOSSES = [
    loss("table public.email_verifications", 12),
    loss("column public.members.phone", 1_204_000, kind="column", estimated=True, line=31),
    loss("DO", None, kind="unknown", note="how many is known only when it runs", file="the ledger", line=2),
    loss("table public.empty", 0, line=32),
]


def reverting(**changes: Any) -> str:
    base = {
        **heading(),
        "current": "07",
        "planned_version": "05",
        "reverts": REVERTS,
        "losses": LOSSES,
        "accepted": True,
    }
    return screens.revert_plan({**base, "running": SERVICES, **changes})


def done(version: str, name: str, source: str = "file") -> dict[str, Any]:
    return {"version": version, "name": name, "duration_ms": 12, "source": source}


ADOPTS = {"from": "production", "to": "staging", "reason": "ticket 4711: slow\x1b[2J query"}
SCREENS: dict[str, Callable[[], str]] = {
    "plan_adopting": lambda: plan(
        source={**SOURCE, "id": BACKUP_ID.replace("staging", "production"), "ledger_version": "05"}, adopts=ADOPTS
    ),
    "choices": choices,
    "choices_of_one": lambda: choices(backups=BACKUPS[:1], copies=COPIES[:1], reversible=REVERSIBLE[:1]),
    "choices_none": lambda: choices(env="local", backups=[], copies=[], reversible=[]),
    "choices_production": lambda: choices(env="production", backups=[]),
    "choices_ugly": lambda: choices(
        database='my "db"\x1b', backups=[], copies=[{**COPIES[0], "name": 'my "db"\x1b_before_x'}], reversible=[]
    ),
    "plan": plan,
    "plan_unsure": lambda: plan(
        written=UNSURE,
        settings=["work_mem is 64MB in the backup and 128MB now", "x\ny"],
        removed=REVERSIBLE[:1],
        returning=[{"version": "04", "name": "events"}],
    ),
    "plan_compared": lambda: plan(
        written=COMPARED, running=[], notes=["PostgreSQL 19.1 is newer than any this was tested with (18)"]
    ),
    "plan_nothing_written": lambda: plan(written=written(), removed=[]),
    "plan_only_gone": lambda: plan(written=written(differs("public.members", 0, 2))),
    "plan_of_a_copy": lambda: plan(
        source={"kind": "copy", "id": KEPT, "taken_at": None, "size": 431_000_000, "ledger_version": None},
        current=None,
        removed=[],
        returning=REVERSIBLE[1:],
        written=None,
    ),
    "plan_of_many_tables": lambda: plan(
        written=written(*(differs(f"public.t{number}", number, 1) for number in range(1, 23)))
    ),
    "restored": lambda: screens.restored(
        {
            "seconds": 51.2,
            "tables": 14,
            "rows": 5213004,
            "size": 431_000_000,
            "not_compared": [],
        }
    ),
    "restored_with_warnings": lambda: screens.restored(
        {
            "seconds": 0.02,
            "tables": 1,
            "rows": 1,
            "size": 7_000_000,
            "not_compared": ["the schema was not compared: pg_dump is 18 and the backup was made by 17"],
        }
    ),
    "swapped": lambda: screens.swapped({"database": "habitat", "kept_as": KEPT, "seconds": 0.012, "sessions_ended": 2}),
    "swapped_alone": lambda: screens.swapped(
        {"database": "habitat", "kept_as": KEPT, "seconds": 0.2, "sessions_ended": 0}
    ),
    "left_out": lambda: screens.left_out({"kept_as": KEPT, "written": WRITTEN}),
    "left_out_of_a_backup": lambda: screens.left_out({"kept_as": KEPT, "written": WRITTEN, "env": "production"}),
    "left_out_one": lambda: screens.left_out(
        {"kept_as": 'a "b" c', "written": written(differs("public.members", 1, 0), uncounted=1, uncertain=1)}
    ),
    "left_out_nothing": lambda: screens.left_out({"kept_as": KEPT, "written": written()}),
    "left_out_only_gone": lambda: screens.left_out(
        {"kept_as": KEPT, "written": written(differs("public.members", 0, 2))}
    ),
    "left_out_compared": lambda: screens.left_out({"kept_as": KEPT, "written": COMPARED}),
    "left_out_unknown": lambda: screens.left_out({"kept_as": KEPT, "written": None}),
    "version": lambda: screens.version(
        {"version": "05", "name": "indexes", "applied_at": "2026-02-10T10:00:00.120311+01:00"}
    ),
    "version_by_hand": lambda: screens.version({"version": "05", "name": None, "applied_at": None}),
    "version_empty": lambda: screens.version({"version": None, "name": None, "applied_at": None}),
    "revert_plan": reverting,
    "revert_plan_refused": lambda: reverting(accepted=False),
    "revert_plan_refused_for_one": lambda: reverting(
        **heading(env="production"), accepted=False, reverts=REVERTS[:1], losses=[loss("table public.x", 1)], running=[]
    ),
    "revert_plan_to_nothing": lambda: reverting(accepted=False, losses=LOSSES[3:], planned_version=None),
    "revert_plan_without_loss": lambda: reverting(
        accepted=False, losses=[], reverts=[revert("07", LONG, statements=1)]
    ),
    "revert_plan_nothing": lambda: reverting(reverts=[], losses=[]),
    "reverted": lambda: screens.reverted(
        {
            "reverted": [done("07", "email_verifications"), done("06", "security", "ledger")],
            "remarks": ["06: columns of public.members come in another order than before"],
        }
    ),
    "reverted_nothing": lambda: screens.reverted({"reverted": [], "remarks": []}),
}


@pytest.mark.parametrize("name", SCREENS)
def test_screen(golden, name):
    (GOLDEN / "rollback").mkdir(parents=True, exist_ok=True)
    golden(f"rollback/{name}", SCREENS[name]())


def test_no_golden_file_is_left_over():
    assert {path.stem for path in (GOLDEN / "rollback").glob("*.txt")} == set(SCREENS)


@pytest.mark.parametrize("name", SCREENS)
def test_no_screen_is_wider_than_a_wide_terminal(name):
    text = SCREENS[name]()
    assert [line for line in text.splitlines() if len(line) > 125 and LONG not in text] == []


@pytest.mark.parametrize("name", SCREENS)
def test_one_is_not_many(name):
    words = ("row", "table", "session", "migration", "backup", "copie")
    assert [word for word in words if f" 1 {word}s" in f" {SCREENS[name]()}"] == []


def test_the_newest_verified_backup_is_the_one_to_copy():
    lines = choices(backups=[BACKUPS[1], BACKUPS[2]], copies=[], reversible=[])
    assert f"ansible-playbook rollback.yml -e backup={BACKUPS[2]['id']}" in lines
    assert f"backup={BACKUPS[1]['id']}" not in lines


def test_a_name_that_nobody_can_type_is_not_offered():
    assert "-e backup=" not in SCREENS["choices_ugly"]()


def test_a_restore_that_was_left_over_is_not_offered():
    assert "backup=habitat_restore" not in choices(copies=COPIES[2:])


@pytest.mark.parametrize("name", ["choices_production", "revert_plan_refused_for_one"])
def test_commands_for_production_carry_the_confirmation(name):
    commands = [line for line in SCREENS[name]().splitlines() if "ansible-playbook" in line]
    assert commands
    assert [line for line in commands if "-e confirm=production" not in line] == []


def test_tables_that_could_not_be_counted_are_shown_whatever_else_there_is():
    many = [differs(f"public.t{number}", 1000, 0) for number in range(50)]
    assert "public.secret " in plan(written=written(*many, differs("public.secret", None, None, 7, None), uncounted=1))


def test_accepted_losses_are_shown_and_not_refused():
    assert "REFUSED" not in reverting(accepted=True)
    assert "public.email_verifications" in reverting(accepted=True)
    assert "REFUSED" in reverting(accepted=False)


def test_an_empty_table_needs_no_acceptance():
    assert "REFUSED" not in reverting(accepted=False, losses=LOSSES[3:])
