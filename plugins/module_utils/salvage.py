# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What only a kept database has, as a file of SQL that brings it back into the database restored from a backup.

The kept database is compared with that very backup, restored beside it, so only what was written since the backup
counts, and what the application has written after the rollback plays no part. The file is proved before it gets its
name: imported into the restored copy it makes it equal to the kept one.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import dump_files
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.salvage_catalog import (
    looking,
    read_foreign_keys,
    read_positions,
)
from ansible_collections.habitat.runbook.plugins.module_utils.salvage_file import (
    arrange,
    beginning,
    ending,
    play,
    write_lines,
)
from ansible_collections.habitat.runbook.plugins.module_utils.salvage_plan import (
    Common,
    Order,
    Plan,
    as_report,
    make_order,
    make_plan,
)
from ansible_collections.habitat.runbook.plugins.module_utils.salvage_rows import (
    DELETE,
    INSERT,
    UPDATE,
    count_differences,
    digest,
    lines,
)
from ansible_collections.habitat.runbook.plugins.module_utils.salvage_statements import forward
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import query
from ansible_collections.habitat.runbook.plugins.module_utils.table import count, printable

_COUNT = "SELECT pg_catalog.count(*) AS rows FROM {}"
_SHOWN = 3


@dataclass
class Salvaged:
    """What was found and written. ``tables``: inserts, updates and deletes by table; ``reported``: what is left out,
    see ``salvage_plan.as_report``; ``file`` is None when there is nothing to bring back."""

    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    reported: list[dict[str, Any]] = field(default_factory=list)
    sequences: int = 0
    compared: int = 0
    file: str | None = None
    size: int = 0
    sha256: str = ""
    seconds: float = 0.0

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Comparison:
    """One look at both databases: what is common, digests of the kept one, the orders to try, the sequences to move."""

    plan: Plan
    kept: dict[str, dict[str, Any]]
    orders: list[Order]
    positions: dict[str, dict[str, Any]]
    moves: list[bytes]


def salvage(kept: psycopg.Connection, base: psycopg.Connection, path: Path, about: dict[str, str]) -> Salvaged:
    """Compare ``kept`` with ``base``, write the file and prove it in ``base``, which is then equal to ``kept``.

    Both connections are in autocommit mode and idle; ``base`` is a copy nobody else needs. ``about``: kept, backup,
    database, run and command, for the head of the file. The folder is 0700 and has room. Raises BackupError when the
    file does not make the copy equal; it keeps the name ending in ``.part`` then.
    """
    started, found = time.monotonic(), Salvaged()
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with looking(kept) as ours:
        with looking(base) as theirs:
            compared = _compare(kept, base, make_plan(ours, theirs), found)
        if compared.orders[0].tables or compared.moves:
            _write(kept, base, compared, part, about, found)
            _prove(base, compared, part)
            part.rename(path)
            found.file, found.size, found.sha256 = str(path), path.stat().st_size, dump_files.digest_of(path)
    found.seconds = round(time.monotonic() - started, 3)
    return found


def _compare(kept: psycopg.Connection, base: psycopg.Connection, plan: Plan, found: Salvaged) -> _Comparison:
    ours = {key: digest(kept, one) for key, one in plan.common.items()}
    changed = [one for key, one in plan.common.items() if ours[key] != digest(base, one)]
    rows: dict[str, dict[str, int]] = {
        one.shape.key: count_differences(kept, base, one) for one in changed if one.key is None
    }
    rows.update({key: {"kept": _rows(kept, sql)} for key, sql in plan.only_kept.items()})
    found.reported = as_report(plan, rows)
    found.compared = len(plan.common)
    shapes, keys = [one.shape for one in changed if one.key], read_foreign_keys(base)
    orders = [make_order(shapes, keys, defer_own=own) for own in (False, True)]
    wanted, there = read_positions(kept), read_positions(base)
    ahead = {key: at for key, at in wanted.items() if key in there and _is_ahead(at, there[key])}
    moves = [forward(there[key]["sql"], at["last"], at["upwards"]) for key, at in ahead.items()]
    found.sequences = len(moves)
    return _Comparison(plan, ours, orders, ahead, moves)


def _rows(connection: psycopg.Connection, sql: str) -> int:
    return query(connection, _COUNT.format(sql))[0]["rows"]


def _is_ahead(kept: dict[str, Any], base: dict[str, Any]) -> bool:
    if kept["last"] is None or base["last"] is None:
        return kept["last"] is not None
    return kept["last"] > base["last"] if kept["upwards"] else kept["last"] < base["last"]


