"""Members and contributions to look at, put in by the API's own code as the API's own role."""

from __future__ import annotations

import itertools
import random
from decimal import Decimal
from pathlib import Path

import psycopg

from demo.api import store
from demo.embedded import stack as stacks
from demo.embedded.state import StackError

MEMBERS = 200
CONTRIBUTIONS = 2000

# fmt: off
_FIRST = (
    "Ada", "Bilal", "Chiara", "Dmitri", "Elif", "Femi", "Greta", "Hugo", "Ines",
    "Jonas", "Kaya", "Lucia", "Mateo", "Noor", "Oskar", "Priya", "Quentin", "Rosa",
)
# fmt: on
# fmt: off
_LAST = (
    "Abend", "Bauer", "Costa", "Demir", "Eriksen", "Fofana", "Garcia", "Horvat", "Ito",
    "Jansen", "Kowalski", "Lindqvist",
)
# fmt: on
_NOTES = ("Monthly contribution", "Workshop", "Garden", "Roof repair", "Library", None)


def seed(folder: Path) -> tuple[int, int]:
    """Fill an application without members; returns how many members and contributions were put in."""
    with stacks.app_connection(stacks.require_running(folder)) as connection:
        try:
            return _fill(connection)
        except psycopg.errors.UndefinedTable:
            raise StackError(
                "The database has no members or contributions table yet; apply the migrations up to 03 first."
            ) from None


def _fill(connection: psycopg.Connection) -> tuple[int, int]:
    if store.list_members(connection, 1, store.FIRST):
        return 0, 0
    connection.execute("SELECT FROM contributions LIMIT 0")
    # A seed that a crash takes back is simply done again: no reason to wait for the disk 2 200 times.
    connection.execute("SET synchronous_commit = off")
    chance = random.Random(1)  # noqa: S311 - the same members every time
    names = itertools.islice(itertools.product(_FIRST, _LAST), MEMBERS)
    members = [
        store.add_member(connection, f"{first}.{last}@example.org".lower(), f"{first} {last}")["id"]
        for first, last in names
    ]
    for _ in range(CONTRIBUTIONS):
        amount = Decimal(chance.randint(500, 25000)) / 100
        store.add_contribution(connection, chance.choice(members), amount, chance.choice(_NOTES))
    return MEMBERS, CONTRIBUTIONS
