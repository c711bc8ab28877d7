# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The work of module schema_migrations: look, refuse or apply, and tell the result as data.

Both verbs return keyword arguments for exit_json; with a key ``msg`` they are those of fail_json.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import engine, ledger, restore_point, run_folder, snapshot
from ansible_collections.habitat.runbook.plugins.module_utils.account import COMMIT
from ansible_collections.habitat.runbook.plugins.module_utils.bundle import read_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.comparison import (
    Comparison,
    Refusal,
    baseline_versions,
    refuse_environment,
    refuse_target,
)
from ansible_collections.habitat.runbook.plugins.module_utils.connect import SETTINGS_READ_BACK, read_back
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.schema_watch import WATCHED
from ansible_collections.habitat.runbook.plugins.module_utils.state import compare_bundle, plan_line
from ansible_collections.habitat.runbook.plugins.module_utils.transaction import Note, unnoted
from ansible_collections.habitat.runbook.plugins.module_utils.window import lock_missing, window

_DIFF_CHARACTERS = 100_000


def migrate(
    connection: psycopg.Connection,
    connect_to: restore_point.ConnectTo,
    parameters: dict[str, Any],
    check: bool,
    diff: bool,
) -> dict[str, Any]:
    """Apply what is pending up to ``target``; in check mode, tell what would be.

    connect_to: connects once more, to the database of that name on this server.
    """
    comparison, _, heads = compare_bundle(connection, parameters["plan"], parameters["env"])
    refusals = comparison.refusals or refuse_target(comparison, parameters["target"], parameters["env"])
    result: dict[str, Any] = {"applied": [], "from_version": comparison.current, "to_version": comparison.current}
    if refusals:
        return refused(result, refusals)
    versions = [state.version for state in comparison.pending(parameters["target"])]
    result["settings"], wrong = _settings(connection, parameters)
    if wrong:
        return refused(result, [wrong])
    if diff:
        result["diff"] = _diff(bookkeeping(connection, parameters, versions), parameters["plan"], comparison, versions)
    if check or not versions:
        result["applied"] = [plan_line(head) for head in heads if head["version"] in versions]
        result["to_version"] = _highest(comparison, versions)
        return dict(result, changed=bool(versions))
    return _apply(connection, connect_to, parameters, result, comparison, versions)


def _settings(connection: psycopg.Connection, parameters: dict[str, Any]) -> tuple[dict[str, str], Refusal | None]:
    """The timeouts as the server has them, and a refusal when they are not those this run asked for."""
    wanted = {name: parameters[name] for name in SETTINGS_READ_BACK}
    found, wrong = read_back(connection, wanted)
    if wrong is None:
        return found, None
    what = f"{wrong} is not the {wanted[wrong]} this run asked for"
    return found, Refusal(what, f"the server says {found[wrong]}", "point the inventory at PostgreSQL itself")


def _apply(
    connection: psycopg.Connection,
    connect_to: restore_point.ConnectTo,
    parameters: dict[str, Any],
    result: dict[str, Any],
    comparison: Comparison,
    versions: list[str],
) -> dict[str, Any]:
    reconnect = functools.partial(connect_to, parameters["login_db"])
    begun = {"versions": versions, "from_version": comparison.current}
    with window(connection, reconnect, parameters, "APPLY", **begun) as alone:
        result["other_sessions"] = alone.other_sessions
        if alone.refusal:
            return refused(result, [alone.refusal])
        if parameters["restore_point"] != "none":
            connection.close()
            database, run_id = parameters["login_db"], parameters["run_id"]
            point = result["restore_point"] = restore_point.take(connect_to, database, run_id, alone.fence)
            if parameters["restore_point"] == "required" and not point["name"]:
                return refused(result, [_no_point(point["reason"])])
            connection = reconnect()
        note = _journal(parameters["run_dir"], durable=len(versions) <= WATCHED)
        outcome = engine.apply(connection, reconnect, parameters["plan"], versions, who_runs(parameters), note)
        alone.told["error"] = outcome.failure.message if outcome.failure else ""
        if not outcome.failure and (result.get("restore_point") or {}).get("name"):
            # It only tells later what was written meanwhile; what was applied matters more than a lost server.
            with contextlib.suppress(psycopg.Error), reconnect() as again:
                result["snapshot"] = snapshot.read_identity(again)
        # The restore point is put back by another step, and nobody may write before that.
        alone.stays_closed = bool(outcome.failure and (result.get("restore_point") or {}).get("name"))
    result.update(outcome.as_data())
    result["to_version"] = _highest(comparison, [one["version"] for one in outcome.applied])
    result["changed"] = bool(outcome.applied) or bool(outcome.failure and outcome.failure.state == "partial")
    if outcome.failure:
        found = outcome.failure
        result["msg"] = f"{found.file}:{found.line}: {found.message}"
    return result


