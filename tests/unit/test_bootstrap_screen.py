"""What bootstrap.yml shows; screens are kept in ``golden/``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.bootstrap_screen import bootstrap

HOST = {
    "user": "deploy",
    "python": "/usr/bin/python3",
    "psycopg": "3.1.7",
    "programs": {},
    "missing": [],
    "folders": {"/var/lib/habitat-runbook": "ok", "/var/backups/habitat": "ok"},
    "need_rights": [],
}
NOTHING: dict[str, list[str]] = {"created": [], "altered": [], "granted": [], "notes": []}
FIRST = {
    "created": ["role habitat_owner", "role habitat_app"],
    "altered": ["database habitat to habitat_owner", *(f"table public.t{n} to habitat_owner" for n in range(14))],
    "granted": ["pg_signal_backend to habitat_owner", "CONNECT on habitat no longer to PUBLIC"],
    "notes": ["superuser habitat has 4 sessions in habitat (habitat-api): \x1b[2Jlet it connect as its own role"],
}
NEW = {**HOST, "folders": {"/var/lib/habitat-runbook": "made", "/var/backups/habitat": "rights"}}
BARE = {**NEW, "psycopg": "", "missing": ["psycopg 3.1 or later for /usr/bin/python3", "pg_dump"]}


def screen(**changes: Any) -> str:
    usual = {"env": "staging", "database": "habitat", "host": "habitat-staging", "check": False}
    return bootstrap({**usual, "found": HOST, "installed": [], "venv": "", "roles": NOTHING, **changes})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bootstrap_first", screen(found=NEW, roles=FIRST, installed=["python3-psycopg"])),
        ("bootstrap_again", screen(found={**HOST, "programs": {"pg_dump": "/usr/bin/pg_dump"}})),
        ("bootstrap_check", screen(check=True, found=NEW, roles=FIRST)),
        ("bootstrap_check_bare", screen(check=True, found=BARE, roles=None, installed=["python3-psycopg"])),
        ("bootstrap_check_no_python", screen(check=True, found=None, roles=None, venv="/srv/venv")),
        ("bootstrap_venv", screen(venv="/srv/venv", found=NEW)),
    ],
)
def test_the_screen(golden: Callable[[str, str], None], name: str, text: str) -> None:
    golden(name, text)
