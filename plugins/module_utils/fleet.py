# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A run over several hosts: one report and one table over all of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.report_markdown import WORDS
from ansible_collections.habitat.runbook.plugins.module_utils.screens import labelled
from ansible_collections.habitat.runbook.plugins.module_utils.table import cell, columns, count, duration
from ansible_collections.habitat.runbook.plugins.module_utils.verdict import (
    NEEDS_OPERATOR,
    REFUSED,
    ROLLED_BACK,
    STOPPED_SAFE,
    SUCCEEDED,
)

NOT_BEGUN = "not_begun"
GOING_ON = "going_on"
NOTHING_TO_DO = "nothing_to_do"
LOST = "lost"
"""A host that was begun and then heard of no more: Ansible ends one that it cannot reach without a word."""

_WORDS = {
    **WORDS,
    NOT_BEGUN: "not begun, untouched",
    GOING_ON: "going on",
    NOTHING_TO_DO: "nothing to do",
    LOST: "LOST on the way",
}
_KEPT = ("outcome", "schema", "window_seconds", "state", "next")
_WORST_FIRST = (NEEDS_OPERATOR, LOST, ROLLED_BACK, STOPPED_SAFE, REFUSED)


def combine(reports: Mapping[str, dict[str, Any]], hosts: list[str], begun: Mapping[str, str]) -> dict[str, Any]:
    """The report over all hosts, as far as the run has come.

    reports: by host, as ``report.build`` makes them, at least one; hosts: all of the environment in the run's order;
    begun: GOING_ON, NOTHING_TO_DO or LOST for every other host that was begun. ``outcome`` is the worst of all; without
    one that is bad it is GOING_ON until every host is done.
    """
    any_report = next(reports[host] for host in hosts if host in reports)
    rows = [_row(host, reports, begun, any_report["run"]) for host in hosts]
    bad = sorted((row for row in rows if row["outcome"] in _WORST_FIRST), key=_badness)
    waiting = [row["host"] for row in rows if row["outcome"] == NOT_BEGUN]
    outcome = bad[0]["outcome"] if bad else SUCCEEDED
    if not bad and (waiting or GOING_ON in (row["outcome"] for row in rows)):
        outcome = GOING_ON
    state = " ".join(f"{row['host']}: {row['state']}" for row in bad) or f"{_tally(rows)} done."
    if waiting:
        state += f" Not begun and untouched: {', '.join(waiting)}."
    return {
        "format": any_report["format"],
        "run": any_report["run"],
        "outcome": outcome,
        "schema": any_report["schema"],
        "state": state,
        "next": bad[0]["next"] if bad else "",
        "finished_at": max(report["finished_at"] for report in reports.values()),
        "hosts": rows,
    }


def _badness(row: dict[str, Any]) -> int:
    return _WORST_FIRST.index(row["outcome"])


def _row(
    host: str, reports: Mapping[str, dict[str, Any]], begun: Mapping[str, str], run: dict[str, Any]
) -> dict[str, Any]:
    if host in reports:
        return {"host": host, **{name: reports[host][name] for name in _KEPT}}
    row = {"host": host, "outcome": begun.get(host, NOT_BEGUN), "schema": "-", "window_seconds": None}
    if row["outcome"] == LOST:
        look = f"look first: ansible-playbook playbooks/status.yml -e env={run['env']}"
        return {**row, "state": "It was begun and could not be reached any more.", "next": look}
    return {**row, "state": "", "next": ""}


def _tally(rows: list[dict[str, Any]]) -> str:
    done = sum(row["outcome"] in (SUCCEEDED, NOTHING_TO_DO) for row in rows)
    return f"{done} of {count(len(rows), 'host')}"


def screen(combined: dict[str, Any]) -> str:
    """The table over all hosts."""
    rows = [["HOST", "OUTCOME", "SCHEMA", "WINDOW"], *(_cells(row) for row in combined["hosts"])]
    return "\n".join([labelled("HOSTS", f"{_tally(combined['hosts'])} done"), *columns(rows)])


def _cells(row: dict[str, Any]) -> list[str]:
    window = "-" if row["window_seconds"] is None else duration(row["window_seconds"])
    return [row["host"], _WORDS[row["outcome"]], row["schema"], window]


def markdown(combined: dict[str, Any]) -> str:
    """The report over all hosts for a ticket or a mail."""
    run = combined["run"]
    lines = [
        f"# {_WORDS[combined['outcome']]}: {run['env']}, {_tally(combined['hosts'])} done",
        "",
        cell(combined["state"]),
    ]
    lines += ["", f"run {run['id']} by {cell(run['operator'])} on {cell(run['origin'])}", ""]
    lines += ["| host | outcome | schema | window | report |", "|---|---|---|---|---|"]
    for row in combined["hosts"]:
        report = f"{row['host']}/report.md" if row["outcome"] in WORDS else "-"
        lines.append(f"| {' | '.join(cell(text) for text in [*_cells(row), report])} |")
    return "\n".join([*lines, ""])


def stopped_by(reports: Mapping[str, dict[str, Any]], begun: Mapping[str, str]) -> str | None:
    """Why no further host of this run is begun, or None: a host has not succeeded. begun: see ``combine``."""
    ended = {**begun, **{host: report["outcome"] for host, report in reports.items()}}
    for host, outcome in sorted(ended.items()):
        if outcome in _WORST_FIRST:
            return f"{host} of this run ended with {_WORDS[outcome]}, so no further host is begun"
    return None
