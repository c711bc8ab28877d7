# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How modules reach the database: community.postgresql's options, with the settings of a run's sessions."""

from __future__ import annotations

import traceback
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.community.postgresql.plugins.module_utils.postgres import (
    connect_to_db,
    get_conn_params,
    postgres_common_argument_spec,
)

try:
    import psycopg
    from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options

    PSYCOPG_ERROR = None
except ImportError:
    PSYCOPG_ERROR = traceback.format_exc()


def database_argument_spec() -> dict[str, Any]:
    """Connection options of community.postgresql, with the database's name required."""
    spec = postgres_common_argument_spec()
    spec["login_db"] = {"type": "str", "required": True}
    return spec


def require_psycopg(module: AnsibleModule) -> None:
    """Fail in one sentence when psycopg 3 is missing on this host."""
    if PSYCOPG_ERROR:
        module.fail_json(msg=missing_required_lib("psycopg (version 3.1 or later)"), exception=PSYCOPG_ERROR)


def connection_parameters(module: AnsibleModule, run_id: str, **timeouts: str) -> dict[str, Any]:
    """Keyword arguments of psycopg.connect for a session of this run.

    timeouts: lock_timeout and statement_timeout as PostgreSQL writes them; "0" means none.
    """
    parameters = get_conn_params(module, module.params)
    parameters["application_name"] = session_name(run_id)
    parameters["options"] = session_options(**{"lock_timeout": "5s", "statement_timeout": "1min", **timeouts})
    parameters.setdefault("connect_timeout", 10)
    return parameters


def connect_to(parameters: dict[str, Any], name: str) -> psycopg.Connection:
    """Connect as open_connection does, to the database of this name on the same server.

    Raises psycopg.OperationalError, so that the caller can try once more.
    """
    return psycopg.connect(**{**parameters, "dbname": name}, autocommit=True)


def open_connection(module: AnsibleModule, parameters: dict[str, Any]) -> psycopg.Connection:
    """Connect in autocommit mode, with plain rows; fails the module in one sentence when that is not possible."""
    connection, error = connect_to_db(module, dict(parameters), autocommit=True, fail_on_conn=False)
    if connection is None:
        where = f"{parameters.get('host', 'the local socket')} port {parameters.get('port', 5432)}"
        reason = " ".join(str(error).split())
        module.fail_json(msg=f"cannot connect to database {parameters['dbname']} at {where}: {reason}")
    connection.row_factory = psycopg.rows.tuple_row
    connection.cursor_factory = psycopg.Cursor
    return connection
