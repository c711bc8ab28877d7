# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""How modules reach the database: community.postgresql's options, with the settings of a run's sessions."""

from __future__ import annotations

import os
import shutil
import traceback
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.community.postgresql.plugins.module_utils.postgres import (
    connect_to_db,
    get_conn_params,
    postgres_common_argument_spec,
)

if TYPE_CHECKING:
    from ansible_collections.habitat.runbook.plugins.module_utils.docker import Container

try:
    import psycopg
    from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options

    PSYCOPG_ERROR = None
except ImportError:
    PSYCOPG_ERROR = traceback.format_exc()

_PLACES: dict[tuple[str, int], str] = {}
"""What host and port of a database in a container are, for people."""

_MOST_JOBS = 4

_HINT = "; correct login_password if it is wrong, or leave it out: the container then says how to get in"


def database_argument_spec() -> dict[str, Any]:
    """Connection options of community.postgresql, with the database's name required."""
    spec = postgres_common_argument_spec()
    spec["login_db"] = {"type": "str", "required": True}
    spec["container"] = {
        "type": "dict",
        "default": {},
        "options": {name: {"type": "str"} for name in ("folder", "file", "service")},
        "required_together": [("folder", "file", "service")],
    }
    return spec


def container_of(module: AnsibleModule) -> str | None:
    """Id of the database's container; None when option container is not set. Fails the module in one sentence."""
    return _found(module).id if module.params["container"].get("service") else None


def _found(module: AnsibleModule) -> Container:
    # Only here: most of what a container needs is not wanted by modules that do without one.
    from ansible_collections.habitat.runbook.plugins.module_utils import container, docker

    wanted = module.params["container"]
    try:
        return container.find(wanted["folder"], wanted["file"], wanted["service"])
    except docker.DockerError as error:
        module.fail_json(msg=str(error))
        raise


def data_room(module: AnsibleModule) -> int | str:
    """Bytes that are free for the server's data, or why they are not known; from option data_dir or the container."""
    data_dir, inside = module.params["data_dir"], container_of(module)
    if data_dir:
        try:
            return shutil.disk_usage(data_dir).free
        except OSError as error:
            return f"habitat_data_dir {data_dir} cannot be looked at: {error.strerror}"
    free = None
    if inside:
        from ansible_collections.habitat.runbook.plugins.module_utils import container

        free = container.data_free(inside)
    return "the room on the server's disk cannot be seen from here (habitat_data_dir)" if free is None else free


def most_jobs(asked: int) -> int:
    """The number of parallel sessions that was asked for; for 0 as many as the host has processors, at most 4."""
    return asked or min(_MOST_JOBS, os.cpu_count() or 1)


def require_psycopg(module: AnsibleModule) -> None:
    """Fail in one sentence when psycopg 3 is missing on this host."""
    if PSYCOPG_ERROR:
        module.fail_json(msg=missing_required_lib("psycopg (version 3.1 or later)"), exception=PSYCOPG_ERROR)


def connection_parameters(module: AnsibleModule, run_id: str, **timeouts: str) -> dict[str, Any]:
    """Keyword arguments of psycopg.connect for a session of this run.

    timeouts: lock_timeout and statement_timeout as PostgreSQL writes them; "0" means none. With option container they
    lead to the server in it; fails the module in one sentence when there is no way.
    """
    parameters = get_conn_params(module, module.params)
    parameters["application_name"] = session_name(run_id)
    parameters["options"] = session_options(**{"lock_timeout": "5s", "statement_timeout": "1min", **timeouts})
    parameters.setdefault("connect_timeout", 10)
    if container_of(module):
        _into_container(module, parameters)
    return parameters


def _into_container(module: AnsibleModule, parameters: dict[str, Any]) -> None:
    from ansible_collections.habitat.runbook.plugins.module_utils import way_in

    try:
        how = way_in.into_container(_found(module), parameters)
    except way_in.Problem as error:
        module.fail_json(msg=str(error))
    _PLACES[parameters["host"], parameters["port"]] = how


def connect_to(parameters: dict[str, Any], name: str) -> psycopg.Connection:
    """Connect as open_connection does, to the database of this name on the same server.

    Raises psycopg.OperationalError, so that the caller can try once more.
    """
    return psycopg.connect(**{**parameters, "dbname": name}, autocommit=True)


def open_connection(module: AnsibleModule, parameters: dict[str, Any]) -> psycopg.Connection:
    """Connect in autocommit mode, with plain rows; fails the module in one sentence when that is not possible."""
    connection, error = connect_to_db(module, dict(parameters), autocommit=True, fail_on_conn=False)
    if connection is None:
        host, port = parameters.get("host", "the local socket"), parameters.get("port", 5432)
        where = _PLACES.get((host, port), f"{host} port {port}")
        reason = " ".join(str(error).split())
        hint = _HINT if where.endswith("login_password") else ""
        module.fail_json(msg=f"cannot connect to database {parameters['dbname']} at {where}: {reason}{hint}")
    connection.row_factory = psycopg.rows.tuple_row
    connection.cursor_factory = psycopg.Cursor
    return connection
