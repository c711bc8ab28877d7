# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""A run over several hosts: one report and one table over all of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.report_markdown import WORDS, cell
from ansible_collections.habitat.runbook.plugins.module_utils.screens import labelled
from ansible_collections.habitat.runbook.plugins.module_utils.table import columns, count, duration
from ansible_collections.habitat.runbook.plugins.module_utils.verdict import SUCCEEDED

NOT_BEGUN = "not_begun"
GOING_ON = "going_on"
NOTHING_TO_DO = "nothing_to_do"

_WORDS = {**WORDS, NOT_BEGUN: "not begun, untouched", GOING_ON: "going on", NOTHING_TO_DO: "nothing to do"}
_KEPT = ("outcome", "schema", "window_seconds", "state", "next")


def combine(reports: Mapping[str, dict[str, Any]], hosts: list[str], batch: list[str]) -> dict[str, Any]:
    """The report over all hosts, as far as the run has come.

    reports: by host, as ``report.build`` makes them, at least one; hosts: all of the environment in the run's order;
    batch: those that the run is at now. A host before them without a report had nothing to do. ``outcome`` is that of
    the first host that did not succeed.
    """
    first = next(host for host in hosts if host in reports)
    failed = [host for host in hosts if host in reports and reports[host]["outcome"] != SUCCEEDED]
    decisive = reports[failed[0] if failed else first]
    rows = [_row(host, reports.get(host), hosts, batch) for host in hosts]
    waiting = [row["host"] for row in rows if row["outcome"] == NOT_BEGUN]
    state = f"{failed[0]}: {decisive['state']}" if failed else f"{_tally(rows)} done."
    if waiting:
        state += f" Not begun and untouched: {', '.join(waiting)}."
    return {
        "format": decisive["format"],
        "run": decisive["run"],
        "outcome": decisive["outcome"],
        "schema": decisive["schema"],
        "state": state,
        "next": decisive["next"] if failed else "",
        "finished_at": max(report["finished_at"] for report in reports.values()),
        "hosts": rows,
    }


def _row(host: str, report: dict[str, Any] | None, hosts: list[str], batch: list[str]) -> dict[str, Any]:
    if report is not None:
        return {"host": host, **{name: report[name] for name in _KEPT}}
    place, begun = hosts.index(host), [hosts.index(one) for one in batch]
    outcome = GOING_ON if place in begun else NOTHING_TO_DO if place < min(begun) else NOT_BEGUN
    return {"host": host, "outcome": outcome, "schema": "-", "window_seconds": None, "state": "", "next": ""}


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


def stopped_by(reports: Mapping[str, dict[str, Any]]) -> str | None:
    """Why no further host of this run is begun, or None: a host has not succeeded."""
    for host, report in sorted(reports.items()):
        if report["outcome"] != SUCCEEDED:
            return f"{host} of this run ended with {_WORDS[report['outcome']]}, so no further host is begun"
    return None
