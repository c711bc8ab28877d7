"""Runs that were cut off: their journals, what was put right after them, and what is said about it."""

from __future__ import annotations

from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils import account

from tests.unit.samples import RUN_ID, SERVICES, merged

MANAGER = {"manager": "supervisor", "server_url": "unix:///s", "folder": None, "file": None, "scope": "system"}
ENDED_AT = "2026-11-22T10:03:59.220+00:00"


def line(event: str, what: str, second: float = 0.0, **details: Any) -> dict[str, Any]:
    """A line of a run's journal."""
    return {
        "at": f"2026-11-22T10:02:{int(second):02d}.000+00:00",
        "mono": 5000 + second,
        "event": event,
        "what": what,
        **details,
    }


def both(what: str, second: float, **details: Any) -> list[dict[str, Any]]:
    """A step that began and came to its end a second later."""
    return [line("intent", what, second, **details), line("done", what, second + 1)]


def begun() -> list[dict[str, Any]]:
    return [line("note", "run", 0, run_id=RUN_ID, operator="alice"), *both("PREFLIGHT", 1), *both("BACKUP", 3)]


def stopping() -> list[dict[str, Any]]:
    return [*begun(), line("intent", "STOP", 10, names=SERVICES, manager=MANAGER)]


def applying() -> list[dict[str, Any]]:
    """In the middle of applying, with one migration committed and the COMMIT of the next one under way."""
    return [
        *stopping(),
        line("done", "STOP", 11, names=SERVICES),
        line("intent", "APPLY", 12, versions=["06", "07"], from_version="05"),
        line("intent", "commit", 13, version="06", xid="733"),
        line("done", "commit", 14, version="06", xid="733"),
        line("intent", "commit", 15, version="07", xid="734"),
    ]


def started() -> list[dict[str, Any]]:
    return [
        *applying(),
        line("done", "commit", 16, version="07", xid="734"),
        line("done", "APPLY", 17),
        *both("START", 18, names=SERVICES)[:1],
        line("done", "START", 19, names=SERVICES),
    ]


def cut_off_run(**changes: Any) -> dict[str, Any]:
    """What run.json has."""
    base = {
        "id": RUN_ID,
        "env": "staging",
        "database": "habitat",
        "host": "db1.internal",
        "operator": "alice",
        "origin": "AWX job 811",
        "command": "migrate.yml",
        "inputs": {"env": "staging"},
        "container": None,
        "connect": {"host": "/run/postgresql", "user": "habitat"},
    }
    return merged(base, changes)


def righted(**changes: Any) -> account.Righted:
    base = {"by": "the guard", "why": "no step showed a sign of life for 15 s", "schema": "06"}
    return account.Righted(**{**base, **changes})


EVERYTHING = {
    "step_ended": "APPLY",
    "sessions_ended": 2,
    "let_in": True,
    "started": SERVICES,
    "healthy": True,
    "down_seconds": 21.34,
    "commits": {"07": "PostgreSQL says transaction 734 is aborted"},
}
DOWN = "the services are DOWN: habitat:api_0: ERROR (spawn error)"


def told(
    lines: list[dict[str, Any]] | None = None, run: dict[str, Any] | None = None, **changes: Any
) -> dict[str, Any]:
    """The report of a run that was cut off."""
    progress = account.Progress().follow(applying() if lines is None else lines)
    return account.report(run or cut_off_run(), progress, righted(**changes), ENDED_AT)
