"""Data as the modules return it, for the tests of what is said about it."""

from __future__ import annotations

import copy
from typing import Any

RUN_ID = "20261122t100211z-k3f"
BACKUP_ID = f"staging-{RUN_ID}"
STOPPED_AT = 1795341831.25
SERVICES = ["habitat:api_0", "habitat:api_1", "habitat:worker"]
URLS = ["http://127.0.0.1:8081/api/health", "http://127.0.0.1:8082/api/health"]


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``base`` with changes."""
    return {**copy.deepcopy(base), **changes}


def checksum(letter: str) -> str:
    """A sha256 that is easy to tell from others."""
    return (letter * 64)[:64]


def head(version: str, name: str = "members", **changes: Any) -> dict[str, Any]:
    """A migration's head as ``read_bundle`` yields it."""
    base = {
        "version": version,
        "name": name,
        "file": f"schema/{version}_{name}.sql",
        "checksum": checksum("a"),
        "mode": "transaction",
        "begin": "BEGIN",
        "down": {"state": "ok", "sql": "DROP TABLE members;", "reason": ""},
        "lock_timeout": None,
        "statement_timeout": None,
        "warnings": [],
        "statements": 3,
        "verifications": 0,
    }
    return merged(base, changes)


def row(version: str, name: str = "members", **changes: Any) -> dict[str, Any]:
    """A row of the ledger as ``read_ledger`` returns it."""
    base = {
        "version": version,
        "name": name,
        "checksum": checksum("a"),
        "kind": "apply",
        "duration_ms": 12,
        "applied_at": "2026-02-10T09:00:00.120311+00:00",
        "applied_by": "alice",
        "run_id": "20260210t090000z-a1b",
    }
    return merged(base, changes)


def by_hand(version: str) -> dict[str, Any]:
    """A row as ``INSERT INTO schema_migrations(version) VALUES (...)`` leaves it."""
    empty = {name: None for name in ("name", "checksum", "kind", "duration_ms", "applied_by", "run_id")}
    return row(version, **empty)


def progress(version: str, **changes: Any) -> dict[str, Any]:
    """A partial migration as ``read_ledger`` returns it."""
    base = {
        "version": version,
        "name": "members_email_idx",
        "done": 2,
        "total": 5,
        "prefix": checksum("p"),
        "run_id": "20261121t220000z-p02",
        "error": "canceling statement due to lock timeout",
        "updated_at": "2026-11-21T22:00:09.000000+00:00",
    }
    return merged(base, changes)


