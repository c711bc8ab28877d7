# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The migrations of a staged plan against the ledger, as plain data for results and screens.

A run with nothing pending loads this and little else, so it stays light: what it imports is packed and compiled anew
for every task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils import ledger
from ansible_collections.habitat.runbook.plugins.module_utils.bundle import read_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.comparison import Comparison, compare, refuse_target

if TYPE_CHECKING:
    import psycopg
    from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement


def compare_bundle(connection: psycopg.Connection, bundle: str, env: str) -> tuple[Comparison, dict, list[dict]]:
    """Compare the staged plan with the ledger: the comparison, the ledger, and the heads of all migrations."""
    found = ledger.read_ledger(connection)
    partial = {int(row["version"]): row["done"] for row in found["progress"]}
    heads = []
    for head, stream in read_bundle(bundle):
        number = int(head["version"])
        if number in partial:
            ups = (statement for role, statement in stream() if role == "up")
            head = dict(head, prefix=prefix_of(ups, partial[number]))
        heads.append(head)
    return compare(heads, found, env), found, heads


def prefix_of(statements: Iterable[Statement], count: int) -> str:
    """Digest of the first ``count`` statements, to see later whether what already ran was changed."""
    digest = hashlib.sha256()
    for _, statement in zip(range(count), statements):
        feed(digest, statement)
    return digest.hexdigest()


def feed(digest: hashlib._Hash, statement: Statement) -> None:
    """Take one more statement into a digest of statements."""
    digest.update(f"{len(statement.text)}:{statement.text};{statement.copy_data or ''}".encode())


def read_state(connection: psycopg.Connection, bundle: str, env: str, target: str | None) -> dict[str, Any]:
    """Compare a staged plan with the database; see RETURN of schema_migrations_info for the keys."""
    comparison, _, heads = compare_bundle(connection, bundle, env)
    refusals = comparison.refusals or refuse_target(comparison, target, env)
    waiting = [] if refusals else [state.version for state in comparison.pending(target)]
    return {
        **comparison.as_data(),
        "refusals": [asdict(refusal) for refusal in refusals],
        "pending": [plan_line(head) for head in heads if head["version"] in waiting],
    }


def plan_line(head: dict[str, Any]) -> dict[str, Any]:
    """What a plan shows of one migration: everything but the texts of its sections."""
    down = {"state": head["down"]["state"], "reason": head["down"]["reason"]}
    wanted = ("version", "name", "file", "mode", "statements", "verifications", "warnings")
    return {**{name: head[name] for name in wanted}, "down": down, **_timeouts(head)}


def _timeouts(head: dict[str, Any]) -> dict[str, Any]:
    return {name: head[name] for name in ("lock_timeout", "statement_timeout")}
