# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The way into a database that runs in a container, as arguments of psycopg.connect."""

from __future__ import annotations

from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import bridge, container

Problem = (container.DockerError, bridge.BridgeError)
"""What is raised when there is no way; the text is one sentence."""


def into_container(found: container.Container, parameters: dict[str, Any]) -> str:
    """Set host, port and password: over the network if the server lets us in, else by a bridge to its socket.

    A password that was given is the only one: a way that does not ask for it would hide that it is wrong. Returns how
    it is reached, for people. Raises DockerError or BridgeError.
    """
    given = parameters.pop("password", None)
    reached, password = container.reach(found, parameters["user"], given)
    parameters.update(host=reached.host, port=reached.port, **({"password": password} if password else {}))
    how = reached.how + (f" with {reached.password_from}" if password else " without a password")
    if not given and not (reached.host and _accepted(parameters)):
        parameters.pop("password", None)
        parameters.update(host=str(bridge.open_bridge(reached.id, reached.port)), port=bridge.PORT)
        how = f"container {reached.name}, by docker exec and its socket inside"
    return how


def _accepted(parameters: dict[str, Any]) -> bool:
    """Whether the server lets us in. The database is the one that every run has a session in, too: postgres."""
    try:
        psycopg.connect(**{**parameters, "dbname": "postgres"}).close()
    except psycopg.OperationalError:
        # Which error it was is in words of the server's language only; the bridge meets it again if it is another.
        return False
    return True
