# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Proving a dump before it is called a backup: by restoring it beside the database, or by reading it back."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils import dump_files
from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import Tools, reopened
from ansible_collections.habitat.runbook.plugins.module_utils.copies import VERIFY, copy_name, drop_copies
from ansible_collections.habitat.runbook.plugins.module_utils.lock_session import LOCK_DATABASE
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import RESTORE, BackupError, quoted
from ansible_collections.habitat.runbook.plugins.module_utils.restore import may_create, restore_backup
from ansible_collections.habitat.runbook.plugins.module_utils.running_program import ProgramFailed

if TYPE_CHECKING:
    import psycopg


def refuse_unprovable(connection: psycopg.Connection) -> None:
    """Raise BackupError when the role could not restore a dump beside the database."""
    if not may_create(connection):
        role = quoted(connection.info.user)
        raise BackupError(
            f"role {connection.info.user} may not create the database that a backup is restored into to prove it; "
            f"run ALTER ROLE {role} CREATEDB, or set habitat_backup_proof to read"
        )


def prove(
    connection: psycopg.Connection, tools: Tools, dump: Path, draft: dict[str, Any], kind: str, jobs: int
) -> tuple[dict[str, Any], list[str]]:
    """The manifest's ``proof`` of a dump that lies on the disk, and what could not be compared.

    ``draft`` is the manifest so far. Raises BackupError when the dump is not what was in the database.
    """
    started = time.monotonic()
    seconds: float | None = None
    doubts: list[str] = []
    if kind == RESTORE:
        seconds, doubts = _restore(connection, tools, dump, draft, jobs)
    else:
        read_back(tools, dump, draft["dump"]["sha256"])
    told = {"kind": kind, "seconds": round(time.monotonic() - started, 3), "restore_seconds": seconds}
    return told, doubts


def _restore(
    connection: psycopg.Connection, tools: Tools, dump: Path, draft: dict[str, Any], jobs: int
) -> tuple[float, list[str]]:
    database = draft["database"]["name"]
    name = copy_name(database, VERIFY, draft["run_id"])
    with reopened(connection, LOCK_DATABASE) as admin:
        admin.execute("SET statement_timeout = 0; SET lock_timeout = 0")
        drop_copies(admin, database, [VERIFY])
        try:
            done = restore_backup(admin, functools.partial(reopened, connection), tools, dump, draft, name, jobs)
        except BackupError as error:
            text = f"the dump was not kept, since it could not be restored for its proof: {error}"
            raise BackupError(text) from error
        drop_copies(admin, database, [VERIFY])
    if done.differences:
        raise BackupError(
            f"the dump was not kept, since restored it is not what is in {database}: {'; '.join(done.differences)}"
        )
    return done.seconds, done.warnings


def read_back(tools: Tools, dump: Path, written: str) -> None:
    """Read a dump whole, by pg_restore and for its sha256. Raises BackupError when it is not whole.

    ``written`` is the sha256 of what pg_dump left. Neither is enough alone: ``pg_restore --list`` accepts a dump cut
    in half, a full read sees every cut but hardly a flipped bit in zstd, which pg_dump writes without checksums
    (measured: 12 of 200 flips seen with zstd, all with gzip), and a checksum does not say that it can be restored.
    """
    try:
        with tools.reading(dump) as reader:
            digest = dump_files.digest_of(dump)
            reader.wait()
        if digest != written:
            raise ProgramFailed("it is not what pg_dump wrote")
    except ProgramFailed as error:
        raise BackupError(
            f"the dump could not be read back whole ({error}) and was not kept; "
            f"check the disk of {dump.parent} and run this again"
        ) from error
