# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which rows of a table are newer than a snapshot, told from the numbers of the transactions that wrote them. Pure.

A snapshot (PostgreSQL documentation, Snapshot Components) is ``xmin``, below which every transaction had finished,
``xmax``, from which on none had, and ``xip``, those in progress between the two. ``xip`` lists top-level transactions
only, but rows written after a savepoint or in an EXCEPTION block carry the number of their subtransaction. So a number
between ``xmin`` and ``xmax`` that is not listed either had finished or is part of one in progress, and nothing that
PostgreSQL keeps tells which. Such rows are counted as newer, and how many they are is told as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Group = tuple[int, "int | None", int]
"""Rows of a table: bucket of their writer's number, that number if it is among the watched ones, how many they are."""

_MAJOR = re.compile(r"\d+")


@dataclass(frozen=True)
class Written:
    """Rows in the database that a backup does not hold.

    ``tables``: {"table", "then", "now", "newer", "gone"} of each that differs: its key as manifest.qualified makes it,
    its rows in the backup (None: not in it), its rows now (None: it is gone or could not be read), the rows that were
    inserted or changed since, and the rows of the backup that were changed or deleted since.
    ``exact``: newer and gone are known. Otherwise tables were compared by count and digest, and both are None where a
    table is in the backup and in the database.
    ``rows``: sum of newer; where that is not known the difference of the counts, at least 1 of a table that differs.
    ``uncertain``: how many of the rows may be in the backup after all; ``uncounted``: tables that could not be read,
    with now, newer and gone None and counted in no sum.
    """

    exact: bool
    tables: list[dict[str, Any]]
    rows: int
    uncertain: int = 0
    uncounted: int = 0


@dataclass(frozen=True)
class Snapshot:
    """A manifest's ``snapshot`` as numbers (xid8)."""

    xmin: int
    xmax: int
    xip: frozenset[int]

    @classmethod
    def of(cls, manifest: dict[str, Any]) -> Snapshot:
        told = manifest["snapshot"]
        return cls(int(told["xmin"]), int(told["xmax"]), frozenset(map(int, told["xip"])))


class Buckets:
    """The numbers at which some snapshot ends, so that one pass over a table is enough for all snapshots.

    ``edges`` is what PostgreSQL's width_bucket takes, ``watched`` the transactions that have to be told apart.
    """

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        known = list(snapshots)
        self.edges = sorted({edge for one in known for edge in (one.xmin, one.xmax)})
        self.watched = sorted({xid for one in known for xid in one.xip})
        self._floors = [0, *self.edges]

    def newer(self, groups: Iterable[Group], snapshot: Snapshot) -> tuple[int, int]:
        """Rows that are newer than the snapshot for certain, and rows that may be."""
        certain = possible = 0
        for bucket, watched, rows in groups:
            floor = self._floors[bucket]
            if floor >= snapshot.xmax or watched in snapshot.xip:
                certain += rows
            elif floor >= snapshot.xmin:
                possible += rows
        return certain, possible


def by_versions(
    tables: dict[str, dict[str, Any]], found: dict[str, Sequence[Group] | None], buckets: Buckets, snapshot: Snapshot
) -> Written:
    """Compare a manifest's tables with the groups of every table there is now; None: it could not be read."""
    lines, uncertain = [], 0
    for key in sorted({*tables, *found}):
        then = tables[key]["rows"] if key in tables else None
        groups = found.get(key)
        if groups is None or then is None:
            lines += _plain_line(key, then, _rows(groups), key in found)
            continue
        now, (certain, possible) = _rows(groups) or 0, buckets.newer(groups, snapshot)
        newer = certain + possible
        # No more rows of the backup can be left than there were in it.
        uncertain += newer - max(certain, now - then)
        if newer or now != then:
            lines.append(_line(key, then, now, newer, then - (now - newer)))
    return Written(True, lines, sum(line["newer"] or 0 for line in lines), uncertain, _uncounted(lines, found))


def only_newer(found: dict[str, Sequence[Group] | None], buckets: Buckets, snapshot: Snapshot) -> Written:
    """The rows that are newer than a snapshot of which nothing else is known; what was deleted since is not seen."""
    lines, uncertain = [], 0
    for key, groups in sorted(found.items()):
        now, (certain, possible) = _rows(groups), buckets.newer(groups or (), snapshot)
        if now is None or certain + possible:
            newer = None if now is None else certain + possible
            lines.append(
                _line(key, None if now is None else now - (newer or 0), now, newer, None if now is None else 0)
            )
            uncertain += possible
    return Written(True, lines, sum(line["newer"] or 0 for line in lines), uncertain, _uncounted(lines, found))


def by_digests(tables: dict[str, dict[str, Any]], found: dict[str, dict[str, Any] | None], comparable: bool) -> Written:
    """Compare a manifest's tables with rows and digest of every table there is now; None: it could not be read.

    comparable: whether both digests were made by servers of one major version.
    """
    lines, rows = [], 0
    for key in sorted({*tables, *found}):
        was, is_now = tables.get(key), found.get(key)
        then, now = was["rows"] if was else None, is_now["rows"] if is_now else None
        if was and is_now:
            equal = then == now and (was["digest"] == is_now["digest"] or not comparable)
            more = [] if equal else [_line(key, then, now, None, None)]
        else:
            more = _plain_line(key, then, now, key in found)
        lines += more
        if more and (key not in found or is_now):
            rows += max(1, abs((now or 0) - (then or 0)))
    return Written(False, lines, rows, 0, _uncounted(lines, found))


def _plain_line(key: str, then: int | None, now: int | None, there: bool) -> list[dict[str, Any]]:
    """The line of a table that is not on both sides, or was not read; none when no row is concerned."""
    if there and now is None:
        return [_line(key, then, None, None, None)]
    return [_line(key, then, now, now or 0, then or 0)] if now or then else []


def _line(table: str, then: int | None, now: int | None, newer: int | None, gone: int | None) -> dict[str, Any]:
    return {"table": table, "then": then, "now": now, "newer": newer, "gone": gone}


def _rows(groups: Sequence[Group] | None) -> int | None:
    return None if groups is None else sum(rows for _, _, rows in groups)


def _uncounted(lines: list[dict[str, Any]], found: dict[str, Any]) -> int:
    return sum(line["now"] is None and line["table"] in found for line in lines)


def same_major(one: str, other: str) -> bool:
    """Whether two ``server_version`` texts, such as ``17.10 (Debian ...)`` and ``18beta1``, name one major version."""
    majors = [_MAJOR.match(text) for text in (one, other)]
    return all(majors) and majors[0][0] == majors[1][0]  # type: ignore[index]
