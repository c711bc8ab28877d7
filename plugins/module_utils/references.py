# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The backups that a ledger, its history or a kept copy of the database refers to. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible_collections.habitat.runbook.plugins.module_utils import history, ledger
from ansible_collections.habitat.runbook.plugins.module_utils.copies import BEFORE, POINT, list_copies

if TYPE_CHECKING:
    import psycopg

_SWAPPED_IN = f"SELECT run_id, detail ->> 'source' FROM {history.TABLE} WHERE event = %s AND run_id = ANY (%s)"  # noqa: S608


def read_references(connection: psycopg.Connection, database: str, environment: str) -> dict[str, str]:
    """Ids of backups, each with what refers to it; not all of them need to exist.

    These are: of every kept copy and restore point the backup of the run that made it, and the one that was put back
    instead of it; of the last migration applied the backup of its run. Raises psycopg.Error.
    """
    found: dict[str, str] = {}
    rows = [row for row in ledger.read_ledger(connection)["rows"] if row.get("run_id")]
    if rows:
        last = max(rows, key=lambda row: (row["applied_at"], len(row["version"]), row["version"]))
        found[f"{environment}-{last['run_id']}"] = f"taken by the run that applied {last['version']}"
    kept = {copy.run_id: copy.name for copy in list_copies(connection, database) if copy.kind in (BEFORE, POINT)}
    for run_id, name in kept.items():
        found.setdefault(f"{environment}-{run_id}", f"taken by the run that made {name}")
    if kept and history.exists(connection):
        for run_id, source in connection.execute(_SWAPPED_IN, [history.RESTORE, list(kept)]).fetchall():
            if source:
                found.setdefault(source, f"put back when {kept[run_id]} was kept")
    return found
