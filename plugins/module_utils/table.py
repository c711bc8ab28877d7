# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Plain text for terminals and job logs: aligned columns, sizes and times as people read them. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

_QUERY_SHOWN = 60
_TIMESTAMP = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[T ](?P<time>\d\d:\d\d:\d\d)(\.\d+)?"
    r"(Z|(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>\d\d)?)?"
)


def columns(rows: Sequence[Sequence[str]], indent: str = "  ") -> list[str]:
    """Lines with every column as wide as its longest cell; the last column is not padded."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))] if rows else []
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines


def size(number: float) -> str:
    """Bytes for people, such as ``1.6 GB`` and ``412 MB`` (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5 or unit == "TB":
            break
        number /= 1000
    text = f"{number:.1f}" if number < 9.95 else f"{number:.0f}"
    return f"{text[:-2] if text.endswith('.0') else text} {unit}"


def duration(seconds: float) -> str:
    """Seconds for people: ``20 ms``, ``3.1 s``, ``51 s``, ``2 min 5 s``, ``3 h 10 min``."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(timestamp: str | None) -> str:
    """An ISO 8601 timestamp in UTC, without fraction and zone, or ``-``."""
    if not timestamp:
        return "-"
    # Python 3.9 and 3.10 read neither a Z nor a zone of hours alone nor other than 3 or 6 digits of a second.
    found = _TIMESTAMP.fullmatch(timestamp)
    if not found:
        return timestamp
    when = datetime.fromisoformat(f"{found['day']}T{found['time']}")
    if found["hours"]:
        offset = timedelta(hours=int(found["hours"]), minutes=int(found["minutes"] or 0))
        when += -offset if found["sign"] == "+" else offset
    return when.isoformat(sep=" ")


def printable(text: str) -> str:
    """Text from outside in which nothing can move the cursor or forge a line: control characters are written out."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def cell(text: Any) -> str:
    """Text from outside inside Markdown: no table, code or markup of its own."""
    plain = " ".join(str(text).split())
    for mark in "\\|`<>*_[]":
        plain = plain.replace(mark, "\\" + mark)
    return plain


def count(number: int, noun: str) -> str:
    """``1 session``, ``2 sessions``, ``2 addresses``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def session(one: dict[str, Any]) -> str:
    """A database session: pid, role, application, state and the head of its query."""
    query = " ".join((one["query"] or "").split())[:_QUERY_SHOWN]
    text = f"pid {one['pid']} {one['role']} ({one['app'] or 'no name'}, {one['state'] or 'hidden'})"
    return f'{text} "{query}"' if query else text
