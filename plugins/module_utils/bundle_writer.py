# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Write parsed migrations into one file for the database's host; ``bundle`` reads it there without the parser."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO

from ansible_collections.habitat.runbook.plugins.module_utils.bundle import FRAME, MAGIC
from ansible_collections.habitat.runbook.plugins.module_utils.migration_file import Migration
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement


def write_bundle(path: str | Path, migrations: Iterable[Migration]) -> None:
    """Write ``migrations`` to the file ``path``, readable by its owner only (a migration may hold a password)."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as file:  # noqa: PTH123 (a descriptor, not a path)
        file.write(MAGIC)
        for migration in migrations:
            size = sum(_frame_size(statement) for statement in (*migration.up, *migration.verify))
            file.write(json.dumps({**_head(migration), "bytes": size}, ensure_ascii=False).encode() + b"\n")
            for kind, statements in ((b"u", migration.up), (b"v", migration.verify)):
                for statement in statements:
                    _write_frame(file, kind, statement)


def _head(migration: Migration) -> dict:
    head = {field.name: getattr(migration, field.name) for field in fields(migration)}
    counts = {"statements": len(head.pop("up")), "verifications": len(head.pop("verify"))}
    return {**head, "down": asdict(migration.down), **counts}


def _encode(statement: Statement) -> tuple[bytes, bytes | None]:
    return statement.text.encode(), None if statement.copy_data is None else statement.copy_data.encode()


def _frame_size(statement: Statement) -> int:
    text, data = _encode(statement)
    return FRAME.size + len(text) + len(data or b"")


def _write_frame(file: IO[bytes], kind: bytes, statement: Statement) -> None:
    text, data = _encode(statement)
    size = -1 if data is None else len(data)
    file.write(FRAME.pack(kind, statement.line, statement.column, len(text), size))
    file.write(text)
    file.write(data or b"")
