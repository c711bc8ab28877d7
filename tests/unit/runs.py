"""Runs that ended in different ways, and their reports."""

from __future__ import annotations

from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils import report, verdict

from tests.unit.rollbacks import ROLLBACKS
from tests.unit.samples import (
    APPLIED,
    CHECKS,
    FAIL,
    LONG,
    PENDING,
    PROBES,
    PUBLIC_FAILED,
    SERVER,
    SICK,
    SKIPPED,
    UGLY,
    URLS,
    failed,
    failed_migration,
    failure,
    planned,
    raw,
    run,
)

HTML = failure(
    version="07",
    statement="INSERT INTO pages VALUES ('" + "<p>|</p>" * 20 + "')",
    message=f'duplicate key value violates unique constraint "{UGLY}"',
    sqlstate="23505",
    detail=f"Key (title)=({UGLY})\nalready exists.",
    hint="Look at\n  `pages`.",
    context='SQL statement "INSERT ..."\nPL/pgSQL function fill() line 3 at SQL statement',
)


def finished(given: dict[str, Any]) -> dict[str, Any]:
    """The report of a run."""
    facts = report.gather(given)
    return report.build(facts, verdict.judge(facts), "2026-11-22T10:03:59.220311+00:00")


NOT_STOPPED = {"stopping": {}, "applying": {}, "starting": {}, "health": {}, "healthy": {}}
UGLY_RUN = raw(
    run=run(operator=f"{UGLY} | `rm -rf`", origin="[evil](http://example.com)\n# Heading"),
    database=f"habitat{UGLY}",
    host="db1 | db2",
    preflight={
        "checks": [{"state": "warn", "text": f"1 session belongs to nobody: {UGLY}\n| x | y |", "next": ""}],
        "pending": [planned("06", f"{UGLY}_{LONG}"), planned("07", "*_email_*")],
        "current": "05",
        "server": SERVER,
    },
    applying={"failed": True, "applied": [APPLIED[0]], "failure": HTML, "from_version": "05", "to_version": "06"},
    failed_task="Apply the pending migrations",
    failed_message=f"schema/07_pages.sql:12: {UGLY}",
)
UNHEALTHY = failed(
    "Wait until the application is healthy",
    f"{URLS[1]} is not healthy: {SICK['reason']}",
    health={"failed": True, "msg": f"{URLS[1]} is not healthy: {SICK['reason']}", "probes": [PROBES[0], SICK]},
    healthy={},
)
WRITERS_LEFT = failed(
    "Apply the pending migrations",
    "2 sessions of the stopped services are still connected after 10 s",
    applying={
        "failed": True,
        "applied": [],
        "from_version": "05",
        "to_version": "05",
        "refusals": [
            {
                "what": "2 sessions of the stopped services are still connected after 10 s",
                "found": "pid 4121 habitat_app (api, idle)",
                "next": "end them",
            }
        ],
    },
)
LOGS = {
    "habitat:api_0": [f"line {number} of 6" for number in range(1, 7)],
    "habitat:api_1": ["Traceback (most recent call last):", f'KeyError: "{UGLY} | `x`"', "```", "# no heading"],
    f"habitat:{UGLY}": [],
}
RUNS = {
    "succeeded": raw(),
    "refused": failed(
        "Show the run",
        FAIL["text"],
        backup={},
        **NOT_STOPPED,
        preflight={"checks": [*CHECKS, FAIL], "pending": PENDING, "current": "05", "server": SERVER},
    ),
    "backup_failed": failed(
        "Dump the database", "pg_dump: error: no space left", **NOT_STOPPED, **{"backup": {"failed": True}}
    ),
    "migration_failed": failed_migration(failure(), [APPLIED[0]], "06"),
    "migration_partial": failed_migration(failure(state="partial", done=2, total=5), [], "05"),
    "commit_unknown": failed_migration(
        failure(state="unknown", sqlstate=None, message="the connection was lost"), [], "05"
    ),
    "writers_left": WRITERS_LEFT,
    "start_failed": failed(
        "Start what was stopped", "habitat:api_0: ERROR (spawn error)", starting={"failed": True}, health={}, healthy={}
    ),
    "unhealthy": UNHEALTHY,
    "unhealthy_with_logs": {**UNHEALTHY, "logs": {"logs": LOGS}},
    "public_unhealthy": failed("Wait until it is healthy from here, too", PUBLIC_FAILED["msg"], public=PUBLIC_FAILED),
    "public_not_asked": raw(public=SKIPPED, public_before={"probes": [SICK]}),
    "ugly": UGLY_RUN,
    **ROLLBACKS,
}
