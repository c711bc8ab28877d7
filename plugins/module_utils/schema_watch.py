# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What every migration of a run changes in the schema, recorded so that taking it back can be checked."""

from __future__ import annotations

from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.catalog import changes, digests, fingerprint, read_catalog
from ansible_collections.habitat.runbook.plugins.module_utils.wire import Item, StatementFailed

WATCHED = 20
"""Runs with more pending migrations than this are not watched: reading the catalog takes some 10 ms and more each time,
and a new database gets its hundreds of migrations without."""


class SchemaWatch:
    """The catalog before and after each migration; ``connection`` is that of the migrations.

    ``digests`` (see catalog.digests) are those of the last look, ``before`` those of the one before it.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self.before: dict[str, str] = {}
        self._see(connection)

    def _see(self, connection: psycopg.Connection) -> None:
        catalog = read_catalog(connection)
        self.fingerprint, self.digests = fingerprint(catalog), digests(catalog)

    def look(self, connection: psycopg.Connection) -> dict[str, Any]:
        """Read the catalog again: ``{"before", "after"}`` (fingerprints) and ``"changes"`` (see catalog.changes).

        Called inside the migration's transaction; raises StatementFailed as a statement of it would.
        """
        before, self.before = self.fingerprint, self.digests
        try:
            self._see(connection)
        except psycopg.Error as error:
            raise StatementFailed(Item("reading the schema"), error, lost=connection.broken) from error
        return {"before": before, "after": self.fingerprint, "changes": changes(self.before, self.digests)}
