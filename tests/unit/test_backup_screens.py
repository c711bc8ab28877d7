"""The words about what becomes of backups; screens are kept in ``golden/``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import backup_screens as screens
from ansible_collections.habitat.runbook.plugins.module_utils.report import markdown

from tests.unit.conftest import GOLDEN
from tests.unit.runs import finished
from tests.unit.samples import backup, raw, stored

OLD = [{"id": f"staging-2026080{day}t100211z-k3f", "reason": "old", "size": 412_034_101} for day in range(5, 0, -1)]
OLDER = "staging-20261121t080000z-x1y"
CHOSEN = {"backup": stored(), "older": OLDER, "unusable": [], "refusals": []}
RESTORED = {"seconds": 38.2, "tables": 24, "rows": 18_000, "size": 431_000_000, "not_compared": []}
FAILED = {
    "msg": "backup x could not be restored into database y: pg_restore failed:\x1b[2J could not read " + "w" * 150
}


def drill(restored: dict[str, Any], **changes: Any) -> str:
    removed = changes.pop("removed", {"removed": ["x"]})
    chosen = {**CHOSEN, "backup": stored(**changes)}
    return screens.drill({**chosen, "env": "staging", "restored": restored, "removed": removed})


SCREENS: dict[str, Callable[[], str]] = {
    "backup_after": lambda: screens.backup_after({"backup": backup(), "seconds": 31.2, "env": "staging"}),
    "backup_after_not": lambda: screens.backup_after({"msg": "the disk is full", "env": "staging"}),
    "copied": lambda: screens.copied({"to": "vault:/srv/habitat", "seconds": 3.214, "notes": []}),
    "copied_nearby": lambda: screens.copied(
        {"to": "/mnt/vault", "seconds": 0.21, "notes": ["/mnt/vault is on the same disk\nas the backups"]}
    ),
    "copied_not": lambda: screens.copied(
        {"to": "/mnt/vault", "msg": "copying the backup failed:\x1b[2J no route to host"}
    ),
    "retained": lambda: screens.retained({"removed": OLD, "finished": [], "check": False}),
    "retained_check": lambda: screens.retained({"removed": OLD[:1], "finished": [], "check": True}),
    "retained_not": lambda: screens.retained(
        {"removed": OLD[:1], "finished": [], "check": False, "msg": "Read-only file system"}
    ),
    "drill_begun": lambda: screens.drill_begun(CHOSEN),
    "drill_begun_not_the_newest": lambda: screens.drill_begun(
        {**CHOSEN, "backup": stored(ledger_version=None), "unusable": [OLDER, OLDER]}
    ),
    "drill": lambda: drill(RESTORED),
    "drill_with_doubts": lambda: drill(
        {**RESTORED, "not_compared": ["the schema:\x1b[2J another pg_dump"]},
        restore_seconds=None,
        removed={"msg": "habitat_restore_x cannot be dropped: it is in use"},
    ),
    "drill_failed": lambda: drill(FAILED),
}


@pytest.mark.parametrize("name", SCREENS)
def test_screen(golden, name):
    golden(name, SCREENS[name]())


def test_no_golden_file_is_left_over():
    found = {
        path.stem for kind in ("backup_after", "copied", "retained", "drill") for path in GOLDEN.glob(f"{kind}*.txt")
    }
    assert found == set(SCREENS)


def test_nothing_is_said_when_nothing_was_done():
    assert screens.retained({"removed": [], "finished": [], "check": False}) == ""
    assert screens.copied({"to": "/mnt/vault", "notes": [], "changed": True}) == ""


def test_only_a_drill_that_failed_fails_its_screen():
    assert screens.drill_failure({**CHOSEN, "restored": FAILED}) == FAILED["msg"]
    assert screens.drill_failure({**CHOSEN, "restored": RESTORED}) is None
    assert screens.drill_failure(CHOSEN) is None
    # A step that was killed has left no message.
    assert screens.drill_failure({**CHOSEN, "restored": {}})


def test_the_report_says_where_the_backup_was_copied_to():
    told = finished(raw(copying={"to": "vault|1", "seconds": 3.2, "notes": []}))
    assert told["copied_to"] == "vault|1"
    assert "copied to vault\\|1 and read back there" in markdown(told)
    failed = finished(raw(copying={"to": "vault", "msg": "no route to host"}))
    assert failed["copied_to"] is None
    assert "copied" not in markdown(failed)