def ledger(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What ``read_ledger`` returns."""
    return merged(
        {"exists": True, "foreign": None, "objects": 14, "rows": list(rows), "progress": [], "environment": None},
        changes,
    )


def planned(version: str, name: str, **changes: Any) -> dict[str, Any]:
    """One pending migration as ``plan_line`` returns it."""
    base = {
        "version": version,
        "name": name,
        "file": f"schema/{version}_{name}.sql",
        "mode": "transaction",
        "statements": 3,
        "verifications": 0,
        "warnings": [],
        "down": {"state": "ok", "reason": ""},
        "lock_timeout": None,
        "statement_timeout": None,
    }
    return merged(base, changes)


PENDING = [planned("06", "security", statements=21), planned("07", "email_verifications")]


def applied(version: str, name: str, milliseconds: int) -> dict[str, Any]:
    """One applied migration as module schema_migrations returns it."""
    return {
        "version": version,
        "name": name,
        "file": f"schema/{version}_{name}.sql",
        "mode": "transaction",
        "statements": 3,
        "duration_ms": milliseconds,
    }


APPLIED = [applied("06", "security", 184), applied("07", "email_verifications", 12)]


def state(version: str, name: str, **changes: Any) -> dict[str, Any]:
    """State of a version as module schema_migrations_info returns it."""
    base = {
        "version": version,
        "name": name,
        "state": "applied",
        "file": f"schema/{version}_{name}.sql",
        "applied_at": "2026-02-10T09:00:00.120311+00:00",
        "applied_by": "alice",
        "duration_ms": 12,
        "run_id": "20260210t090000z-a1b",
        "done": None,
        "total": None,
        "error": None,
        "label": "applied",
    }
    return merged(base, {**changes, "label": changes.get("label", changes.get("state", "applied"))})


def waiting(version: str, name: str, **changes: Any) -> dict[str, Any]:
    """State of a version that is not in the ledger."""
    nothing = {key: None for key in ("applied_at", "applied_by", "duration_ms", "run_id")}
    return state(version, name, **{"state": "pending", **nothing, **changes})


def run(**changes: Any) -> dict[str, Any]:
    """The fact habitat_run."""
    base = {
        "id": RUN_ID,
        "env": "staging",
        "operator": "alice",
        "origin": "AWX job 811",
        "inputs": {"env": "staging"},
        "check": False,
        "command": "migrate.yml",
    }
    return merged(base, changes)


def probe(url: str = URLS[0], **changes: Any) -> dict[str, Any]:
    """One address as module health returns it."""
    body = {"status": "ok", "schema_version": "05", "database_ms": 0.4}
    return merged({"url": url, "good": 3, "tries": 3, "reason": "", "body": body}, changes)


def session(**changes: Any) -> dict[str, Any]:
    """Another session in the database, as ``read_sessions`` returns it."""
    base = {
        "pid": 4121,
        "role": "report",
        "app": "metabase",
        "state": "idle in transaction",
        "query": "SELECT count(*)\n  FROM members\n WHERE joined_at > now() - interval '30 days' AND left_at IS NULL",
        "seconds": 421.7,
    }
    return merged(base, changes)


def failure(**changes: Any) -> dict[str, Any]:
    """A failed migration as module schema_migrations returns it."""
    base = {
        "version": "07",
        "file": "schema/07_email_verifications.sql",
        "line": 12,
        "column": 38,
        "statement": "CREATE TABLE email_verifications (\n  id bigint PRIMARY KEY,\n  member_id bigint REFERENCES member (id)\n)",
        "message": 'relation "member" does not exist',
        "state": "rolled_back",
        "sqlstate": "42P01",
        "detail": None,
        "hint": None,
        "context": None,
        "advice": None,
        "done": None,
        "total": None,
    }
    return merged(base, changes)


CHECKS = [
    {"state": "ok", "text": "PostgreSQL 17.10", "next": ""},
    {"state": "ok", "text": "primary, writable", "next": ""},
    {"state": "ok", "text": "role habitat owns database habitat", "next": ""},
    {"state": "ok", "text": "space for the backup: 41 GB free, 412 MB needed", "next": ""},
]
WARNING = {
    "state": "warn",
    "text": "2 sessions belong to no service of ours: pid 4121 report (metabase, idle); pid 4122 bob (psql, active)",
    "next": "they stay connected; make sure that they do not write",
}
FAIL = {
    "state": "fail",
    "text": 'a transaction is open for 7 min 1 s: pid 4121 report (metabase, idle in transaction) "SELECT 1"',
    "next": "end it first: SELECT pg_terminate_backend(4121)",
}
SERVER = {"number": 170010, "version": "17.10 (Debian 17.10-1.pgdg12+1)", "size": 412034101, "role": "habitat"}


def backup(**changes: Any) -> dict[str, Any]:
    """A backup as module database_backup returns it."""
    base = {
        "id": BACKUP_ID,
        "dump": f"/var/backups/habitat/{BACKUP_ID}.dump",
        "form": "custom",
        "compression": "zstd",
        "proof": "restore",
        "restore_seconds": 24.1,
        "tag": None,
        "size": 412034101,
        "sha256": checksum("1c9e"),
        "taken_at": "2026-11-22T10:02:15.120311Z",
        "database": "habitat",
        "ledger_version": "05",
        "schema_sha256": checksum("5"),
        "tables": 14,
        "rows": 5213004,
    }
    return merged(base, changes)


def stored(**changes: Any) -> dict[str, Any]:
    """A backup as module database_backup_info lists it."""
    base = {
        "id": BACKUP_ID,
        "dump": f"/var/backups/habitat/{BACKUP_ID}.dump",
        "taken_at": "2026-11-22T10:02:15.120311Z",
        "size": 412034101,
        "environment": "staging",
        "database": "habitat",
        "ledger_version": "05",
        "form": "custom",
        "tag": None,
        "proof": "restore",
        "restore_seconds": 12.4,
        "verified": True,
        "problems": [],
    }
    return merged(base, changes)


HOLDER = {
    "run_id": "20261122t095801z-b7q",
    "operator": "bob",
    "from": "AWX job 811",
    "since": "2026-11-22T09:58:02.221917+00:00",
    "phase": "BACKUP",
}


def raw(**changes: Any) -> dict[str, Any]:
    """What role report hands over after a run in which everything went well."""
    base = {
        "run": run(),
        "database": "habitat",
        "host": "db1.internal",
        "failed_task": None,
        "failed_message": None,
        "said": False,
        "preflight": {"checks": CHECKS, "pending": PENDING, "current": "05", "refusals": [], "server": SERVER},
        "health_before": {"changed": False, "probes": [probe(url) for url in URLS]},
        "services": {"running": SERVICES, "stopped": [], "units": ["habitat:"]},
        "backup": {"changed": True, "backup": backup(), "seconds": 38.214, "removed": []},
        "stopping": {"changed": False, "at": STOPPED_AT},
        "applying": {
            "changed": True,
            "applied": APPLIED,
            "failure": None,
            "from_version": "05",
            "to_version": "07",
            "settings": {"lock_timeout": "5s", "statement_timeout": "10min"},
            "other_sessions": [],
        },
        "starting": {"changed": True, "results": [{"item": "habitat:", "changed": True}]},
        "health": {"changed": False, "probes": [probe(url) for url in URLS]},
        "healthy": {"changed": False, "at": STOPPED_AT + 2.74},
        **{
            name: {}
            for name in (
                "copying",
                "backing_up_after",
                "public_before",
                "public",
                "logs",
                "access",
                "lock",
                "choosing",
                "restoring",
                "swapping",
                "accounting",
                "planning",
                "reverting",
            )
        },
    }
    return merged(base, changes)


PUBLIC_URL = "https://habitat.example.org/api/health"
PUBLIC_SICK = probe(
    PUBLIC_URL, good=0, tries=40, reason="certificate verify failed: certificate has expired", body=None
)
PUBLIC_FAILED = {
    "failed": True,
    "msg": f"{PUBLIC_URL} is not healthy: {PUBLIC_SICK['reason']}",
    "probes": [PUBLIC_SICK],
}
"""What module health returns on the controller when the application answers only on its host."""
SKIPPED = {"changed": False, "skipped": True, "skip_reason": "Conditional result was False"}
"""What Ansible registers for a task whose condition was false."""


def failed(task: str, message: str, **changes: Any) -> dict[str, Any]:
    """What role report hands over after a task failed."""
    return raw(failed_task=task, failed_message=message, **changes)


def failed_migration(
    found: dict[str, Any], done: list[dict[str, Any]], to: str | None, **changes: Any
) -> dict[str, Any]:
    """What role report hands over after a migration failed, with the services up again unless changed."""
    applying = {"failed": True, "applied": done, "failure": found, "from_version": "05", "to_version": to}
    message = f"{found['file']}:{found['line']}: {found['message']}"
    return failed("Apply the pending migrations", message, applying=applying, **changes)


LONG = "move_contributions_of_members_who_left_into_the_archive_and_keep_their_receipts_for_ten_years"
UGLY = "<script>alert('1|2')</script>"
REFUSALS = [
    {
        "what": "schema/05_indexes.sql was changed after it was applied",
        "found": "applied 2026-02-10 09:00:00 with sha256 77ab31c0..., now 0c3dd2f1...",
        "next": "restore the file (git log -- schema/05_indexes.sql) and put the change into a new migration",
    },
    {"what": "schema/8_x.sql:12: unterminated quote", "found": "", "next": "correct the file"},
]
PROBES = [probe(url, good=1, tries=1) for url in URLS]
SICK = probe(URLS[1], good=0, tries=12, reason="status 503 instead of 200: {'status': 'degraded'}", body={})