def _journal(run_dir: str | None, durable: bool) -> Note:
    """Writes every COMMIT into the run's journal. durable: onto the disk, which costs too much for many migrations;
    after a crash of the host the ledger says as much."""
    if not run_dir:
        return unnoted

    def write(event: str, version: str, xid: str | None) -> None:
        try:
            run_folder.note(Path(run_dir), event, COMMIT, durable, version=version, xid=xid)
        except OSError:
            # What is committed is so; a disk that is full now must not make a failure of it.
            if event != run_folder.DONE:
                raise

    return write


def baseline(connection: psycopg.Connection, parameters: dict[str, Any], check: bool, diff: bool) -> dict[str, Any]:
    """Record the versions up to ``target`` without running them; in check mode, tell which."""
    comparison, found, heads = compare_bundle(connection, parameters["plan"], parameters["env"])
    result: dict[str, Any] = {"applied": [], "from_version": comparison.current, "to_version": comparison.current}
    versions, refusals = baseline_versions(comparison, found, parameters["target"], parameters["env"])
    foreign = [refusal for refusal in comparison.refusals if found["foreign"]]
    not_held = None if check else lock_missing(connection, parameters)
    blocked = refuse_environment(found, parameters["env"]) or foreign or refusals or ([not_held] if not_held else [])
    if blocked:
        return refused(result, blocked)
    if diff:
        after = bookkeeping(connection, parameters, versions)
        after += "".join(f"{version} recorded as baseline\n" for version in versions)
        header = "schema_migrations"
        result["diff"] = {"before_header": header, "after_header": header, "before": "", "after": after}
    if versions and not check:
        engine.baseline(connection, heads, versions, who_runs(parameters))
    result["to_version"] = _highest(comparison, versions)
    return dict(result, changed=bool(versions), recorded=versions)


def _no_point(reason: str) -> Refusal:
    return Refusal("the restore point could not be taken", reason, "put that right, then run migrate.yml again")


def who_runs(parameters: dict[str, Any]) -> Run:
    """Who acts, as ledger and history have it."""
    return Run(parameters["run_id"], parameters["operator"], parameters["origin"], parameters["env"])


def refused(result: dict[str, Any], refusals: list[Refusal]) -> dict[str, Any]:
    """The result of a step that did not begin."""
    return dict(result, changed=False, msg=refusals[0].what, refusals=[asdict(refusal) for refusal in refusals])


def _highest(comparison: Comparison, versions: list[str]) -> str | None:
    known = [version for version in [comparison.current, *versions] if version is not None]
    return max(known, key=int, default=None)


def bookkeeping(connection: psycopg.Connection, parameters: dict[str, Any], versions: list[str]) -> str:
    """The SQL that gives the database what the ledger lacks, for a diff; it runs before any of ``versions``."""
    todo = ledger.missing(connection, who_runs(parameters)) if versions else []
    return "".join(["-- bookkeeping\n", *(f"{statement};\n" for statement in todo)]) if todo else ""


def _diff(text: str, plan: str, comparison: Comparison, versions: list[str]) -> dict[str, str]:
    """The SQL that is (or would be) executed, after ``text``, cut where nobody reads on."""
    for head, stream in read_bundle(plan):
        if head["version"] not in versions or len(text) > _DIFF_CHARACTERS:
            continue
        text += f"-- {head['file']}\n"
        for role, statement in stream():
            text += ("-- verify\n" if role == "verify" else "") + statement.text + ";\n"
            if len(text) > _DIFF_CHARACTERS:
                text = text[:_DIFF_CHARACTERS] + "\n-- ... the rest is in the file\n"
                break
    before, after = comparison.current or "empty", _highest(comparison, versions) or "empty"
    return {"before_header": f"schema {before}", "after_header": f"schema {after}", "before": "", "after": text}
