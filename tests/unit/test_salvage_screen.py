"""Every screen of salvage.yml as an operator sees it, kept in ``golden/salvage/``; see test_screens.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import salvage_screen as screens

from tests.unit.conftest import GOLDEN
from tests.unit.samples import BACKUP_ID, RUN_ID

KEPT = f"habitat_before_{RUN_ID}"
FILE = f"/var/backups/habitat/{KEPT}.sql"
COMMAND = f"psql -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p 5432 -U habitat -d habitat -f {FILE}"
ABOUT = {"env": "staging", "host": "db1", "database": "habitat", "kept": KEPT, "given_backup": "", "importing": False}
UGLY = 'public."a\x1b[2J\nFILE"'


def numbers(insert: int, update: int, delete: int) -> dict[str, int]:
    return {"insert": insert, "update": update, "delete": delete}


def fates(applied: int, there: int, left: int) -> dict[str, int]:
    return {"applied": applied, "there": there, "left": left}


def left_out(
    table: str, what: str, columns: tuple[str, ...] = (), kept: int | None = None, base: int | None = None
) -> dict[str, Any]:
    return {"table": table, "what": what, "columns": list(columns), "kept": kept, "base": base}


REPORTED = [
    left_out("public.later", "only_kept", kept=37),
    left_out("public.former", "only_base"),
    left_out("public.notes", "no_key", kept=1, base=2),
    left_out("public.members", "new_columns", ("phone",)),
    left_out(UGLY, "missing_columns", ("a", "b")),
]


def salvaged(**changes: Any) -> str:
    base = {
        **ABOUT,
        "tables": {"public.members": numbers(3, 1, 0), "public.contributions": numbers(1204, 0, 2)},
        "reported": [],
        "sequences": 2,
        "compared": 9,
        "file": FILE,
        "size": 412_034,
        "sha256": "ab" * 32,
        "seconds": 1.25,
        "command": COMMAND,
    }
    return screens.salvaged({**base, **changes})


def imported(**changes: Any) -> str:
    base = {
        **ABOUT,
        "tables": {"public.members": fates(2, 0, 2), "public.contributions": fates(1206, 0, 0)},
        "sequences": 1,
        "left_file": FILE.replace(".sql", ".left.sql"),
        "seconds": 0.3,
    }
    return screens.salvage_imported({**base, **changes})


SCREENS: dict[str, Callable[[], str]] = {
    "plan": lambda: screens.salvage_plan(
        {
            **ABOUT,
            "backup": BACKUP_ID,
            "kept_size": 431_000_000,
            "backup_size": 412_034_101,
            "taken_at": "2026-11-22T10:02:15.120311Z",
        }
    ),
    "found": salvaged,
    "found_production": lambda: salvaged(env="production", reported=REPORTED),
    "found_one": lambda: salvaged(
        given_backup=BACKUP_ID, tables={"public.members": numbers(0, 1, 0)}, sequences=1, reported=REPORTED[3:4]
    ),
    "found_many": lambda: salvaged(
        tables={f"public.t{number}": numbers(number, 0, 1) for number in range(23)},
        reported=[left_out(f"public.l{number}", "only_base") for number in range(22)],
    ),
    "found_importing": lambda: salvaged(importing=True, sequences=0),
    "found_sequences": lambda: salvaged(tables={}),
    "found_nothing": lambda: salvaged(tables={}, file=None, reported=REPORTED[:1]),
    "imported": imported,
    "imported_all": lambda: imported(
        tables={"public.members": fates(1, 0, 0)}, left_file=None, sequences=0, database='my "db"\x1b'
    ),
    "imported_again": lambda: imported(
        tables={"public.members": fates(0, 2, 2), "public.contributions": fates(0, 1206, 0)}, sequences=0
    ),
}


@pytest.mark.parametrize("name", SCREENS)
def test_screen(golden, name):
    golden(f"salvage/{name}", SCREENS[name]())


def test_no_golden_file_is_left_over():
    assert {path.stem for path in (GOLDEN / "salvage").glob("*.txt")} == set(SCREENS)


def _is_a_command(line: str) -> bool:
    return " -f " in line or line.startswith("  ansible-playbook ")


@pytest.mark.parametrize("name", SCREENS)
def test_no_line_but_a_command_is_wider_than_a_wide_terminal(name):
    assert [line for line in SCREENS[name]().splitlines() if len(line) > 125 and not _is_a_command(line)] == []


@pytest.mark.parametrize("name", SCREENS)
def test_one_is_not_many(name):
    words = ("row", "table", "sequence")
    assert [word for word in words if f" 1 {word}s" in f" {SCREENS[name]()}"] == []
