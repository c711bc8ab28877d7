# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The words of salvage.yml: what is compared, what was found, what was brought back. Data in, text out. Pure."""

from __future__ import annotations

from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.command_line import command
from ansible_collections.habitat.runbook.plugins.module_utils.screens import labelled
from ansible_collections.habitat.runbook.plugins.module_utils.table import (
    columns,
    count,
    duration,
    moment,
    printable,
    size,
)
from ansible_collections.habitat.runbook.plugins.module_utils.written_table import (
    number_text,
    numbers_right,
    rows_text,
)

_TABLES_SHOWN = 20
_KINDS, _FATES = ("insert", "update", "delete"), ("applied", "there", "left")


def salvage_plan(data: dict[str, Any]) -> str:
    """What is compared with what; data: kept, kept_size, backup, backup_size, taken_at."""
    lines = [
        labelled("SALVAGE", f"what {printable(data['kept'])} ({size(data['kept_size'])}) has and the backup has not"),
        f"  against backup {data['backup']} ({size(data['backup_size'])}, taken {moment(data['taken_at'])} UTC),",
        "  which is restored beside the live database for it and removed again",
    ]
    return "\n".join(lines)


def salvaged(data: dict[str, Any]) -> str:
    """What was found and where it is; data: as database_salvage returns it when it has written, and env, host,
    database, kept, given_backup (what was typed, or "") and importing (whether it is imported next)."""
    kept, took = printable(data["kept"]), duration(data["seconds"])
    found = {key: one for key, one in data["tables"].items() if any(one.values())}
    if data["file"] is None:
        what = f"nothing in {count(data['compared'], 'table')} that could be brought back   {took}"
        return "\n".join([labelled("FOUND", what), *_reported(data["reported"], kept)])
    total = sum(sum(one.values()) for one in found.values())
    lines = [labelled("FOUND", f"{rows_text(total)} to bring back in {count(len(found), 'table')}   {took}")]
    lines += _by_table(found, ("INSERT", "UPDATE", "DELETE"), _KINDS)
    if data["sequences"]:
        lines.append(f"  {count(data['sequences'], 'sequence')} to move on, never back")
    lines += _reported(data["reported"], kept)
    lines += [
        labelled("PROVED", "imported into the restored backup it makes the tables equal to those of"),
        f"  {kept} (rows and digests of every table with a key)",
        labelled("FILE", f"{printable(data['file'])}   {size(data['size'])}   sha256 {data['sha256'][:8]}..."),
    ]
    return "\n".join([*lines, *([] if data["importing"] else _next(data))])


def _next(data: dict[str, Any]) -> list[str]:
    typed = {"backup": data["given_backup"]} if data["given_backup"] else {}
    importing = {"kept": data["kept"], **typed, "import": "true"}
    return [
        labelled("NEXT", f"to bring it back into {printable(data['database'])}; rows changed since stay as they are:"),
        f"  {command('playbooks/salvage.yml', data['env'], **importing)}",
        f"  or, on {printable(data['host'])}: {printable(data['command'])}",
    ]


def _by_table(found: dict[str, dict[str, int]], titles: tuple[str, ...], keys: tuple[str, ...]) -> list[str]:
    """The numbers by table, those with the most rows first."""
    order = sorted(found, key=lambda key: (-sum(found[key].values()), key))
    rows = [["TABLE", *titles]]
    rows += [[printable(key), *(number_text(found[key][one]) for one in keys)] for key in order[:_TABLES_SHOWN]]
    lines = columns(numbers_right(rows, range(1, len(titles) + 1)), indent="    ") if found else []
    more = len(order) - _TABLES_SHOWN
    return [*lines, f"    and {count(more, 'more table')}"] if more > 0 else lines


def _reported(reported: list[dict[str, Any]], kept: str) -> list[str]:
    if not reported:
        return []
    lines = [f"  not among it, to be looked at in {kept}:"]
    lines += [f"    {_left_out(one)}" for one in reported[:_TABLES_SHOWN]]
    more = len(reported) - _TABLES_SHOWN
    return [*lines, f"    and {more} more"] if more > 0 else lines


def _left_out(one: dict[str, Any]) -> str:
    table, names = printable(one["table"]), printable(", ".join(one["columns"]))
    word = "column" if len(one["columns"]) == 1 else "columns"
    if one["what"] == "no_key":
        only = f"{rows_text(one['kept'])} only there, {number_text(one['base'])} only in the backup"
        return f"table {table} has no key: {only}"
    if one["what"] == "only_kept":
        return f"table {table} is not in the backup: {rows_text(one['kept'])}"
    if one["what"] == "only_base":
        return f"table {table} is in the backup only"
    if one["what"] == "new_columns":
        return f"{word} {names} of table {table}, not in the backup"
    return f"{word} {names} of table {table}, in the backup only"


def salvage_imported(data: dict[str, Any]) -> str:
    """What came back; data: as database_salvage returns it when it has imported, and database."""
    totals = {fate: sum(one[fate] for one in data["tables"].values()) for fate in _FATES}
    back = f"{number_text(totals['applied'])} of {rows_text(sum(totals.values()))}"
    there = f", {number_text(totals['there'])} had come back before" if totals["there"] else ""
    left = f", {number_text(totals['left'])} left alone" if totals["left"] else ""
    what = f"{back} brought back into {printable(data['database'])}{there}{left}   {duration(data['seconds'])}"
    lines = [labelled("IMPORT", what)]
    lines += _by_table(data["tables"], ("BROUGHT BACK", "THERE BEFORE", "LEFT ALONE"), _FATES)
    if data["sequences"]:
        lines.append(f"  {count(data['sequences'], 'sequence')} moved on")
    if data["left_file"]:
        lines.append("  left alone: changed, inserted or referred to in the live database since the rollback;")
        lines.append(f"  the statements, to be decided by you: {printable(data['left_file'])}")
    return "\n".join(lines)
