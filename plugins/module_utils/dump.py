# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Taking a backup: pg_dump in a snapshot of ours, read back whole, and only then given its name."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils.backup_folder import (
    check_folder,
    clean_up,
    partial_dump,
    prepare_folder,
    publish,
    refuse_existing,
)
from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import (
    Tools,
    find_tools,
    session_environment,
)
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import (
    BackupError,
    backup_id,
    build,
    file_digest,
    requalified,
    to_text,
)
from ansible_collections.habitat.runbook.plugins.module_utils.properties import read_properties
from ansible_collections.habitat.runbook.plugins.module_utils.restore_schema import schema_digest
from ansible_collections.habitat.runbook.plugins.module_utils.running_program import ProgramFailed, Watch
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import (
    OutOfTurn,
    Snapshot,
    count_materialized_views,
    count_tables,
    exported_snapshot,
    query,
    read_facts,
    readable_tables,
    who_is_in_the_way,
)
from ansible_collections.habitat.runbook.plugins.module_utils.table import size

if TYPE_CHECKING:
    import psycopg

LOCK_WAIT_MS = 30_000
"""How long a backup waits for a table that somebody else keeps locked."""

_POLL_SECONDS = 0.02
_LOCK_NOT_AVAILABLE = "55P03"
_COMPRESSION = {"zstd": ["--compress=zstd"], "gzip": []}
_PROGRAMS_LONGER_MS = 5_000

_SEQUENCE_SET = re.compile(rb"[0-9]+; [0-9]+ [0-9]+ SEQUENCE SET ")
_SETVAL = re.compile(r"^SELECT pg_catalog\.setval\('((?:[^']|'')*)', (-?[0-9]+), (true|false)\);$", re.MULTILINE)


@dataclass(frozen=True)
class _Part:
    """The file that is being written, and a descriptor that holds its lock."""

    path: Path
    fd: int


@dataclass(frozen=True)
class _Content:
    """What is true in the dump's snapshot, as in the manifest; the encoding of its names; pg_dump's warnings."""

    facts: dict[str, Any]
    codec: str
    warnings: list[str]


@dataclass(frozen=True)
class Taken:
    """A finished backup: its manifest, left-overs of dead runs that were removed, and pg_dump's warnings."""

    manifest: dict[str, Any]
    removed: list[str]
    warnings: list[str]


def take_backup(
    connection: psycopg.Connection,
    folder: Path,
    environment: str,
    run_id: str,
    taken_by: str,
    bin_dir: str | None = None,
    lock_wait_ms: int = LOCK_WAIT_MS,
    container: str | None = None,
) -> Taken:
    """Dump the database of this connection (autocommit, idle) into ``folder``, prove the dump and write its manifest.

    ``bin_dir`` and ``container`` (the id of the database's own) say where the programs are, see ``find_tools``.
    Raises BackupError with one sentence; then nothing of this backup is left in the folder.
    """
    started = time.monotonic()
    identity = backup_id(environment, run_id)
    with _explained(connection, folder, lock_wait_ms):
        tools = find_tools(bin_dir, connection.info.server_version, container)
        prepare_folder(folder)
        refuse_existing(folder, identity)
        removed = clean_up(folder)
        with partial_dump(folder, identity) as fd, _disk_full_explained(connection, folder, fd):
            part = _Part(folder / f"{identity}.dump.part", fd)
            content = _dump(connection, tools, part, session_name(run_id), lock_wait_ms)
            written = file_digest(part.path)
            _to_disk(fd)
            proof = read_back(tools, part.path, written)
            manifest = build(
                environment,
                run_id,
                taken_by=taken_by,
                pg_dump_version=tools.version,
                dump={"file": f"{identity}.dump", "compression": tools.compression, **proof},
                sequences=_sequences(tools, part.path, content.codec),
                **content.facts,
                seconds=round(time.monotonic() - started, 3),
            )
            publish(folder, identity, to_text(manifest))
    return Taken(manifest, removed, content.warnings)


def plan_backup(
    connection: psycopg.Connection,
    folder: Path,
    environment: str,
    run_id: str,
    bin_dir: str | None = None,
    container: str | None = None,
) -> dict[str, Any]:
    """What ``take_backup`` would do: ``id``, ``dump`` (path), ``compression``, ``tables``, ``database_bytes``.

    Refuses what it would refuse, writes nothing and locks no table. Raises BackupError.
    """
    identity = backup_id(environment, run_id)
    with _explained(connection, folder, LOCK_WAIT_MS):
        tools = find_tools(bin_dir, connection.info.server_version, container)
        check_folder(folder)
        refuse_existing(folder, identity)
        return {
            "id": identity,
            "dump": str(folder / f"{identity}.dump"),
            "compression": tools.compression,
            "tables": sum(table.kind == "r" for table in readable_tables(connection)),
            "database_bytes": _database_bytes(connection),
        }


def _dump(connection: psycopg.Connection, tools: Tools, part: _Part, session: str, lock_wait_ms: int) -> _Content:
    """Dump in a snapshot, beginning anew when somebody else's lock has come between ours and pg_dump's."""
    deadline = time.monotonic() + lock_wait_ms / 1000
    while True:
        try:
            with exported_snapshot(connection, lock_wait_ms) as snapshot:
                return _dump_snapshot(connection, snapshot, tools, part, session, lock_wait_ms)
        except OutOfTurn as error:
            if time.monotonic() > deadline:
                raise BackupError(str(error)) from error


