"""Runs that went back, or tried to: to a backup, to a restore point, by down migrations. Data as the roles hand it over."""

from __future__ import annotations

from typing import Any

from tests.unit.samples import (
    APPLIED,
    RUN_ID,
    SERVER,
    SERVICES,
    SICK,
    SKIPPED,
    URLS,
    backup,
    failed,
    failure,
    merged,
    raw,
    run,
)

KEPT = f"habitat_before_{RUN_ID}"
POINT = f"habitat_point_{RUN_ID}"
OLD_BACKUP = "staging-20261121t220000z-p02"
PRODUCTION = {"env": "production", "confirm": "production"}
NOTHING = {name: {} for name in ("preflight", "health_before", "backup", "applying")}
UNTOUCHED = {"stopping": {}, "starting": {}, "health": {}, "healthy": {}}
UNHEALTHY = {
    "health": {"failed": True, "msg": f"{URLS[1]} is not healthy: {SICK['reason']}", "probes": [SICK]},
    "healthy": {},
}
DOWN = {"starting": {"failed": True, "msg": "habitat:api_0: ERROR (spawn error)"}, "health": {}, "healthy": {}}
NO_SERVICE = {
    "services": {"running": [], "stopped": SERVICES, "units": []},
    "starting": {"changed": False, "skipped": True, "results": []},
    "health": SKIPPED,
    "healthy": SKIPPED,
}
FAILED_HEALTH = ("Wait until the application is healthy", f"{URLS[1]} is not healthy: {SICK['reason']}")
IN_USE = "database habitat is still in use by pid 4121 report (metabase, active); end that and run this again"
LOST = f"whether {KEPT} was made is not known, the server does not answer"
REMOVED = [{"version": "06", "name": "security"}, {"version": "07", "name": None}]


def command(name: str = "rollback.yml", env: str = "staging", **inputs: str) -> dict[str, Any]:
    """The run as the environment check named it, with what was typed."""
    return run(command=name, env=env, inputs={"env": env, **inputs})


def differs(table: str, newer: int | None, gone: int | None, then: int | None, now: int | None) -> dict[str, Any]:
    return {"table": table, "then": then, "now": now, "newer": newer, "gone": gone}


FOREIGN = "production-20261121t220000z-p02"
ADOPTS = {"from": "production", "to": "staging", "reason": "ticket 4711 | slow query"}
WRITTEN = {
    "exact": True,
    "tables": [
        differs("public.members", 3, 1, 1200, 1202),
        differs("public.contributions", 1201, 0, 3_100_000, 3_101_201),
        differs("public.secrets", None, None, 7, None),
    ],
    "rows": 1204,
    "uncertain": 2,
    "uncounted": 1,
}


def chosen(**changes: Any) -> dict[str, Any]:
    """What module rollback_info returns about the chosen backup."""
    base = {
        "changed": False,
        "server": SERVER,
        "current": "07",
        "kept_as": KEPT,
        "source": {
            "kind": "backup",
            "id": OLD_BACKUP,
            "taken_at": "2026-11-21T22:00:15.120311Z",
            "size": 412034101,
            "ledger_version": "05",
            "restore_seconds": 24.1,
            "dump": f"/var/backups/habitat/{OLD_BACKUP}.dump",
        },
        "adopts": None,
        "removed": REMOVED,
        "returning": [],
        "notes": [
            "2 sessions belong to no service of ours: pid 4121 report (metabase, idle); pid 4122 bob (psql, active)"
        ],
        "written": WRITTEN,
        "settings": [],
        "refusals": [],
    }
    return merged(base, changes)


def of_a_copy(**changes: Any) -> dict[str, Any]:
    """What module rollback_info returns about a copy inside the server."""
    source = {"kind": "copy", "id": "habitat_before_20261121t220000z-p02", "taken_at": None, "size": 431_000_000}
    return chosen(source={**source, "ledger_version": "05"}, written=None, notes=[], **changes)


RESTORED = {
    "changed": True,
    "name": f"habitat_restore_{RUN_ID}",
    "seconds": 51.2,
    "tables": 14,
    "rows": 5213004,
    "size": 431_000_000,
    "not_compared": [],
    "removed": [],
}
SWAPPED = {
    "changed": True,
    "kept_as": KEPT,
    "seconds": 0.012,
    "sessions_ended": 2,
    "from_version": "07",
    "to_version": "05",
}