def _draft(
    kept: psycopg.Connection, base: psycopg.Connection, plan: Plan, order: Order, draft: IO[bytes], folder: Path
) -> dict[str, dict[str, int]]:
    """Write the statements: what is new and changed by parents first, then what is gone by children first.

    Returns how many of which kind there are, by table.
    """
    numbers: dict[str, dict[str, int]] = {}
    gone: list[IO[bytes]] = []
    last = ("", "")
    for key in order.tables:
        numbers[key] = {INSERT: 0, UPDATE: 0, DELETE: 0}
        gone.append(_spool(folder))
        mark = ("", "")
        for one in lines(kept, base, plan.common[key], order):
            numbers[key][one.kind] += 1
            if one.kind == DELETE:
                mark = write_lines(gone[-1], [one], mark)
            else:
                last = write_lines(draft, [one], last)
    for spool in reversed(gone):
        with spool:
            spool.seek(0)
            shutil.copyfileobj(spool, draft)
    return numbers


def _spool(folder: Path) -> IO[bytes]:
    """A file that nobody else sees and that is gone when it is closed."""
    return tempfile.TemporaryFile(dir=folder)


def _write(
    kept: psycopg.Connection,
    base: psycopg.Connection,
    compared: _Comparison,
    part: Path,
    about: dict[str, str],
    found: Salvaged,
) -> None:
    names = [compared.plan.common[key].shape.names for key in compared.orders[0].tables]
    for order in compared.orders:
        first = beginning(base, order, names)
        with _spool(part.parent) as draft:
            with looking(base):
                found.tables = _draft(kept, base, compared.plan, order, draft, part.parent)
            good, stuck = arrange(base, first, draft, functools.partial(_spool, part.parent))
        if not stuck or order == compared.orders[-1]:
            break
        good.close()
    with good, os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.writelines(line + b"\n" for line in [*_head(about, found), b"\\set ON_ERROR_STOP on", *first])
        shutil.copyfileobj(good, file)
        file.writelines(line + b"\n" for line in ending(order, compared.moves))
        file.flush()
        os.fsync(file.fileno())
    if stuck:
        table, reason = stuck[0]
        because = f" ({printable(reason)})" if reason else ""
        raise BackupError(
            f"{count(len(stuck), 'row')} of the kept database cannot be brought into what the backup has, the first "
            f"in table {table}{because}; what was written is in {part}, and is not proved"
        )


def _head(about: dict[str, str], found: Salvaged) -> list[bytes]:
    """What the file is, as comments; no name can end one."""
    texts = [
        f"Rows of database {about['kept']} that backup {about['backup']} has not, or has otherwise.",
        f"Written by run {about['run']} for database {about['database']}. Import it as the owner of the tables:",
        f"  {about['command']}",
        "It is one transaction. A statement does nothing when it was done before or when the row has been changed",
        "since the rollback; a row whose parent is gone is left alone, and so is one that others refer to. It can be",
        "imported again. Triggers of the tables are off meanwhile where the role owns the table, else they fire; where",
        "they are off nobody else writes until COMMIT. Foreign keys are always checked.",
        "  inserts, updates, deletes:",
        *(f"  {key}: {one[INSERT]}, {one[UPDATE]}, {one[DELETE]}" for key, one in found.tables.items()),
        f"  sequences that go on: {found.sequences}",
    ]
    left = sorted({one["table"] for one in found.reported})
    texts += [f"Not in here, or not all of it: {', '.join(left)}"] if left else []
    return [f"-- {printable(text)}".encode() for text in texts]


def _prove(base: psycopg.Connection, compared: _Comparison, part: Path) -> None:
    """Import the file into the copy and compare it with the kept database. Raises BackupError when they differ."""
    try:
        play(base, part)
    except psycopg.Error as error:
        text = " ".join((error.diag.message_primary or str(error)).split())
        raise BackupError(f"{part} cannot be imported into a restored copy of the backup: {text}") from error
    with looking(base):
        keyed = [one for one in compared.plan.common.values() if one.key]
        differ = [*_unequal(base, keyed, compared.kept), *_behind(read_positions(base), compared.positions)]
    if differ:
        more = f" and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
        raise BackupError(
            f"a restored copy of the backup with {part} imported is not equal to the kept database in "
            f"{', '.join(differ[:_SHOWN])}{more}; the file is not proved"
        )


def _unequal(base: psycopg.Connection, tables: Iterable[Common], kept: dict[str, dict[str, Any]]) -> list[str]:
    return [f"table {one.shape.key}" for one in tables if digest(base, one) != kept[one.shape.key]]


def _behind(now: dict[str, dict[str, Any]], wanted: dict[str, dict[str, Any]]) -> list[str]:
    return [f"sequence {key}" for key, at in wanted.items() if _is_ahead(at, now[key])]
