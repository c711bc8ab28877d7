# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The settings of every database session of a run."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

_DURATION = re.compile(r"([0-9]{1,9})(ms|s|min|h|d)?")
_LONGEST = 2**31 - 1  # PostgreSQL keeps these settings as int4, in milliseconds
_UNITS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}

SETTINGS_READ_BACK = ("lock_timeout", "statement_timeout")


def session_name(run_id: str) -> str:
    """application_name of the run's sessions: they are found, and ended, by it."""
    return f"runbook/{run_id}"


def session_options(lock_timeout: str, statement_timeout: str) -> str:
    """Value of the connection option ``options``.

    Given at connection time so that they outlive DISCARD ALL and come before defaults of role and database.
    client_connection_check_interval ends a backend whose client died (measured: within 2 s); idle_in_transaction
    bounds how long a stopped client can hold locks; the lexer takes standard_conforming_strings to be on. Raises
    ValueError for what is no duration.
    """
    milliseconds(lock_timeout), milliseconds(statement_timeout)
    settings = {
        "lock_timeout": lock_timeout,
        "statement_timeout": statement_timeout,
        "idle_in_transaction_session_timeout": "60s",
        "client_connection_check_interval": "500ms",
        "standard_conforming_strings": "on",
    }
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def milliseconds(duration: str) -> int:
    """A duration as PostgreSQL writes it (``500ms``, ``5s``, ``10min``; no unit means ms) in milliseconds.

    Raises ValueError for anything else.
    """
    found = _DURATION.fullmatch(duration)
    if not found:
        raise ValueError(f'"{duration}" is no duration: write 500ms, 5s, 10min, 1h, or 0 for none')
    number = int(found[1]) * _UNITS[found[2] or "ms"]
    if number > _LONGEST:
        raise ValueError(f'"{duration}" is longer than PostgreSQL can count (24 d)')
    return number


def read_back(connection: psycopg.Connection, wanted: dict[str, str]) -> tuple[dict[str, str], str | None]:
    """The timeouts as the server shows them, and the name of the first that is not as wanted, or None."""
    query = "SELECT name, current_setting(name), setting FROM pg_settings WHERE name = ANY(%s) ORDER BY name"
    rows = connection.execute(query, [list(SETTINGS_READ_BACK)]).fetchall()
    wrong = [name for name, _, setting in rows if int(setting) != milliseconds(wanted[name])]
    return {name: shown for name, shown, _ in rows}, wrong[0] if wrong else None