def _dump_snapshot(
    connection: psycopg.Connection, snapshot: Snapshot, tools: Tools, part: _Part, session: str, lock_wait_ms: int
) -> _Content:
    """Write the dump and find out what is true in its snapshot, both at the same time."""
    environment = session_environment(connection)
    # Longer than ours, so that it is us who notice and can say for whom pg_dump waits.
    patience = f"--lock-wait-timeout={lock_wait_ms + _PROGRAMS_LONGER_MS}"
    where = ["-d", tools.conninfo(connection, session), f"--snapshot={snapshot.name}", patience, "--no-password"]
    custom = [*_COMPRESSION[tools.compression], *where]
    with (
        os.fdopen(os.memfd_create("schema"), "w+b") as schema,
        tools.dumping_to(part.path, part.fd, custom, environment) as dump,
        tools.dumping(["--schema-only", *where], environment, schema) as plain,
    ):
        watch = Watch(connection, (dump, plain), session, lock_wait_ms)
        # They write when they hold all locks. Until then somebody can get between, and counting would only hide it.
        while not (os.fstat(part.fd).st_size and os.fstat(schema.fileno()).st_size) and not watch.all_ended():
            time.sleep(_POLL_SECONDS)
        facts = read_facts(connection)
        facts["database"]["properties"] = read_properties(connection, facts["database"]["name"])
        facts["materialized_views"] = count_materialized_views(connection, snapshot.tables)
        facts["tables"] = {}
        for key, count in count_tables(connection, snapshot.tables):
            facts["tables"][key] = count
            watch.all_ended()
        while not watch.all_ended():
            time.sleep(_POLL_SECONDS)
        schema.seek(0)
        facts["schema_sha256"] = schema_digest(schema)
        warnings = [line for line in dump.messages() if "warning:" in line]
    return _Content({**facts, "taken_at": snapshot.taken_at}, snapshot.codec, warnings)


def _to_disk(fd: int) -> None:
    os.fsync(fd)
    # Forget the pages, so that what is read back comes from the disk.
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def read_back(tools: Tools, dump: Path, written: str) -> dict[str, Any]:
    """Read a dump whole, by pg_restore and for its ``sha256`` and ``size``. Raises BackupError when it is not whole.

    ``written`` is the sha256 of what pg_dump left. Neither is enough alone: ``pg_restore --list`` accepts a dump cut
    in half, a full read sees every cut but hardly a flipped bit in zstd, which pg_dump writes without checksums
    (measured: 12 of 200 flips seen with zstd, all with gzip), and a checksum does not say that it can be restored.
    """
    try:
        with tools.reading(dump) as reader:
            digest = file_digest(dump)
            reader.wait()
        if digest != written:
            raise ProgramFailed("it is not what pg_dump wrote")
    except ProgramFailed as error:
        raise BackupError(
            f"the dump could not be read back whole ({error}) and was not kept; "
            f"check the disk of {dump.parent} and run this again"
        ) from error
    return {"sha256": digest, "size": dump.stat().st_size}


def _sequences(tools: Tools, dump: Path, codec: str) -> dict[str, dict[str, Any]]:
    """``{key: {"last_value": n, "is_called": bool}}`` as the dump sets them.

    Sequences do not belong to snapshots, so what a query says is not what pg_dump found a moment earlier or later.
    """
    wanted = [line for line in tools.listing(dump).splitlines() if _SEQUENCE_SET.match(line)]
    if not wanted:
        return {}
    text = tools.script(dump, wanted).decode(codec)
    return {
        requalified(name.replace("''", "'")): {"last_value": int(value), "is_called": called == "true"}
        for name, value, called in _SETVAL.findall(text)
    }


def _database_bytes(connection: psycopg.Connection) -> int:
    text = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database()) AS bytes"
    return int(query(connection, text)[0]["bytes"])


@contextmanager
def _explained(connection: psycopg.Connection, folder: Path, lock_wait_ms: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackupError(f"the backup in {folder} failed: {error}; put that right and run this again") from error
    except ProgramFailed as error:
        raise BackupError(f"{error}; put that right and run this again") from error
    except UnicodeDecodeError as error:
        raise BackupError(
            f"a name in database {connection.info.dbname} is no valid text in the database's encoding; rename it"
        ) from error
    except connection.Error as error:
        if error.sqlstate == _LOCK_NOT_AVAILABLE:
            raise BackupError(who_is_in_the_way(connection, None, lock_wait_ms)) from error
        text = (error.diag.message_primary or str(error)).strip().splitlines()[0]
        raise BackupError(f"the database {connection.info.dbname} ended the backup: {text}") from error


@contextmanager
def _disk_full_explained(connection: psycopg.Connection, folder: Path, fd: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        had = size(os.fstat(fd).st_size + shutil.disk_usage(folder).free)
        raise BackupError(
            f"the disk of {folder} is full: it had {had} for the dump of a database of "
            f"{size(_database_bytes(connection))}; make room or name another backup_dir, then run this again"
        ) from error
