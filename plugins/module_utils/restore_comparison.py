# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A database against the manifest of a backup: what is not as it was in the backup's snapshot."""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import Tools, session_environment
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.restore_schema import schema_digest
from ansible_collections.habitat.runbook.plugins.module_utils.running_program import ProgramFailed, Watch
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import (
    OutOfTurn,
    count_materialized_views,
    exported_snapshot,
    read_facts,
    read_sequences,
)
from ansible_collections.habitat.runbook.plugins.module_utils.table_counts import TableCounts

if TYPE_CHECKING:
    import psycopg

_DISK_FULL = "53100"
_LOCK_WAIT_MS = 30_000
_PROGRAM_LONGER_MS = 5_000
_POLL_SECONDS = 0.02
_SHOWN = 5
_BUILT_IN = "plpgsql"

_OF_THE_DATABASE = {
    "owner": "owner",
    "encoding": "encoding",
    "collate": "collation",
    "ctype": "character classification",
    "locale_provider": "locale provider",
}
# PostgreSQL 16 began to store ICU locales in another spelling.
_OF_THE_SAME_MAJOR = {"locale": "locale", "icu_rules": "ICU rules"}


def compare(
    connection: psycopg.Connection, tools: Tools, manifest: dict[str, Any], name: str, jobs: int = 1
) -> tuple[list[str], list[str]]:
    """Differences of database ``name`` from a backup's manifest, and warnings about what was not compared.

    ``connection`` is to that database, in autocommit mode and idle; ``jobs`` sessions count its tables. At most five
    differences are told, then how many more there are. The name of the database, its properties, and the contents of
    materialized views are not compared. Raises BackupError when the role may not read everything
    or a table stays locked.
    """
    with explained(connection, f"database {name} could not be compared with backup {manifest['id']}"):
        facts = _read(connection, tools, manifest, jobs)
    found = list(differences(manifest, facts))
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return found[:_SHOWN] + more, list(_warnings(manifest, facts))


@contextmanager
def explained(connection: psycopg.Connection, what: str) -> Iterator[None]:
    """Turn errors of programs, the system and the server into a BackupError that begins with ``what``."""
    try:
        yield
    except (ProgramFailed, OutOfTurn) as error:
        raise BackupError(f"{what}: {error}") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        text = "a disk is full, the database server's or this host's; make room" if full else str(error)
        raise BackupError(f"{what}: {text}") from error
    except connection.Error as error:
        if error.sqlstate == _DISK_FULL:
            raise BackupError(f"{what}: the database server's disk is full; make room") from error
        text = (error.diag.message_primary or str(error)).strip().splitlines()[0]
        raise BackupError(f"{what}: {text}") from error


def _read(connection: psycopg.Connection, tools: Tools, manifest: dict[str, Any], jobs: int) -> dict[str, Any]:
    with exported_snapshot(connection, _LOCK_WAIT_MS) as snapshot, TableCounts(connection, snapshot, jobs) as counts:
        counts.go()
        facts = read_facts(connection)
        same = (manifest["server_version"], manifest["pg_dump_version"]), (facts["server_version"], tools.version)
        comparable = [major(version) for version in same[0]] == [major(version) for version in same[1]]
        facts["schema_sha256"] = _schema_digest(connection, tools, snapshot.name) if comparable else None
        facts["tables"] = counts.found()
        facts["materialized_views"] = count_materialized_views(connection, snapshot.tables)
        facts["sequences"] = read_sequences(connection)
    return facts


def major(version: str) -> int:
    """17 of ``17.10 (Debian 17.10-1)``."""
    return int(re.split("[^0-9]", version, maxsplit=1)[0])


def _schema_digest(connection: psycopg.Connection, tools: Tools, snapshot: str) -> str:
    session = connection.info.parameter_status("application_name") or ""
    patience = f"--lock-wait-timeout={_LOCK_WAIT_MS + _PROGRAM_LONGER_MS}"
    where = ["-d", tools.conninfo(connection, session), f"--snapshot={snapshot}", patience, "--no-password"]
    with (
        os.fdopen(os.memfd_create("schema"), "w+b") as schema,
        tools.dumping(["--schema-only", *where], session_environment(connection), schema) as program,
    ):
        watch = Watch(connection, (program,), session, _LOCK_WAIT_MS)
        while not watch.all_ended():
            time.sleep(_POLL_SECONDS)
        schema.seek(0)
        return schema_digest(schema)


