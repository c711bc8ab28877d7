# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What of a kept database can be brought back into the restored one, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_LEDGER = "public.schema_migrations"


@dataclass(frozen=True)
class Column:
    """A column; ``type`` as PostgreSQL writes it, ``generated`` when it is computed from others."""

    name: str
    type: str
    generated: bool = False


@dataclass(frozen=True)
class Unique:
    """A unique index over plain columns. ``operators``: their equality, as SQL. ``key``: no column may be NULL;
    ``immediate``: checked row by row, so that ON CONFLICT sees it."""

    columns: tuple[str, ...]
    operators: tuple[str, ...]
    primary: bool = False
    key: bool = True
    immediate: bool = True


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key as it was declared; ``child`` and ``parent`` are keys of tables, ``child_sql`` and ``parent_sql``
    what its rows are selected from. ``operators``: parent column = child column. ``acts``: ON DELETE does something."""

    name: str
    child: str
    parent: str
    child_columns: tuple[str, ...]
    parent_columns: tuple[str, ...]
    operators: tuple[str, ...]
    child_sql: str
    parent_sql: str
    deferrable: bool = False
    acts: bool = False


@dataclass(frozen=True)
class Shape:
    """A table that holds rows itself. ``lineage``: its own key and those of the tables it is a partition of."""

    key: str
    names: tuple[str, str]
    sql: str
    lineage: tuple[str, ...]
    columns: tuple[Column, ...]
    uniques: tuple[Unique, ...] = ()

    @property
    def root(self) -> str:
        return self.lineage[-1]


@dataclass(frozen=True)
class Common:
    """A table that both databases have: what of it is compared, and by which key (None: it has none in common)."""

    shape: Shape
    columns: tuple[Column, ...]
    key: Unique | None
    missing: tuple[str, ...] = ()
    new: tuple[str, ...] = ()


@dataclass
class Plan:
    """Tables that are compared, by their keys, and those that are only in one of the databases (with their SQL)."""

    common: dict[str, Common] = field(default_factory=dict)
    only_kept: dict[str, str] = field(default_factory=dict)
    only_base: list[str] = field(default_factory=list)


def is_ledger(key: str) -> bool:
    """Whether a table belongs to the runbook: it says what the live database has, whatever the kept one had."""
    return key.startswith(_LEDGER)


def make_plan(kept: Mapping[str, Shape], base: Mapping[str, Shape]) -> Plan:
    """What can be compared of two databases; the statements are for one that has the form of ``base``."""
    plan = Plan()
    for key in sorted({*kept, *base}):
        if is_ledger(key):
            continue
        if key not in base:
            plan.only_kept[key] = kept[key].sql
        elif key not in kept:
            plan.only_base.append(key)
        else:
            plan.common[key] = _common(kept[key], base[key])
    return plan


def _common(kept: Shape, base: Shape) -> Common:
    there = {column.name for column in kept.columns}
    known = {column.name for column in base.columns}
    columns = tuple(column for column in base.columns if column.name in there and not column.generated)
    return Common(
        shape=base,
        columns=columns,
        key=_key(kept, base, {column.name for column in columns}),
        missing=tuple(column.name for column in base.columns if column.name not in there),
        new=tuple(column.name for column in kept.columns if column.name not in known),
    )


def _key(kept: Shape, base: Shape, usable: set[str]) -> Unique | None:
    """The primary key, or the smallest unique index without NULL, that names one row in both databases."""
    also = {frozenset(one.columns) for one in kept.uniques if one.key}
    found = [
        one for one in base.uniques if one.key and usable.issuperset(one.columns) and frozenset(one.columns) in also
    ]
    return min(found, key=lambda one: (not one.primary, not one.immediate, len(one.columns), one.columns), default=None)


@dataclass(frozen=True)
class Order:
    """Tables, parents first, and how their foreign keys are kept while rows come and go.

    ``guarded``: a row is only touched when its parent is there, or nobody refers to it. ``deferred``: those of a cycle,
    checked at the end; ``loosened``: some of these that have to be made deferrable for it.
    """

    tables: tuple[str, ...]
    guarded: tuple[ForeignKey, ...]
    deferred: tuple[ForeignKey, ...]
    loosened: tuple[ForeignKey, ...]


def make_order(shapes: Iterable[Shape], keys: Iterable[ForeignKey], defer_own: bool = False) -> Order:
    """The order for these tables; foreign keys from and to others are guarded, too.

    ``defer_own``: also those from a table to itself are checked at the end, for rows that refer to each other.
    """
    shapes, keys = list(shapes), list(keys)
    roots = {name: shape.root for shape in shapes for name in shape.lineage}
    parents: dict[str, set[str]] = {shape.root: set() for shape in shapes}
    for one in keys:
        if one.child in roots and one.parent in roots:
            parents[roots[one.child]].add(roots[one.parent])
    components = _components(parents)
    place = {root: number for number, component in enumerate(components) for root in component}
    guarded, deferred, loosened = [], [], []
    for one in keys:
        child, parent = roots.get(one.child), roots.get(one.parent)
        in_a_cycle = child is not None and parent is not None and place[child] == place[parent]
        if in_a_cycle and one.deferrable:
            deferred.append(one)
        elif in_a_cycle and (child != parent or defer_own):
            deferred.append(one)
            loosened.append(one)
        elif child is not None or parent is not None:
            guarded.append(one)
    tables = sorted(shapes, key=lambda shape: (place[shape.root], shape.root, shape.key))
    return Order(tuple(shape.key for shape in tables), tuple(guarded), tuple(deferred), tuple(loosened))


def _components(parents: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected components, those that others refer to first (Tarjan's algorithm, without recursion)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []
    for start in sorted(parents):
        work = [(start, iter(sorted(parents[start])))] if start not in index else []
        while work:
            node, rest = work[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack.append(node)
            after = next(rest, None)
            if after is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    at = stack.index(node)
                    found.append(sorted(stack[at:]))
                    del stack[at:]
            elif after not in index:
                work.append((after, iter(sorted(parents[after]))))
            elif after in stack:
                low[node] = min(low[node], index[after])
    return found


def as_report(plan: Plan, rows: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is left out of the file: table, what about it, and how many rows that concerns (None: not counted).

    rows: of the tables without a key that differ and of those only in the kept database, ``kept`` and ``base``.
    """
    found: list[dict[str, Any]] = []
    for key in plan.only_kept:
        found.append({"table": key, "what": "only_kept", "columns": [], "kept": rows.get(key, {}).get("kept")})
    for key in plan.only_base:
        found.append({"table": key, "what": "only_base", "columns": [], "kept": None})
    for key, one in plan.common.items():
        if one.key is None and key in rows:
            found.append({"table": key, "what": "no_key", "columns": [], **rows[key]})
        if one.new:
            found.append({"table": key, "what": "new_columns", "columns": list(one.new), "kept": None})
        if one.missing:
            found.append({"table": key, "what": "missing_columns", "columns": list(one.missing), "kept": None})
    return [{"base": None, **one} for one in found]
