# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What is around the migrations: the server, its other sessions, and who holds the run lock."""

from __future__ import annotations

from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import checks, lock_session


def read_surroundings(connection: psycopg.Connection) -> dict[str, Any]:
    """Look around without changing anything; see RETURN of session_info for the keys."""
    server = checks.read_server(connection)
    return {
        "holder": lock_session.held_by(connection, server["name"]),
        "server": server,
        "sessions": checks.read_sessions(connection),
    }