def differences(manifest: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
    """Differences as clauses. ``facts`` has the keys of a manifest; ``schema_sha256`` None is not compared."""
    same_major = major(manifest["server_version"]) == major(facts["server_version"])
    for key, words in {**_OF_THE_DATABASE, **(_OF_THE_SAME_MAJOR if same_major else {})}.items():
        told, real = manifest["database"][key], facts["database"][key]
        if told != real:
            yield f"the {words} is {told} in the backup and {real} now"
    says, real = (side["database"].get("environment") for side in (manifest, facts))
    if says != real:
        yield f"the backup is of a database that says it is {says}, this one says {real}"
    yield from _table_differences(manifest["tables"], facts["tables"], same_major)
    yield from _sequence_differences(manifest["sequences"], facts["sequences"])
    yield from _view_differences(manifest["materialized_views"], facts["materialized_views"])
    yield from _large_object_differences(manifest["large_objects"], facts["large_objects"], same_major)
    yield from _extension_differences(manifest["extensions"], facts["extensions"])
    if facts["schema_sha256"] not in (None, manifest["schema_sha256"]):
        yield "the schema is another than in the backup (pg_dump --schema-only writes something else)"
    yield from _ledger_differences(manifest["ledger_versions"], facts["ledger_versions"])


def _come_and_gone(kind: str, told: dict[str, Any], real: dict[str, Any]) -> Iterator[str]:
    yield from (f"{kind} {name} of the backup is missing" for name in sorted(told.keys() - real.keys()))
    yield from (f"{kind} {name} is not in the backup" for name in sorted(real.keys() - told.keys()))


def _table_differences(told: dict[str, Any], real: dict[str, Any], digests: bool) -> Iterator[str]:
    yield from _come_and_gone("table", told, real)
    for name in sorted(told.keys() & real.keys()):
        before, now = told[name], real[name]
        if before["rows"] != now["rows"]:
            yield f"table {name} has {before['rows']} rows in the backup and {now['rows']} now"
        elif digests and before["digest"] != now["digest"]:
            yield f"table {name} has {now['rows']} rows as in the backup, but with other contents"


def _large_object_differences(told: dict[str, Any], real: dict[str, Any], digests: bool) -> Iterator[str]:
    if told["count"] != real["count"]:
        yield f"there are {told['count']} large objects in the backup and {real['count']} now"
    elif digests and told["digest"] != real["digest"]:
        yield f"there are {real['count']} large objects as in the backup, but with other numbers or contents"


def _sequence_differences(told: dict[str, Any], real: dict[str, Any]) -> Iterator[str]:
    yield from _come_and_gone("sequence", told, real)
    for name in sorted(told.keys() & real.keys()):
        if told[name] != real[name]:
            yield f"sequence {name} is at {_position(told[name])} in the backup and at {_position(real[name])} now"


def _position(sequence: dict[str, Any]) -> str:
    return f"{sequence['last_value']}{'' if sequence['is_called'] else ' (not yet used)'}"


def _view_differences(told: dict[str, Any], real: dict[str, Any]) -> Iterator[str]:
    yield from _come_and_gone("materialized view", told, real)
    for name in sorted(told.keys() & real.keys()):
        if told[name]["rows"] is not None and real[name]["rows"] is None:
            yield f"materialized view {name} is filled in the backup and not now"


def _extension_differences(told: dict[str, Any], real: dict[str, Any]) -> Iterator[str]:
    # Every new database has it, and only its owner, who is a superuser, could drop it.
    yield from _come_and_gone("extension", told, {key: real[key] for key in real if key != _BUILT_IN or key in told})
    for name in sorted(told.keys() & real.keys()):
        if told[name] != real[name]:
            yield f"extension {name} is {told[name]} in the backup and {real[name]} now"


def _ledger_differences(told: list[str] | None, real: list[str] | None) -> Iterator[str]:
    if (told is None) != (real is None):
        yield "the backup has no ledger, there is one now" if told is None else "the ledger of the backup is missing"
        return
    yield from _come_and_gone("version", dict.fromkeys(told or ()), dict.fromkeys(real or ()))


def _warnings(manifest: dict[str, Any], facts: dict[str, Any]) -> Iterator[str]:
    if major(manifest["server_version"]) != major(facts["server_version"]):
        yield (
            f"the contents of rows were not compared, only their numbers: the backup is of PostgreSQL "
            f"{manifest['server_version']}, this is {facts['server_version']}"
        )
    if facts["schema_sha256"] is None:
        yield (
            f"the schema was not compared: the backup is of PostgreSQL {manifest['server_version']} by pg_dump "
            f"{manifest['pg_dump_version']}, these are others"
        )
