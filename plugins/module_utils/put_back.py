# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Swap a copy of the database in: a restored backup, a restore point, or the database from before an earlier swap."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import history, ledger
from ansible_collections.habitat.runbook.plugins.module_utils.copies import SwapUnknown, swap
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, latest_version
from ansible_collections.habitat.runbook.plugins.module_utils.restore_point import ConnectTo


def put_back(connect_to: ConnectTo, database: str, incoming: str, who: Run, source: str) -> dict[str, Any]:
    """Swap ``incoming`` in and return ``{"kept_as", "seconds", "sessions_ended", "from_version", "to_version"}``.

    The history goes on in the database that comes in: it is given the entries it has not, and one about this, saying
    that it came from ``source``. Raises BackupError as copies.swap does.
    """
    with connect_to(database) as live, connect_to(incoming) as copy:
        # A kept copy may be guarded against writing.
        copy.execute("SET default_transaction_read_only = off")
        before, after = version_of(live), version_of(copy)
        history.ensure(copy)
        # Damage to the live history is no reason not to leave the live database.
        with contextlib.suppress(psycopg.Error):
            history.carry_over(live, copy)
        detail = {"source": source, "from_version": before}
        copy.execute(history.INSERT, history.values(history.RESTORE, who, after, milliseconds=0, detail=detail))
    try:
        swapped = swap(lambda: connect_to("postgres"), database, incoming, who.run_id)
    except SwapUnknown:
        raise
    except BackupError as error:
        # The copy may still be swapped in some day, and its history must not tell of a restore that was none.
        with contextlib.suppress(psycopg.Error), connect_to(incoming) as copy:
            told = history.values(history.FAIL, who, after, milliseconds=0, error=str(error), detail=detail)
            copy.execute(history.INSERT, told)
        raise
    return {**vars(swapped), "from_version": before, "to_version": after}


def version_of(connection: psycopg.Connection) -> str | None:
    """The highest version in the ledger; None when it is empty, not there or another tool's."""
    return latest_version(str(row["version"]) for row in ledger.read_ledger(connection)["rows"])
