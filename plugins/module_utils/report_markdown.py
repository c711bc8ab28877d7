# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The report of a run as Markdown, for a ticket or a mail. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.screens import failure
from ansible_collections.habitat.runbook.plugins.module_utils.table import cell, count, duration, moment, size
from ansible_collections.habitat.runbook.plugins.module_utils.verdict import (
    NEEDS_OPERATOR,
    SWAP_DONE,
    SWAP_FAILED,
    SWAP_UNKNOWN,
)
from ansible_collections.habitat.runbook.plugins.module_utils.written_table import (
    UNKNOWN,
    doubts,
    number_text,
    rows_text,
)

WORDS = {
    "succeeded": "SUCCEEDED",
    "refused": "REFUSED",
    "stopped_safe": "STOPPED, SAFE",
    "needs_operator": "STOPPED, NEEDS YOU",
    "rolled_back": "ROLLED BACK",
}

_COUNTED = ("then", "now", "newer", "gone")


def markdown(report: dict[str, Any]) -> str:
    """The report for a ticket or a mail; report: see ``report.build``."""
    run = report["run"]
    lines = [
        f"# {WORDS[report['outcome']]}: {run['env']} / {cell(report['database'])}, schema {report['schema']}",
        "",
        cell(report["state"]),
        *_next(report["next"]),
        "",
        "| | |",
        "|---|---|",
        f"| run | {run['id']} |",
        f"| by | {cell(run['operator'])} on {cell(run['origin'])} |",
        f"| host | {cell(report['host'])} |",
        f"| finished | {moment(report['finished_at'])} UTC |",
        f"| window | {_window(report)} |",
        *([] if report["source"] else [f"| backup | {_backup(report)} |"]),
        *([f"| backup after it | {_of_backup(report['backup_after'])} |"] if report["backup_after"] else []),
        *_gone_back(report),
    ]
    lines += [*_migrations(report), *_losses(report), *_written(report)]
    if report["failure"]:
        lines += ["", "## What failed", "", "```", *failure(report["failure"]), "```"]
    elif report["failed_task"]:
        lines += ["", "## What failed", "", f"{cell(report['failed_task'])}: {cell(report['failed_message'])}"]
        lines += [f"- {cell(' '.join(filter(None, one.values())))}" for one in report["refusals"]]
    for name, written in report["logs"].items():
        lines += ["", f"## Log of {cell(name)}", "", *(f"    {line}" for line in written or ["(nothing)"])]
    if report["checks"] or not report["rollback"]:
        lines += ["", "## Preflight", "", *_checks(report)]
    return "\n".join([*lines, ""])


def _next(text: str) -> list[str]:
    """What to do next, in a fence: a command is copied from the file as often as from the rendered page."""
    return ["", "```", " ".join(text.split()), "```"] if text else []


def _window(report: dict[str, Any]) -> str:
    seconds = report["down_seconds"] if report["cut_off"] else report["window_seconds"]
    if report["cut_off"]:
        return f"the application did not answer for {duration(seconds)}" if seconds else "see above"
    if seconds is not None:
        return f"{duration(seconds)} from stop to healthy"
    still_open = report["outcome"] == NEEDS_OPERATOR and report["running"]
    return "still open" if still_open else "the services were not stopped"


def _backup(report: dict[str, Any]) -> str:
    copied = f", copied to {cell(report['copied_to'])} and read back there" if report["copied_to"] else ""
    return _of_backup(report["backup"]) + copied if report["backup"] else "none was taken"


def _of_backup(one: dict[str, Any]) -> str:
    seconds = one["restore_seconds"]
    proof = "read back whole" if seconds is None else f"restored and compared in {duration(seconds)}"
    return f"{one['id']}, {size(one['size'])}, {proof}, sha256 {one['sha256']}"


def _gone_back(report: dict[str, Any]) -> list[str]:
    source, kept, restored = report["source"], report["kept_as"], report["restored"]
    lines = []
    if source:
        taken = f", taken {moment(source['taken_at'])} UTC" if source["taken_at"] else ""
        verb = {SWAP_DONE: "went back to", SWAP_UNKNOWN: "may have gone back to"}.get(
            report["swap"], "was to go back to"
        )
        lines.append(f"| {verb} | {cell(source['id'])}{taken} |")
    if report["adopts"]:
        lines.append(f"| {_adopted(report)} |")
    if restored:
        what = f"{count(restored['tables'], 'table')}, {rows_text(restored['rows'])}, {size(restored['size'])}"
        but = f", but for this: {cell('; '.join(restored['not_compared']))}" if restored["not_compared"] else ""
        lines.append(f"| restored | {what} in {duration(restored['seconds'])}, compared and equal{but} |")
    if report["restore_point"]:
        lines.append(f"| restore point | {_restore_point(report)} |")
    return lines + ([f"| database before | kept as {cell(kept)} |"] if kept else [])


def _adopted(report: dict[str, Any]) -> str:
    one = report["adopts"]
    verb = {SWAP_DONE: "ADOPTED", SWAP_UNKNOWN: "perhaps adopted"}.get(report["swap"], "not adopted")
    return f"{verb} | from {cell(one['from'])} into {cell(one['to'])}: {cell(one['reason'])}"


def _restore_point(report: dict[str, Any]) -> str:
    one = report["restore_point"]
    if not one["name"]:
        return f"none could be taken: {cell(one['reason'])}"
    undone = ", NOT put back" if report["swap"] == SWAP_FAILED else _put_back(report)
    return f"{cell(one['name'])}, taken in {duration(one['seconds'])}{undone}"


