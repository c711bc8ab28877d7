# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How many rows a backup lacks, as text: in one cell, by table, and what is in doubt. Pure.

``written`` is row_versions.Written as a dict, or None where nobody could count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.table import columns, count, printable

UNKNOWN = "not known"
_TABLES_SHOWN = 20


def written_cell(written: dict[str, Any] | None) -> str:
    """How many rows, in some words; only exact, rows, uncertain and uncounted are looked at."""
    if not written or written["rows"] is None:
        return UNKNOWN
    rows = number_text(written["rows"]) if written["rows"] else "none"
    unread, uncertain = written.get("uncounted"), written.get("uncertain")
    if unread and not written["rows"]:
        return UNKNOWN
    if not written["exact"] or (unread and uncertain):
        return f"about {rows}" if written["rows"] else rows
    return f"at least {rows}" if unread else f"at most {rows}" if uncertain else rows


def doubts(written: dict[str, Any]) -> list[str]:
    """Lines about what the numbers may be wrong in."""
    lines = []
    if written.get("uncertain"):
        text = f"  up to {number_text(written['uncertain'])} of these rows may be in the backup after all, written by"
        lines.append(f"{text} a transaction that ended about when it was taken")
    if written.get("uncounted"):
        lines.append(f"  {count(written['uncounted'], 'table')} could not be counted: locked, or not readable to us")
    return lines


def by_table(written: dict[str, Any], compared: tuple[str, str] = ("ROWS IN BACKUP", "ROWS NOW")) -> list[str]:
    """The per-table numbers, those with the most rows first; compared: headings where only counts are known."""
    exact = written["exact"]
    rows = [["TABLE", *(("NEW OR CHANGED", "CHANGED OR DELETED") if exact else compared)]]
    keys = ("newer", "gone") if exact else ("then", "now")
    found = sorted(written["tables"], key=lambda one: (-_weight(one), one["table"]))
    for one in found[:_TABLES_SHOWN]:
        rows.append([printable(one["table"]), *(_cell(one, key) for key in keys)])
    lines = columns(numbers_right(rows, (1, 2)), indent="    ")
    more = len(found) - _TABLES_SHOWN
    return [*lines, f"    and {count(more, 'more table')}"] if more > 0 else lines


def _weight(one: dict[str, Any]) -> int:
    """What could not be counted comes first, so that it is never among what is not shown."""
    if one["newer"] is None and one["now"] is None:
        return 1 << 63
    if one["newer"] is None:
        return max(1, abs(one["now"] - (one["then"] or 0)))
    return one["newer"] + one["gone"]


def _cell(one: dict[str, Any], key: str) -> str:
    if one[key] is not None:
        return number_text(one[key])
    unread = one["newer"] is None and one["now"] is None
    return "-" if key == "then" or not unread else UNKNOWN


def number_text(number: int) -> str:
    """``1 204 000``."""
    return f"{number:,}".replace(",", " ")


def rows_text(number: int) -> str:
    """``1 row``, ``1 204 rows``."""
    return f"{number_text(number)} {'row' if number == 1 else 'rows'}"


def numbers_right(rows: Sequence[Sequence[str]], where: Sequence[int]) -> list[list[str]]:
    """The rows with these columns flush right, so that digits stand below digits."""
    widths = {index: max(len(row[index]) for row in rows) for index in where}
    return [[cell.rjust(widths.get(index, 0)) for index, cell in enumerate(row)] for row in rows]