NO_BACKUP = {"what": "no backup is verified", "found": f"{OLD_BACKUP}: the dump is missing", "next": "repair it"}


def swap_failed(**changes: Any) -> dict[str, Any]:
    """What module database_swap returns when nothing was renamed."""
    return {"failed": True, "msg": IN_USE, "unknown": False, "kept_as": KEPT, **changes}


def restore(**changes: Any) -> dict[str, Any]:
    """What role report hands over after rollback.yml put a backup back."""
    base = {
        "run": command(backup=OLD_BACKUP),
        **NOTHING,
        "choosing": chosen(),
        "restoring": RESTORED,
        "swapping": SWAPPED,
        "accounting": {"changed": False, "written": WRITTEN},
    }
    return raw(**{**base, **changes})


def not_restored(task: str, message: str, **changes: Any) -> dict[str, Any]:
    """The same after a task failed; nothing was counted then."""
    return restore(failed_task=task, failed_message=message, **{"accounting": {}, **changes})


MEANWHILE = {
    "exact": True,
    "tables": [differs("public.events", 3, 0, 40, 43), differs("public.secrets", None, None, None, None)],
    "rows": 3,
    "uncertain": 0,
    "uncounted": 1,
}
PUT_BACK = {**SWAPPED, "from_version": "06", "sessions_ended": 0}
POINT_TAKEN = {"name": POINT, "seconds": 0.41, "reason": ""}
POINT_NOT_TAKEN = {"name": None, "seconds": 0.1, "reason": "database habitat is still in use by pid 4121 report"}
FAILED_MIGRATION = failure(detail="No such table.", sqlstate="42P01")


