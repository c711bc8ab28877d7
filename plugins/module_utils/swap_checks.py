# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What would stand in the way of swapping another database in, looked at before anything is stopped."""

from __future__ import annotations

from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.checks import Check, ok
from ansible_collections.habitat.runbook.plugins.module_utils.table import session

# A slot, a subscription and a prepared transaction belong to the database that goes out, and would stay with it.
_BOUND = """
SELECT ARRAY(SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE database = d.datname) AS slots,
       ARRAY(SELECT subname::text FROM pg_catalog.pg_subscription WHERE subdbid = d.oid) AS subscriptions,
       ARRAY(SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = d.datname) AS prepared,
       ARRAY(SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolsuper) AS superusers,
       (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) AS superuser
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()"""


def check_swap(connection: psycopg.Connection, server: dict[str, Any], sessions: list[dict[str, Any]]) -> list[Check]:
    """server: as checks.read_server returns it for this connection's database; sessions: those in the databases that
    get other names, with pid, role, app, state and query."""
    row = connection.execute(_BOUND).fetchone() or ([], [], [], [], False)
    slots, subscriptions, prepared, superusers, superuser = row
    found = [
        _rights(server, superuser),
        *_bound("logical replication slot", slots, "drop it (pg_drop_replication_slot) and make it anew afterwards"),
    ]
    found += _bound("subscription", subscriptions, "DROP SUBSCRIPTION, and make it anew afterwards")
    found += _bound("prepared transaction", prepared, "COMMIT PREPARED or ROLLBACK PREPARED it first")
    untouchable = [one for one in sessions if one["role"] in superusers]
    if untouchable and not superuser:
        text = f"role {server['role']} may not end the session of a superuser: {session(untouchable[0])}"
        found.append(
            Check("fail", text, f"end it: SELECT pg_terminate_backend({untouchable[0]['pid']}) as a superuser")
        )
    return found


def _rights(server: dict[str, Any], superuser: bool) -> Check:
    role = server["role"]
    if not server["may_copy"]:
        return Check("fail", f"role {role} may not create databases", f"ALTER ROLE {role} CREATEDB")
    if not (superuser or server["may_end_sessions"]):
        text = f"role {role} may not end the sessions of other roles"
        return Check("fail", text, f"GRANT pg_signal_backend TO {role}")
    return ok(f"role {role} may create and rename databases and end sessions")


def _bound(kind: str, names: list[str], way: str) -> list[Check]:
    if not names:
        return []
    text = f"{kind} {', '.join(names)} belongs to this database and would not follow the swap"
    return [Check("fail", text, way)]
