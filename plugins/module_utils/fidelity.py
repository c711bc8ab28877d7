# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What the role of the run could not restore from a backup of this database, found before anything starts.

A superuser can restore everything but an extension in another version than the server installs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ansible_collections.habitat.runbook.plugins.module_utils import fidelity_query
from ansible_collections.habitat.runbook.plugins.module_utils.checks import Check, ok
from ansible_collections.habitat.runbook.plugins.module_utils.table import printable

if TYPE_CHECKING:
    import psycopg

RESTORE, READ = "restore", "read"
"""How a backup is proved: by restoring it, or by reading the dump back."""

_SHOWN = 5


def check_fidelity(connection: psycopg.Connection, proof: str = RESTORE) -> Check:
    """Whether our role can restore what a backup of this database holds, as one check; one round trip."""
    return judge(*read(connection), proof)


def read(connection: psycopg.Connection) -> tuple[str, bool, list[str]]:
    """Our role, whether it is a superuser, and what it could not restore, such as ``extension x (not trusted)``."""
    # One message is one transaction; no function or operator of the database may take the place of a built-in one.
    settings = "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL jit = off;"
    query = fidelity_query.text(connection.info.server_version)
    cursor = connection.execute(f"{settings} {query}".encode())
    while cursor.nextset():
        pass
    rows = cursor.fetchall()
    superuser, role = rows[0][0], rows[0][1]
    return role, superuser, [_described(what, note) for _, _, what, note in rows if what is not None]


def _described(what: str, note: str) -> str:
    return printable(f"{what} ({note})" if note else what)


def judge(role: str, superuser: bool, found: list[str], proof: str) -> Check:
    """The check in words: a backup that cannot be restored is none, unless it is only read back anyway."""
    if not found:
        return ok(f"role {printable(role)} can restore everything that a backup would hold")
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    text = f"role {printable(role)} cannot restore what the backup would hold: {', '.join(found[:_SHOWN])}{more}"
    way = "connect as a superuser (login_user of habitat_postgres), or drop, change or hand over what is named"
    if superuser:
        way = "update the extension (ALTER EXTENSION ... UPDATE)"
    return Check("warn" if proof == READ else "fail", text, way)
