# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What schema_migrations does with C(state=reverted): plan the downs, say what goes with them, run them."""

from __future__ import annotations

import functools
from dataclasses import asdict
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import engine, fence, ledger
from ansible_collections.habitat.runbook.plugins.module_utils.bundle import read_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.comparison import Refusal, refuse_environment
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import split
from ansible_collections.habitat.runbook.plugins.module_utils.loss_counts import count_losses
from ansible_collections.habitat.runbook.plugins.module_utils.losses import find_losses, would_lose
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import latest_version
from ansible_collections.habitat.runbook.plugins.module_utils.migrate import bookkeeping, refused, who_runs
from ansible_collections.habitat.runbook.plugins.module_utils.restore_point import ConnectTo
from ansible_collections.habitat.runbook.plugins.module_utils.revert import revert as run_downs
from ansible_collections.habitat.runbook.plugins.module_utils.revert_plan import Revert, plan_revert
from ansible_collections.habitat.runbook.plugins.module_utils.window import window


def revert(
    connection: psycopg.Connection, connect_to: ConnectTo, parameters: dict[str, Any], check: bool, diff: bool
) -> dict[str, Any]:
    """Take migrations back; in check mode, tell which and what would be lost (connect_to: see migrate.migrate)."""
    found = ledger.read_ledger(connection)
    versions = [row["version"] for row in found["rows"]]
    result: dict[str, Any] = {"reverts": [], "reverted": [], "losses": [], "accepted": parameters["accept_data_loss"]}
    result["from_version"] = result["to_version"] = latest_version(versions)
    elsewhere = refuse_environment(found, parameters["env"])
    if elsewhere:
        return refused(result, elsewhere)
    if found["foreign"]:
        what = "the table schema_migrations belongs to another tool"
        return refused(result, [Refusal(what, found["foreign"], "")])
    reverts, refusals = _plan(connection, found, parameters)
    result["reverts"] = [_line(one) for one in reverts]
    if refusals:
        return refused(result, refusals)
    result["losses"] = _losses(connection, reverts)
    left = set(versions) - {one.version for one in reverts}
    result["planned_version"] = latest_version(left)
    if would_lose(result["losses"]) and not parameters["accept_data_loss"]:
        return refused(result, [_loss_refusal(result["losses"])])
    if diff:
        result["diff"] = _diff(bookkeeping(connection, parameters, [one.version for one in reverts]), reverts, result)
    if check or not reverts:
        return dict(result, changed=bool(reverts), to_version=result["planned_version"])
    return _run(
        connection, functools.partial(connect_to, parameters["login_db"]), parameters, result, reverts, versions
    )


def _plan(
    connection: psycopg.Connection, found: dict[str, Any], parameters: dict[str, Any]
) -> tuple[list[Revert], list[Refusal]]:
    heads = [head for head, _ in read_bundle(parameters["plan"])]
    stored: dict[str, str] = {}
    if found["rows"] and "down_sql" in _columns(connection):
        stored = dict(connection.execute(f"SELECT version::text, down_sql FROM {ledger.TABLE}").fetchall())  # noqa: S608
    rows = [{"kind": None, "checksum": None, "run_id": None, **row} for row in found["rows"]]
    rows = [dict(row, down_sql=stored.get(row["version"])) for row in rows]
    return plan_revert(heads, rows, found["progress"], parameters["target"], parameters["steps"], parameters["env"])


def _columns(connection: psycopg.Connection) -> set[str]:
    query = f"SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = '{ledger.TABLE}'::regclass AND attnum > 0"  # noqa: S608
    return {name for (name,) in connection.execute(query.encode()).fetchall()}


def _losses(connection: psycopg.Connection, reverts: list[Revert]) -> list[dict[str, Any]]:
    losses = []
    for one in reverts:
        counted = count_losses(connection, find_losses(split(one.text, one.line)))
        losses += [dict(entry, version=one.version, file=one.file) for entry in counted]
    return losses


def _loss_refusal(losses: list[dict[str, Any]]) -> Refusal:
    known = sum(entry["rows"] or 0 for entry in losses)
    open_ended = any(entry["rows"] is None for entry in losses)
    text = f"{'at least ' if open_ended else ''}{known} rows" if known else "rows, how many is not known beforehand,"
    return Refusal(f"{text} would be dropped or changed", "", "add -e accept_data_loss=true")


def _run(
    connection: psycopg.Connection,
    reconnect: engine.Connect,
    parameters: dict[str, Any],
    result: dict[str, Any],
    reverts: list[Revert],
    versions: list[str],
) -> dict[str, Any]:
    by_right = not fence.touches(one.text for one in reverts)
    told = {"from_version": result["from_version"], "downs": [one.version for one in reverts]}
    with window(connection, reconnect, {**parameters, "fence_by_right": by_right}, "REVERT", **told) as alone:
        result["other_sessions"] = alone.other_sessions
        if alone.refusal:
            return refused(result, [alone.refusal])
        announced = None if parameters["accept_data_loss"] else result["losses"]
        outcome = run_downs(connection, reconnect, reverts, announced, who_runs(parameters))
        alone.told["error"] = outcome.failure.message if outcome.failure else ""
    gone = [one["version"] for one in outcome.reverted]
    result.update(outcome.as_data(), to_version=latest_version(set(versions) - set(gone)), changed=bool(gone))
    if outcome.failure:
        result["msg"] = f"{outcome.failure.file}:{outcome.failure.line}: {outcome.failure.message}"
    return result


def _line(one: Revert) -> dict[str, Any]:
    """What a plan shows of one migration: everything but its SQL."""
    told = asdict(one)
    text = told.pop("text")
    return dict(told, statements=sum(1 for _ in split(text)))


def _diff(text: str, reverts: list[Revert], result: dict[str, Any]) -> dict[str, str]:
    text += "".join(f"-- {one.file} (down of {one.version})\n{one.text}\n" for one in reverts)
    header = f"schema {result['from_version'] or 'empty'}"
    return {"before_header": header, "after_header": f"{len(reverts)} reverted", "before": "", "after": text}
