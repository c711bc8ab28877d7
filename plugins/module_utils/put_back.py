# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Swap a copy of the database in: a restored backup, a restore point, or the database from before an earlier swap."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import history, identity, ledger
from ansible_collections.habitat.runbook.plugins.module_utils.copies import SwapUnknown, swap
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, latest_version
from ansible_collections.habitat.runbook.plugins.module_utils.restore_point import ConnectTo


def put_back(
    connect_to: ConnectTo,
    database: str,
    incoming: str,
    who: Run,
    source: str,
    adopted_from: str | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """Swap ``incoming`` in and return ``{"kept_as", "seconds", "sessions_ended", "from_version", "to_version"}``.

    The history goes on in the database that comes in: it is given the entries it has not, and one about this, saying
    that it came from ``source``. With ``adopted_from``, the environment it is of, it becomes one of ``who``'s, for this
    ``reason``. Raises BackupError as copies.swap does, and when it is of another environment and not adopted.
    """
    with connect_to(database) as live, connect_to(incoming) as copy:
        # A kept copy may be guarded against writing.
        copy.execute("SET default_transaction_read_only = off")
        if adopted_from is None:
            _refuse_foreign(copy, who)
        before, after = version_of(live), version_of(copy)
        history.ensure(copy)
        # Damage to the live history is no reason not to leave the live database.
        with contextlib.suppress(psycopg.Error):
            history.carry_over(live, copy)
        _identify(copy, who, source, adopted_from, reason)
        detail = {"source": source, "from_version": before}
        copy.execute(history.INSERT, history.values(history.RESTORE, who, after, milliseconds=0, detail=detail))
    try:
        swapped = swap(lambda: connect_to("postgres"), database, incoming, who.run_id)
    except SwapUnknown:
        raise
    except BackupError as error:
        # The copy may still be swapped in some day, and its history must not tell of a restore that was none.
        with contextlib.suppress(psycopg.Error), connect_to(incoming) as copy:
            copy.execute("SET default_transaction_read_only = off")
            told = history.values(history.FAIL, who, after, milliseconds=0, error=str(error), detail=detail)
            copy.execute(history.INSERT, told)
            if adopted_from is not None:
                identity.write(copy, adopted_from, who.operator, f"not adopted by run {who.run_id}, which failed")
        raise
    return {**vars(swapped), "from_version": before, "to_version": after}


def _refuse_foreign(copy: psycopg.Connection, who: Run) -> None:
    wrong = identity.contradiction(identity.read(copy), who.environment) if who.environment else None
    if wrong:
        raise BackupError(f"{wrong[0]}; nothing was swapped, since nobody has adopted it")


def _identify(copy: psycopg.Connection, who: Run, source: str, adopted_from: str | None, reason: str | None) -> None:
    """Have the copy say that it is of the run's environment; an adoption is in its history, too."""
    if adopted_from is None:
        if who.environment:
            identity.ensure(copy, who.environment, who.operator)
        return
    detail = {"source": source, "from": adopted_from, "to": who.environment, "reason": reason}
    with copy.transaction():
        identity.write(copy, who.environment, who.operator, reason)
        copy.execute(history.INSERT, history.values(history.ADOPT, who, milliseconds=0, detail=detail))


def version_of(connection: psycopg.Connection) -> str | None:
    """The highest version in the ledger; None when it is empty, not there or another tool's."""
    return latest_version(str(row["version"]) for row in ledger.read_ledger(connection)["rows"])
