# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Bringing a backup of one environment into another: only when both are named and a reason is given. Pure."""

from __future__ import annotations

from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.inputs import Refused, plain
from ansible_collections.habitat.runbook.plugins.module_utils.table import printable


def adoption(what: str, origin: str | None, given: dict[str, Any]) -> dict[str, str] | None:
    """``{"from", "to", "reason"}`` when ``what`` (such as "backup production-...") is of another environment than
    ``given["env"]`` and was adopted; None when there is nothing to adopt. ``origin``: None when it does not say.

    given: env, adopt_identity, reason. Raises Refused when it is of another one and was not adopted.
    """
    env = given["env"]
    if origin in (None, env):
        return None
    if given["adopt_identity"] != env or not given["reason"]:
        way = f"to make it one of {env}'s: add {typed(env)}; else choose another one"
        raise Refused(f"{what} is of environment {plain(origin)}, not of {env}", "", way)
    return {"from": str(origin), "to": env, "reason": given["reason"]}


def typed(env: str) -> str:
    """What to type to adopt something into ``env``."""
    return f'-e adopt_identity={env} -e reason="..."'


def announced(adopts: dict[str, str], operator: str) -> list[str]:
    """Lines of a plan about an adoption, loud: what it holds is another environment's."""
    origin, env = plain(adopts["from"]), adopts["to"]
    return [
        f"  warn  ADOPTS a database of {origin}: it becomes {env}'s, with {origin}'s rows, addresses and secrets in it",
        f"        reason: {printable(adopts['reason'])} ({printable(operator)}); kept in the database and its history",
    ]