def point_run(found: dict[str, Any] | None, swapping: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What role report hands over after migrate.yml failed with a restore point; found: the failed migration."""
    applying = {
        "failed": found is not None,
        "changed": True,
        "applied": APPLIED[:1] if found else APPLIED,
        "failure": found,
        "from_version": "05",
        "to_version": "06" if found else "07",
        "settings": {"lock_timeout": "5s", "statement_timeout": "10min"},
        "other_sessions": [],
        "restore_point": POINT_TAKEN,
    }
    task = "Apply the pending migrations" if found else FAILED_HEALTH[0]
    message = f"{found['file']}:{found['line']}: {found['message']}" if found else FAILED_HEALTH[1]
    return failed(task, message, **{"applying": applying, "swapping": swapping, **changes})


def down(version: str, name: str, **changes: Any) -> dict[str, Any]:
    base = {"version": version, "name": name, "applied_at": None, "source": "file", "note": "", "statements": 2}
    return {**base, "file": f"schema/{version}_{name}.sql", **changes}


def loss(version: str, what: str, rows: int | None, estimated: bool = False) -> dict[str, Any]:
    file = f"schema/{version}_x.sql"
    base = {"version": version, "file": file, "line": 30, "kind": "table", "note": ""}
    return {**base, "what": what, "rows": rows, "estimated": estimated}


def gone(version: str, name: str, source: str = "file") -> dict[str, Any]:
    return {"version": version, "name": name, "source": source, "duration_ms": 31}


DOWNS = [down("07", "email_verifications"), down("06", "security", source="ledger", file="the ledger")]
LOSSES = [
    loss("07", "table public.email_verifications", 12),
    loss("06", "column public.members.phone", 1_204_000, True),
    loss("06", "DO", None),
]
PLANNED = {
    "changed": True,
    "reverts": DOWNS,
    "reverted": [],
    "losses": LOSSES,
    "accepted": True,
    "from_version": "07",
    "to_version": "05",
}
FAILED_DOWN = failure(
    version="06",
    file="the ledger",
    line=2,
    column=1,
    statement="DROP FUNCTION audit();",
    message="cannot drop function audit() because other objects depend on it",
    sqlstate="2BP01",
)


def down_run(**changes: Any) -> dict[str, Any]:
    """What role report hands over after rollback.yml took migrations back."""
    base = {
        "run": command(to="05", accept_data_loss="true"),
        **NOTHING,
        "backup": {"changed": True, "backup": backup(ledger_version="07"), "seconds": 38.214, "removed": []},
        "planning": PLANNED,
        "reverting": {
            **PLANNED,
            "reverted": [gone("07", "email_verifications"), gone("06", "security", "ledger")],
            "failure": None,
            "remarks": ["06: columns of public.members come in another order than before"],
            "other_sessions": [],
        },
    }
    return raw(**{**base, **changes})


def down_failed(found: dict[str, Any], done: list[dict[str, Any]], to: str, **changes: Any) -> dict[str, Any]:
    """The same after a down migration failed."""
    reverting = {**PLANNED, "failed": True, "reverted": done, "failure": found, "to_version": to, "remarks": []}
    told = {"reverting": {**reverting, "changed": bool(done), "other_sessions": []}, **changes}
    message = f"{found['file']}:{found['line']}: {found['message']}"
    return down_run(failed_task="Run the down migrations", failed_message=message, **told)


WOULD_LOSE = "at least 1204012 rows would be dropped or changed"
ONE_GONE = [gone("07", "email_verifications")]
ROLLBACKS: dict[str, dict[str, Any]] = {
    "restored": restore(),
    "restored_copy": restore(
        run=command(backup="habitat_before_20261121t220000z-p02"),
        choosing=of_a_copy(removed=[], current="05"),
        restoring=SKIPPED,
        swapping={**SWAPPED, "from_version": "05"},
        accounting={"changed": False, "written": None},
    ),
    "restored_adopted": restore(
        run=command(backup=FOREIGN, adopt_identity="staging", reason=ADOPTS["reason"]), choosing=chosen(adopts=ADOPTS)
    ),
    "adopted_swap_failed": not_restored(
        "Swap the copy in",
        IN_USE,
        run=command(backup=FOREIGN, adopt_identity="staging", reason=ADOPTS["reason"]),
        choosing=chosen(adopts=ADOPTS),
        swapping=swap_failed(),
    ),
    "restored_unhealthy": not_restored(*FAILED_HEALTH, **UNHEALTHY),
    "restored_unhealthy_production": not_restored(
        *FAILED_HEALTH, **UNHEALTHY, run=command(env="production", confirm="production", backup="latest")
    ),
    "swap_failed": not_restored("Swap the copy in", IN_USE, swapping=swap_failed()),
    "swap_unknown": not_restored("Swap the copy in", LOST, swapping=swap_failed(msg=LOST, unknown=True), **UNHEALTHY),
    "restore_failed": not_restored(
        "Restore the backup beside the database and compare it",
        "the restored backup is not what was backed up: public.members: 3 rows instead of 4",
        restoring={"failed": True, "msg": "it is not", "name": f"habitat_restore_{RUN_ID}"},
        swapping={},
        **UNTOUCHED,
    ),
    "choice_refused": not_restored(
        "Refuse what cannot be done",
        "no backup is verified",
        said=True,
        choosing={
            "changed": False,
            "server": SERVER,
            "current": "07",
            "kept_as": KEPT,
            "source": None,
            "refusals": [NO_BACKUP],
        },
        restoring={},
        swapping={},
        **UNTOUCHED,
    ),
    "put_back": point_run(FAILED_MIGRATION, PUT_BACK),
    "put_back_partial": point_run(failure(state="partial", done=2, total=5), PUT_BACK),
    "put_back_after_health": point_run(
        None, {**PUT_BACK, "from_version": "07"}, accounting={"changed": False, "written": MEANWHILE}
    ),
    "put_back_uncounted": point_run(None, {**PUT_BACK, "from_version": "07"}, accounting=SKIPPED),
    "put_back_but_down": point_run(FAILED_MIGRATION, PUT_BACK, **DOWN),
    "not_put_back": point_run(
        FAILED_MIGRATION,
        swap_failed(failed=False),
        run=command("migrate.yml", **PRODUCTION),
        backup={"changed": True, "backup": backup(id=f"production-{RUN_ID}"), "seconds": 38.2, "removed": []},
    ),
    "put_back_unknown": point_run(FAILED_MIGRATION, swap_failed(failed=False, msg=LOST, unknown=True), **UNHEALTHY),
    "reverted": down_run(),
    "revert_failed": down_failed(FAILED_DOWN, ONE_GONE, "06", run=command(steps="2", accept_data_loss="true")),
    "revert_refused": down_run(
        run=command(to="05"),
        failed_task="Show the plan, or refuse to lose rows",
        failed_message=WOULD_LOSE,
        said=True,
        planning={**PLANNED, "msg": WOULD_LOSE, "accepted": False, "to_version": "07"},
        backup={},
        reverting={},
        **UNTOUCHED,
    ),
}
"""Every end of a rollback that is worth a look; test_verdict says what has to be said about each."""
