# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What is looked at before the first side effect. Every check says ok, warn or fail, and what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import find_tools
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError
from ansible_collections.habitat.runbook.plugins.module_utils.table import count, duration, session, size
from psycopg.rows import dict_row

OLDEST_SERVER = 15
NEWEST_SERVER = 18
# While it backs up a run has one session, two of pg_dump, at most four that count rows, and four more of pg_dump in the
# directory form; the others of a run are fewer.
_FREE_CONNECTIONS = 11
_SPARE_BYTES = 64 * 1024 * 1024

_SERVER = """
SELECT current_setting('server_version_num')::int AS number, current_setting('server_version') AS version,
       pg_is_in_recovery() AS standby, current_setting('default_transaction_read_only')::bool AS read_only,
       pg_backend_pid() AS pid, current_user AS role, d.datname AS name,
       pg_database_size(d.oid) AS size, pg_has_role(d.datdba, 'USAGE') AS owner,
       pg_get_userbyid(d.datdba) AS owner_name,
       has_schema_privilege('public', 'CREATE') AS may_create,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all,
       (SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user) AS may_copy,
       pg_has_role('pg_signal_backend', 'USAGE') AS may_end_sessions,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS free_connections,
       (SELECT count(*) FROM pg_prepared_xacts WHERE database = d.datname) AS prepared
FROM pg_database d WHERE d.datname = current_database()"""

_LARGEST = "SELECT coalesce(max(pg_total_relation_size(oid)), 0) FROM pg_class WHERE relkind IN ('r', 'm')"

_SESSIONS = """
SELECT pid, usename AS role, application_name AS app, state, left(query, 200) AS query,
       extract(epoch FROM clock_timestamp() - xact_start) AS seconds
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
  AND application_name NOT LIKE 'runbook%%' ORDER BY xact_start NULLS LAST"""


@dataclass(frozen=True)
class Check:
    """One line of the preflight: state is "ok", "warn" or "fail"; next says what to do about it."""

    state: str
    text: str
    next: str = ""

    def as_data(self) -> dict[str, str]:
        return asdict(self)


def ok(text: str) -> Check:
    return Check("ok", text)


def read_server(connection: psycopg.Connection) -> dict[str, Any]:
    """Facts about the server and the database this connection is in, as one dict."""
    row = connection.cursor(row_factory=dict_row).execute(_SERVER).fetchone() or {}
    return dict(row, pooled=connection.pgconn.backend_pid != row.get("pid"))


def read_largest(connection: psycopg.Connection) -> int:
    """Bytes of the largest table with all that belongs to it. Waits for who has locked one for himself alone."""
    row = connection.execute(_LARGEST).fetchone()
    return row[0] if row else 0


def read_sessions(connection: psycopg.Connection) -> list[dict[str, Any]]:
    """Other client sessions in this database, none of a run: pid, role, app, state, query, seconds in transaction."""
    rows = connection.cursor(row_factory=dict_row).execute(_SESSIONS).fetchall()
    return [dict(row, seconds=None if row["seconds"] is None else float(row["seconds"])) for row in rows]


def check_server(server: dict[str, Any]) -> list[Check]:
    """Version, role of the server, rights of ours, room for connections."""
    major = server["number"] // 10000
    return [
        _version(major, server["version"]),
        _writable(server),
        _rights(server),
        _direct(server),
        _connections(server["free_connections"]),
    ]


def _version(major: int, version: str) -> Check:
    if major < OLDEST_SERVER:
        return Check("fail", f"PostgreSQL {version} is too old", f"{OLDEST_SERVER} to {NEWEST_SERVER} are supported")
    if major > NEWEST_SERVER:
        return Check("warn", f"PostgreSQL {version} is newer than any this was tested with ({NEWEST_SERVER})")
    return ok(f"PostgreSQL {version}")


def _writable(server: dict[str, Any]) -> Check:
    if server["standby"]:
        return Check("fail", "the server is a standby", "point the inventory at the primary")
    if server["read_only"]:
        hint = f"ALTER DATABASE {server['name']} RESET default_transaction_read_only"
        return Check("fail", "the database is read only (default_transaction_read_only is on)", hint)
    return ok("primary, writable")