def _put_back(report: dict[str, Any]) -> str:
    """What to add to a migration that ran before the restore point was put back."""
    if not report["put_back"]:
        return ""
    return {SWAP_DONE: ", put back", SWAP_UNKNOWN: ", perhaps put back"}.get(report["swap"], "")


def _losses(report: dict[str, Any]) -> list[str]:
    """What went with the migrations that were taken back, or would have gone."""
    gone = [one["version"] for one in report["reverted"] or []]
    losses = [one for one in report["losses"] if not gone or one["version"] in gone]
    lines = [
        f"- {one['version']}: {cell(one['what'])}: "
        + (
            "not known how many rows"
            if one["rows"] is None
            else f"{'about ' * one['estimated']}{rows_text(one['rows'])}"
        )
        for one in losses
    ]
    title = "## What went with them" if gone else "## What would go with them"
    return ["", title, "", *lines] if lines else []


def _written(report: dict[str, Any]) -> list[str]:
    """Rows that stay behind, and where."""
    source, written, kept = report["source"], report["written"], report["kept_as"]
    if not source:
        return _written_meanwhile(report) if kept else []
    stay = f"They stay in {cell(kept)}. " if kept else ""
    lines = ["", f"## Rows that are not in the {source['kind']}", ""]
    if written is None:
        return [*lines, f"{stay}How many there are is not known."]
    if not written["tables"]:
        return [*lines, "No row was written, changed or deleted since."]
    now = "rows in the kept database" if kept else "rows now"
    lines += [f"{stay}What migrations wrote is counted, too.", ""]
    lines += [f"| table | rows in the backup | {now} | new or changed | changed or deleted |", "|---|---|---|---|---|"]
    for one in written["tables"]:
        cells = [cell(one["table"]), *("-" if one[key] is None else number_text(one[key]) for key in _COUNTED)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines + [text for line in doubts(written) for text in ("", line.strip())]


def _written_meanwhile(report: dict[str, Any]) -> list[str]:
    """Rows of services that had been started on what was then put back; when a migration failed, none had been."""
    written, kept = report["written"], cell(report["kept_as"])
    if report["failure"]:
        return []
    lines = ["", "## Rows written before it was put back", ""]
    if not written:
        return [*lines, f"How many there are is not known; if there are any, they are in {kept} only."]
    if not written["tables"]:
        return [*lines, "No row was written."]
    lines += [
        f"They are in {kept} only. What was deleted meanwhile is not counted.",
        "",
        "| table | rows |",
        "|---|---|",
    ]
    for one in written["tables"]:
        lines.append(f"| {cell(one['table'])} | {UNKNOWN if one['newer'] is None else number_text(one['newer'])} |")
    return lines + [text for line in doubts(written) for text in ("", line.strip())]


def _migrations(report: dict[str, Any]) -> list[str]:
    rows = [*_up(report), *_down(report), *_with_the_database(report)]
    if not rows and report["rollback"]:
        return ["", "## Migrations", "", "No migration goes or comes back."] if report["source"] else []
    lines = ["", "## Migrations", "", "| version | name | state | took |", "|---|---|---|---|"]
    lines += [f"| {one['version']} | {cell(one['name'] or '-')} | {state} | {took} |" for one, state, took in rows]
    return lines + [text for line in report["remarks"] for text in ("", f"note: {cell(line)}")]


def _up(report: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    done = {one["version"]: one for one in report["applied"] or []}
    undone = _put_back(report)
    for one in report["plan"] or []:
        version = one["version"]
        if version in done:
            yield one, f"applied{undone}", duration(done[version]["duration_ms"] / 1000)
        elif _says_nothing(report):
            yield one, "see above", "-"
        else:
            yield one, _not_applied(version, report["failure"], undone), "-"


def _says_nothing(report: dict[str, Any]) -> bool:
    """Whether the step that was to change the schema was ended before it could say what it did."""
    return report["cut_off"] and not report["failure"]


def _down(report: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    gone = {one["version"]: one for one in report["reverted"] or []}
    found = report["failure"]
    for one in report["reverts"]:
        version = one["version"]
        if version in gone:
            stored = "" if gone[version]["source"] == "file" else " by the text kept in the ledger"
            yield one, f"taken back{stored}", duration(gone[version]["duration_ms"] / 1000)
        elif found and found["version"] == version:
            yield one, "not known" if found["state"] == "unknown" else "failed, still applied", "-"
        elif _says_nothing(report):
            yield one, "see above", "-"
        else:
            yield one, "still applied", "-"


def _with_the_database(report: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Migrations that go or come back because another database is put in this one's place."""
    words = {SWAP_DONE: ("no longer applied", "applied again"), SWAP_UNKNOWN: ("not known", "not known")}
    gone, back = words.get(report["swap"], ("still applied", "not applied"))
    for one in report["removed"]:
        yield one, gone, "-"
    for one in report["returning"]:
        yield one, back, "-"


def _not_applied(version: str, found: dict[str, Any] | None, undone: str) -> str:
    if not found or found["version"] != version:
        return "not applied"
    if found["state"] == "partial":
        return f"partial {found['done']}/{found['total']}{undone}"
    return "not known" if found["state"] == "unknown" else "failed, rolled back"


def _checks(report: dict[str, Any]) -> list[str]:
    return [f"- {check['state']}: {cell(check['text'])}" for check in report["checks"] or []] or [
        "- nothing was checked"
    ]
