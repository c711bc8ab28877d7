# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Taking a backup: pg_dump in a snapshot of ours, proved, and only then given its name."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils import dump_files
from ansible_collections.habitat.runbook.plugins.module_utils.backup_folder import (
    check_folder,
    clean_up,
    partial_dump,
    prepare_folder,
    publish,
    refuse_existing,
    write_globals,
)
from ansible_collections.habitat.runbook.plugins.module_utils.backup_proof import prove, refuse_unprovable
from ansible_collections.habitat.runbook.plugins.module_utils.checks import Check, check_room, check_space
from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import (
    Tools,
    find_tools,
    session_environment,
)
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name
from ansible_collections.habitat.runbook.plugins.module_utils.dump_files import CUSTOM, DIRECTORY
from ansible_collections.habitat.runbook.plugins.module_utils.globals_dump import globals_sql
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import (
    RESTORE,
    BackupError,
    backup_id,
    build,
    check_tag,
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
    exported_snapshot,
    query,
    read_facts,
    readable_tables,
    who_is_in_the_way,
)
from ansible_collections.habitat.runbook.plugins.module_utils.table import size
from ansible_collections.habitat.runbook.plugins.module_utils.table_counts import TableCounts

if TYPE_CHECKING:
    import psycopg

LOCK_WAIT_MS = 30_000
"""How long a backup waits for a table that somebody else keeps locked."""

_DUMPING = 2
"""Processors that pg_dump and its session in the server keep busy. Where there are no more, counting at the same time
makes the dump slower and nothing faster (seen: 7.1 s for both at once, 6.9 s one after the other)."""

_POLL_SECONDS = 0.02
_LOCK_NOT_AVAILABLE = "55P03"
_COMPRESSION = {"zstd": ["--compress=zstd"], "gzip": [], "none": ["--compress=0"]}
_PROGRAMS_LONGER_MS = 5_000
_TURNED_AWAY = "could not obtain lock on relation"

_SEQUENCE_SET = re.compile(rb"[0-9]+; [0-9]+ [0-9]+ SEQUENCE SET ")
_SETVAL = re.compile(r"^SELECT pg_catalog\.setval\('((?:[^']|'')*)', (-?[0-9]+), (true|false)\);$", re.MULTILINE)


@dataclass(frozen=True)
class How:
    """How a backup is taken.

    ``by_run``: the run that takes it when that is not the one whose id the backup gets. ``form``: CUSTOM or DIRECTORY.
    ``compression``: zstd, gzip or none; None for the best that the programs can do. ``jobs``: sessions that dump in the
    directory form and restore for the proof, at most; they count rows after pg_dump, or one fewer beside it.
    ``proof``: READ or RESTORE. ``tag``: a word that keeps it for good. ``room``: bytes free for the server's data, None
    when that is not known. ``bin_dir`` and ``container`` (the id of the database's own) say where the programs are, see
    ``find_tools``. ``lock_wait_ms``: how long a table that somebody else keeps locked is waited for.
    """

    form: str = CUSTOM
    compression: str | None = None
    jobs: int = 1
    proof: str = RESTORE
    tag: str | None = None
    room: int | None = None
    bin_dir: str | None = None
    container: str | None = None
    lock_wait_ms: int = LOCK_WAIT_MS
    by_run: str | None = None


@dataclass(frozen=True)
class _Part:
    """The file or folder that is being written, and a descriptor that holds its lock."""

    path: Path
    fd: int

    def begun(self) -> bool:
        """Whether pg_dump has written something, which it does when it holds all locks."""
        return dump_files.size_of(self.path) > 0


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
    connection: psycopg.Connection, folder: Path, environment: str, run_id: str, taken_by: str, how: How = How()
) -> Taken:
    """Dump the database of this connection (autocommit, idle) into ``folder``, prove the dump and write its manifest.

    Raises BackupError with one sentence; then nothing of this backup is left in the folder.
    """
    started = time.monotonic()
    identity = backup_id(environment, run_id)
    with _explained(connection, folder, how.lock_wait_ms):
        tools = _prepared(connection, folder, identity, how)
        prepare_folder(folder)
        removed = clean_up(folder)
        with partial_dump(folder, identity, how.form) as fd:
            part = _Part(folder / f"{identity}.dump.part", fd)
            with _disk_full_explained(connection, part.path):
                content = _dump(connection, tools, part, session_name(how.by_run or run_id), how)
                draft = {"id": identity, "run_id": run_id, "pg_dump_version": tools.version, **content.facts}
                told = {"compression": how.compression or tools.compression, "form": how.form}
                draft["dump"] = {**_described(part), "file": f"{identity}.dump", **told}
                draft["sequences"] = _sequences(tools, part.path, content.codec)
                draft["globals"] = _globals(connection, folder, identity)
                proof, doubts = prove(connection, tools, part.path, draft, how.proof, how.jobs)
                draft.update(taken_by=taken_by, proof=proof, tag=how.tag)
                manifest = build(environment, seconds=round(time.monotonic() - started, 3), **draft)
                publish(folder, identity, to_text(manifest))
    return Taken(manifest, removed, content.warnings + doubts)


def plan_backup(
    connection: psycopg.Connection, folder: Path, environment: str, run_id: str, how: How = How()
) -> dict[str, Any]:
    """What ``take_backup`` would do: ``id``, ``dump`` (path), ``compression``, ``tables``, ``database_bytes``.

    Refuses what it would refuse, writes nothing and locks no table. Raises BackupError.
    """
    identity = backup_id(environment, run_id)
    with _explained(connection, folder, LOCK_WAIT_MS):
        tools = _prepared(connection, folder, identity, how)
        return {
            "id": identity,
            "dump": str(folder / f"{identity}.dump"),
            "compression": how.compression or tools.compression,
            "tables": sum(table.kind == "r" for table in readable_tables(connection)),
            "database_bytes": _database_bytes(connection),
        }


