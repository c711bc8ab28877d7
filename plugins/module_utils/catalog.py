# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The schema of a database as data, so that two states of it can be compared object by object.

A catalog is ``{identity: definition}``, such as ``{"column public.members.email": "type text\\nnot null..."}``. Both
are text without numbers of objects or positions of columns, so a schema that was taken away and made again, or
restored into another database, has an equal catalog. The order of a table's columns is an entry of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING

from ansible_collections.habitat.runbook.plugins.module_utils.catalog_queries import FREQUENT, SETTINGS, WITH
from ansible_collections.habitat.runbook.plugins.module_utils.catalog_rare import FACETS, RARE

if TYPE_CHECKING:
    import psycopg

ORDER = "column order "
"""What the identities begin with that tell the order of columns; the fingerprint leaves them out."""

_COLUMN = "column "
# A name that is no plain word is quoted, so a dot outside of quotes stands between names.
_COLUMN_OF = re.compile(r'column (?!order )(.+)\.(?:"(?:[^"]|"")+"|[^".]+)', re.DOTALL)
_WITH_COLUMNS = ("table ", "view ", "materialized view ", "foreign table ", "type ")
_DIFFERS = "is not what it was before"
_CHANGED_TOO = "was changed by the down migration as well"

# "x IN ('a', 'b')" for a varchar is shown as (ARRAY['a'::character varying, ...])::text[] until a restore has read it,
# which makes ARRAY[('a'::character varying)::text, ...] of it; pg_dump has the same trouble.
_CAST_ARRAY = "])::text[]"
_LITERAL = re.compile(r"E?'(?:[^']|'')*'::character varying")
_IN_LIST = re.compile(rf"\(ARRAY\[({_LITERAL.pattern}(?:, {_LITERAL.pattern})*)\]\)::text\[\]")

_SAVEPOINT = "habitat_catalog"
_DIGITS = 16
_IDLE = 0  # libpq's PQTRANS_IDLE

_QUERY = f"""{WITH}
SELECT coalesce(json_object_agg(identity, concat_ws(E'\\n', definition, more))::text, '{{}}')
FROM ({" UNION ALL ".join((*FREQUENT, *RARE))} OFFSET 0) AS object (classid, objid, subid, identity, definition)
LEFT JOIN (
  SELECT classid, objid, subid, string_agg(line, E'\\n' ORDER BY line COLLATE "C") AS more
  FROM ({" UNION ALL ".join(FACETS)}) AS facet (classid, objid, subid, line) GROUP BY classid, objid, subid
) AS facets USING (classid, objid, subid) WHERE identity IS NOT NULL;
"""  # noqa: S608 (constants of the two files)


def read_catalog(connection: psycopg.Connection) -> dict[str, str]:
    """Every object that users made in the current database: ``{identity: definition}``.

    Left out: what belongs to the system, to an extension or to the ledger (and rights that were given on it),
    temporary objects, data, values of sequences, statistics, and settings of the database. Options of foreign servers
    that look like secrets, and all options of user mappings, are told by name only; a role that is no superuser may
    see none of the latter. One round trip, in the transaction that is open or else in one of its own; it takes
    ACCESS SHARE locks only, gives them back, and leaves every setting as it was.
    Raises psycopg.Error, such as LockNotAvailable when a view's table is being changed by somebody else.
    """
    sql = SETTINGS + _QUERY
    # Several statements in one message are one transaction, which ends with it, when none is open. Inside of one,
    # a savepoint does the same: going back to it gives back settings and locks.
    if not connection.autocommit or connection.info.transaction_status != _IDLE:
        sql = f"SAVEPOINT {_SAVEPOINT};{sql}ROLLBACK TO SAVEPOINT {_SAVEPOINT}; RELEASE SAVEPOINT {_SAVEPOINT};"
    with connection.cursor(row_factory=lambda _: tuple) as cursor:
        cursor.execute(sql.encode())
        while cursor.description is None:
            cursor.nextset()
        ((text,),) = cursor.fetchall()
    # psycopg gives bytes where the client's encoding is SQL_ASCII, which says nothing about them.
    catalog = json.loads(text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text)
    return {one: _IN_LIST.sub(_cast_each, told) if _CAST_ARRAY in told else told for one, told in catalog.items()}


def _cast_each(found: re.Match[str]) -> str:
    """An array cast as a whole as PostgreSQL writes it once it has read it again: with every element cast."""
    return "ARRAY[" + _LITERAL.sub(r"(\g<0>)::text", found[1]) + "]"


def fingerprint(catalog: dict[str, str]) -> str:
    """sha256 (hex) of a catalog without the order of columns: equal for schemas that behave the same."""
    digest = hashlib.sha256()
    for identity in sorted(catalog):
        if not identity.startswith(ORDER):
            # Neither text can hold a NUL byte, so the parts cannot be taken for one another.
            digest.update(f"{identity}\0{catalog[identity]}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def digests(catalog: dict[str, str]) -> dict[str, str]:
    """``{identity: first 16 hex digits of the sha256 of its definition}``, the order of columns included."""
    return {
        identity: hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGITS]
        for identity, text in catalog.items()
    }


def changes(before: dict[str, str], after: dict[str, str]) -> dict[str, list[str | None]]:
    """What differs between two results of ``digests``: ``{identity: [digest before, digest after]}``, None for none."""
    both = sorted(before.keys() | after.keys())
    return {one: [before.get(one), after.get(one)] for one in both if before.get(one) != after.get(one)}


def undone(
    changed: dict[str, list[str | None]], before: dict[str, str], after: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Whether a down migration took back exactly what its migration made.

    ``changed`` is the ``changes`` of the migration, ``before`` and ``after`` the digests around the down migration.
    Returns lines for people: the differences that matter, and those in nothing but the order of columns. Both are
    empty when the migration is exactly undone. Columns of a table that is itself still there or missing are not told,
    nor is their order where columns are still there or missing.
    """
    fates = {one: _fate(was, after.get(one)) for one, (was, _) in changed.items() if after.get(one) != was}
    others = {one: pair for one, pair in changes(before, after).items() if one not in changed}
    fates.update({one: _other_fate(was, now) for one, (was, now) in others.items()})
    whole = {one for one, fate in fates.items() if fate not in (_DIFFERS, _CHANGED_TOO)}
    tables = {one[len(kind) :] for one in whole for kind in _WITH_COLUMNS if one.startswith(kind)}
    uneven = tables | {_table_of(one) for one in whole if one.startswith(_COLUMN)}
    told = [one for one in fates if not one.startswith(ORDER) and _table_of(one) not in tables]
    orders = [one[len(ORDER) :] for one in fates if one.startswith(ORDER)]
    return (
        [f"{one} {fates[one]}" for one in sorted(told, key=lambda one: (not one.startswith(_WITH_COLUMNS), one))],
        [f"columns of {name} come in another order than before" for name in sorted(orders) if name not in uneven],
    )


def _fate(was: str | None, now: str | None) -> str:
    """What a down migration left of an object that the migration changed; the two differ."""
    if was is None:
        return "is still there"
    return "is missing" if now is None else _DIFFERS


def _other_fate(was: str | None, now: str | None) -> str:
    """What a down migration did to an object that is none of its business; the two differ."""
    if was is None:
        return "was made by the down migration"
    return "was dropped by the down migration as well" if now is None else _CHANGED_TOO


def _table_of(identity: str) -> str | None:
    """The table of a column's identity; None for other objects."""
    found = _COLUMN_OF.fullmatch(identity)
    return found[1] if found else None
