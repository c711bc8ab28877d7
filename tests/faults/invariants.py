"""What must hold after any fault (docs/architecture.md), before the next command and after it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.copies import BEFORE, list_copies

from tests.faults.stand import Stand, wait_for
from tests.integration.habitat import schema_of
from tests.playbooks.conftest import LOCKS

_INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
_FORBIDDEN = "SELECT datname FROM pg_database WHERE NOT datallowconn AND datname <> 'template0'"
_SESSIONS = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'runbook%'"
_MAY_CONNECT = "SELECT has_database_privilege('habitat_app', 'habitat', 'CONNECT'), rolcanlogin FROM pg_roles WHERE rolname = 'habitat_app'"


def broken(stand: Stand, up: bool = True) -> list[str]:
    """Every invariant that does not hold, as "I4 ...". ``up``: whether the API has to be up (else I9 has to say why)."""
    found: list[str] = []
    if up:
        found += _api(stand)
    found += _schema(stand) + _sessions(stand) + _access(stand, up) + _backups(stand.backups)
    return found + _writes(stand) + _secrets(stand)


def _api(stand: Stand) -> list[str]:
    try:
        wait_for(stand.clients.good, "the API", 60)
    except AssertionError:
        return ["I1 the API is down"]
    return []


def _schema(stand: Stand) -> list[str]:
    versions = stand.versions()
    top = versions[-1] if versions else "none"
    wanted = [f"{number:02d}" for number in range(1, len(versions) + 1)]
    if versions != wanted or top not in stand.references:
        return [f"I2 the ledger has {versions}"]
    with stand.connect() as session:
        found = schema_of(session)
    if found != stand.references[top]:
        other = sorted(set(found) ^ set(stand.references[top]))
        return [f"I2 the schema is not that of {top}: {other[:3]}"]
    return []


def _sessions(stand: Stand) -> list[str]:
    # The server notices the end of a process that was killed at once, or within its check interval of 2 s if it is quick.
    deadline = time.monotonic() + 30
    while (found := _sessions_now(stand)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _sessions_now(stand: Stand) -> list[str]:
    found = [f"I3 session {name}" for (name,) in stand.query(_SESSIONS)]
    [(locks,)] = stand.query(LOCKS)
    return found + ([f"I5 {locks} advisory locks are held"] if locks else [])


def _access(stand: Stand, up: bool) -> list[str]:
    found = [f"I4 index {name} is INVALID" for (name,) in stand.query(_INVALID)]
    found += [f"I4 database {name} forbids connections" for (name,) in stand.query(_FORBIDDEN)]
    if up and stand.query(_MAY_CONNECT) != [(True, True)]:
        found.append("I4 the application may not connect")
    return found


def _backups(folder: Path) -> list[str]:
    found = []
    for dump in sorted(folder.glob("*.dump")):
        # The dump gets its name first; the manifest was complete before that and lacks only its rename.
        manifest = next((one for one in _manifests(dump) if one.exists()), None)
        if manifest is None:
            found.append(f"I6 {dump.name} has no manifest")
        elif hashlib.sha256(dump.read_bytes()).hexdigest() != json.loads(manifest.read_text())["dump"]["sha256"]:
            found.append(f"I6 {dump.name} is not what its manifest says")
    for path in folder.glob("*"):
        if path.stat().st_mode & 0o777 != 0o600:
            found.append(f"I6 {path.name} has mode {path.stat().st_mode & 0o777:04o}")
    return found


def _manifests(dump: Path) -> tuple[Path, Path]:
    return dump.with_suffix(".json"), dump.with_name(dump.stem + ".json.part")


def _writes(stand: Stand) -> list[str]:
    acknowledged = list(stand.clients.acknowledged)
    with stand.connect("postgres") as connection:
        kept = [copy.name for copy in list_copies(connection, "habitat") if copy.kind == BEFORE]
    missing = set(acknowledged)
    for name in ("habitat", *kept):
        with stand.connect(name) as session:
            missing -= _written(session, acknowledged)
    return [f"I7 {len(missing)} of {len(acknowledged)} acknowledged writes are lost"] if missing else []


def _written(session: psycopg.Connection, emails: list[str]) -> set[str]:
    rows = session.execute("SELECT email FROM members WHERE email = ANY(%s)", [emails]).fetchall()
    return {email for (email,) in rows}


def _secrets(stand: Stand) -> list[str]:
    found = [f"I10 in an argument list: {words[:60]}" for words in stand.clients.secrets_seen]
    for path in _texts(stand):
        content = path.read_bytes()
        if any(secret in content for secret in stand.clients.secrets):
            found.append(f"I10 in {path}")
    return found


def _texts(stand: Stand) -> Iterator[Path]:
    """Everything that is shown or written for people."""
    for folder in (stand.screens, stand.runs, stand.reports):
        yield from (path for path in folder.rglob("*") if path.is_file())
    yield from (path for kind in ("*.json*", "*.sql*") for path in stand.backups.glob(kind))