def _rights(server: dict[str, Any]) -> Check:
    role, owner = server["role"], server["owner_name"]
    if not server["owner"]:
        hint = f"connect as {owner}, or GRANT {owner} TO {role}"
        return Check("fail", f"role {role} does not own database {server['name']} ({owner} does)", hint)
    if not server["may_create"]:
        return Check("fail", f"role {role} may not create in schema public", f"GRANT CREATE ON SCHEMA public TO {role}")
    if not server["sees_all"]:
        hint = f"GRANT pg_read_all_stats TO {role}"
        return Check("warn", f"role {role} cannot see what other sessions do", hint)
    return ok(f"role {role} owns database {server['name']}")


def _direct(server: dict[str, Any]) -> Check:
    if server["pooled"]:
        # The pid sent with the cancel key at login is the pooler's invention, not the backend's.
        return Check("fail", "the connection goes through a pooler", "point the inventory at PostgreSQL itself")
    return ok("direct connection, not through a pooler")


def _connections(free: int) -> Check:
    if free < _FREE_CONNECTIONS:
        text = f"only {free} connections are free, a run needs {_FREE_CONNECTIONS}"
        return Check("fail", text, "end sessions or raise max_connections")
    return ok(f"{free} connections free")


def check_sessions(
    sessions: list[dict[str, Any]], prepared: int, writer_roles: list[str], max_seconds: float
) -> list[Check]:
    """Transactions so long that a migration would wait for them, and sessions of nobody we know."""
    checks = []
    long = [one for one in sessions if one["seconds"] is not None and one["seconds"] >= max_seconds]
    for one in long:
        text = f"a transaction is open for {duration(one['seconds'])}: {session(one)}"
        checks.append(Check("fail", text, f"end it first: SELECT pg_terminate_backend({one['pid']})"))
    if prepared:
        text = f"{prepared} prepared transactions hold locks (pg_prepared_xacts)"
        checks.append(Check("fail", text, "COMMIT PREPARED or ROLLBACK PREPARED them first"))
    strangers = [one for one in sessions if one["role"] not in writer_roles]
    if strangers:
        shown = "; ".join(session(one) for one in strangers[:3])
        verb = "belongs" if len(strangers) == 1 else "belong"
        text = f"{count(len(strangers), 'session')} {verb} to no service of ours: {shown}"
        checks.append(Check("warn", text, "they stay connected; make sure that they do not write"))
    return checks or [ok(f"no transaction open for {duration(max_seconds)} or longer, no unknown session")]


def check_tools(bin_dir: str | None, server_number: int, container: str | None = None) -> Check:
    """pg_dump and pg_restore are there and not older than the server, whose server_version_num is ``server_number``.

    Without ``bin_dir`` those inside the container with the id ``container`` will do, see ``find_tools``.
    """
    if bin_dir or container is None:
        return _check_host_tools(bin_dir, server_number // 10000)
    try:
        tools = find_tools(None, server_number, container)
    except BackupError as error:
        return Check(
            "fail", str(error), f"install the client programs of PostgreSQL {server_number // 10000} on this host"
        )
    return ok(f"pg_dump {tools.version}{tools.place or ' is not older than the server'}")


def _check_host_tools(bin_dir: str | None, server_major: int) -> Check:
    for name in ("pg_dump", "pg_restore"):
        path = shutil.which(name, path=bin_dir)
        if path is None:
            where = bin_dir or "the PATH"
            return Check(
                "fail", f"{name} is not in {where}", "install the PostgreSQL client programs or set habitat_pg_bin"
            )
        done = subprocess.run([path, "--version"], text=True, capture_output=True, check=False)
        found = re.search(r"(\d+)(?:\.\d+)*", done.stdout)
        major = int(found[1]) if found else 0
        if major < server_major:
            text = f"{name} {found[0] if found else '?'} is older than the server ({server_major})"
            return Check("fail", text, f"install the client programs of PostgreSQL {server_major}")
    return ok(f"pg_dump {found[0] if found else ''} is not older than the server")


def check_space(folder: str, needed: int, what: str) -> Check:
    """Room for ``needed`` bytes and some to spare in a folder, or in the nearest one above that exists."""
    path = Path(folder)
    while not path.exists():
        path = path.parent
    return check_room(shutil.disk_usage(path).free, needed, what, folder)


def check_room(free: int, needed: int, what: str, where: str) -> Check:
    """Whether ``free`` bytes are enough for ``needed`` ones and some to spare."""
    text = f"{what}: {size(free)} free, {size(needed)}"
    if free < needed + _SPARE_BYTES:
        return Check("fail", f"{text} and {size(_SPARE_BYTES)} to spare needed", f"make room in {where}")
    return ok(f"{text} needed")