def _prepared(connection: psycopg.Connection, folder: Path, identity: str, how: How) -> Tools:
    """The programs, after everything is refused that can be refused before the first side effect."""
    check_tag(how.tag)
    tools = find_tools(how.bin_dir, connection.info.server_version, how.container)
    tools.refuse_form(how.form)
    if how.compression == "zstd" and tools.compression != "zstd":
        raise BackupError(f"{tools.pg_dump}{tools.place} cannot compress with zstd; take gzip or leave it open")
    check_folder(folder)
    refuse_existing(folder, identity)
    if how.proof == RESTORE:
        refuse_unprovable(connection)
    needed = _database_bytes(connection)
    _refuse(check_space(str(folder.absolute()), needed, "space for the backup"))
    if how.proof == RESTORE and how.room is not None:
        _refuse(check_room(how.room, needed, "space to restore it for the proof", "the server's data folder"))
    return tools


def _refuse(check: Check) -> None:
    if check.state == "fail":
        raise BackupError(f"{check.text}; {check.next}")


def _dump(connection: psycopg.Connection, tools: Tools, part: _Part, session: str, how: How) -> _Content:
    """Dump in a snapshot, beginning anew when somebody else's lock has come between ours and pg_dump's."""
    deadline = time.monotonic() + how.lock_wait_ms / 1000
    told: list[str] = []
    while True:
        try:
            with exported_snapshot(connection, how.lock_wait_ms) as snapshot:
                content = _dump_snapshot(connection, snapshot, tools, part, session, how)
                return replace(content, warnings=told + content.warnings)
        except OutOfTurn as error:
            if time.monotonic() > deadline:
                raise BackupError(str(error)) from error
        except ProgramFailed as error:
            # A worker takes its locks late and never waits for one; a lone session has all of them from its beginning.
            if _TURNED_AWAY not in str(error) or how.jobs == 1:
                raise
            how = replace(how, jobs=1)
            told.append(f"one session has dumped what several could not: {error}")
        _begin_anew(part)


def _begin_anew(part: _Part) -> None:
    if dump_files.form_of(part.path) == DIRECTORY:
        for path in dump_files.files_of(part.path):
            path.unlink()
    else:
        # A pg_dump inside a container writes on from where the one before it has left the file.
        os.ftruncate(part.fd, 0)
        os.lseek(part.fd, 0, os.SEEK_SET)


def _dump_snapshot(
    connection: psycopg.Connection, snapshot: Snapshot, tools: Tools, part: _Part, session: str, how: How
) -> _Content:
    """Write the dump and find out what is true in its snapshot, both at the same time."""
    environment = session_environment(connection)
    # Longer than ours, so that it is us who notice and can say for whom pg_dump waits.
    patience = f"--lock-wait-timeout={how.lock_wait_ms + _PROGRAMS_LONGER_MS}"
    where = ["-d", tools.conninfo(connection, session), f"--snapshot={snapshot.name}", patience, "--no-password"]
    compressed = [*_COMPRESSION[how.compression or tools.compression], *where]
    jobs = how.jobs if how.form == DIRECTORY else None
    beside = how.jobs > _DUMPING
    with (
        os.fdopen(os.memfd_create("schema"), "w+b") as schema,
        tools.dumping_to(part.path, part.fd, compressed, environment, jobs) as dump,
        tools.dumping(["--schema-only", *where], environment, schema) as plain,
        TableCounts(connection, snapshot, how.jobs - 1 if beside else how.jobs) as counts,
    ):
        if beside:
            counts.go()
        watch = Watch(connection, (dump, plain), session, how.lock_wait_ms)
        # They write when they hold all locks. Until then somebody can get between, and what is read would only hide it.
        while not (part.begun() and os.fstat(schema.fileno()).st_size) and not watch.all_ended():
            time.sleep(_POLL_SECONDS)
        facts = read_facts(connection)
        facts["database"]["properties"] = read_properties(connection, facts["database"]["name"])
        facts["materialized_views"] = count_materialized_views(connection, snapshot.tables)
        while not watch.all_ended():
            time.sleep(_POLL_SECONDS)
        counts.go()
        while not counts.done():
            watch.look()
            time.sleep(_POLL_SECONDS)
        facts["tables"] = counts.found()
        schema.seek(0)
        facts["schema_sha256"] = schema_digest(schema)
        warnings = [line for line in dump.messages() if "warning:" in line]
    return _Content({**facts, "taken_at": snapshot.taken_at}, snapshot.codec, warnings)


def _described(part: _Part) -> dict[str, Any]:
    """sha256 and size of what pg_dump has left; it is on the disk then and no longer in memory."""
    digest = dump_files.digest_of(part.path)
    dump_files.to_disk(part.path)
    return {"sha256": digest, "size": dump_files.size_of(part.path)}


def _globals(connection: psycopg.Connection, folder: Path, identity: str) -> dict[str, Any]:
    path = write_globals(folder, identity, globals_sql(connection))
    told = {"sha256": dump_files.digest_of(path), "size": dump_files.size_of(path)}
    return {"file": f"{identity}.globals.sql", **told}


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
def _disk_full_explained(connection: psycopg.Connection, part: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        had = size(dump_files.size_of(part) + shutil.disk_usage(part.parent).free)
        raise BackupError(
            f"the disk of {part.parent} is full: it had {had} for the dump of a database of "
            f"{size(_database_bytes(connection))}; make room or name another backup_dir, then run this again"
        ) from error
