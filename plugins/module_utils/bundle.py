# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""One file that carries parsed migrations to the database's host, written and read as a stream.

Format: the line ``MAGIC``, then per migration one line of JSON (the head; ``bytes`` in it is the
length of what follows) and one frame per statement. A frame is ``FRAME`` (kind, line, column, bytes of
the text, bytes of the COPY data or -1), the text and the data, both UTF-8.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement

MAGIC = b"habitat.runbook bundle 1\n"
FRAME = struct.Struct(">cIIqq")
_KINDS = {b"u": "up", b"v": "verify"}

Stream = Callable[[], Iterator["tuple[str, Statement]"]]
"""Reads the ("up" or "verify", Statement) pairs of one migration; may be called any number of times, at any time."""


class BundleError(ValueError):
    """The file is not a whole bundle; the text says what to do."""


def read_bundle(path: str | Path) -> Iterator[tuple[dict, Stream]]:
    """Yield per migration its head and a function that streams its statements.

    The head holds every field of Migration but ``up`` and ``verify`` (``down`` as a dict), and how many
    there are: ``statements`` and ``verifications``. Statements that are not asked for cost one seek;
    one statement at a time is in memory. Raises BundleError when the file is damaged or cut short.
    """
    if not Path(path).exists():
        raise BundleError(f"{path} is gone, as it is when the run's lock has ended; start again with the same command")
    with Path(path).open("rb") as file:
        if file.readline() != MAGIC:
            raise BundleError(f"{path} is not a bundle of migrations of this version; make it again")
        while line := file.readline():
            try:
                head = json.loads(line)
            except ValueError:
                raise _damaged(path) from None
            start = file.tell()
            end = start + head.pop("bytes")
            yield head, _stream(path, start, end)
            file.seek(end)
        if file.tell() > Path(path).stat().st_size:
            raise _damaged(path)


def _damaged(path: str | Path) -> BundleError:
    return BundleError(f"{path} is damaged or cut short; make it again")


def _stream(path: str | Path, start: int, end: int) -> Stream:
    def stream() -> Iterator[tuple[str, Statement]]:
        with Path(path).open("rb") as file:
            file.seek(start)
            while file.tell() < end:
                yield _read_frame(file, path)

    return stream


def _read_frame(file: IO[bytes], path: str | Path) -> tuple[str, Statement]:
    frame = _exactly(file, FRAME.size, path)
    kind, line, column, text_size, data_size = FRAME.unpack(frame)
    text = _exactly(file, text_size, path).decode()
    data = None if data_size < 0 else _exactly(file, data_size, path).decode()
    return _KINDS[kind], Statement(text, line, column, data)


def _exactly(file: IO[bytes], size: int, path: str | Path) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise _damaged(path)
    return content
