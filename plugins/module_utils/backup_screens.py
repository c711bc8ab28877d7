# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The words about what becomes of backups: copied, removed, tried out, and listed by status.yml. Pure."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils import screens
from ansible_collections.habitat.runbook.plugins.module_utils.choice import instant
from ansible_collections.habitat.runbook.plugins.module_utils.command_line import command
from ansible_collections.habitat.runbook.plugins.module_utils.screens import labelled, wrapped
from ansible_collections.habitat.runbook.plugins.module_utils.table import (
    columns,
    count,
    duration,
    moment,
    printable,
    size,
)
from ansible_collections.habitat.runbook.plugins.module_utils.written_table import rows_text

_LABEL = 10
_NAMED = 3
_LISTED = 5
_OLD_DAYS = 35
"""A drill is expected every month; a few days late is not worth a word."""


def backup_after(data: dict[str, Any]) -> str:
    """The backup after the migrations; data: as for screens.backup, or msg when there is none; env."""
    if "backup" in data:
        return screens.backup(data)
    again = command("playbooks/backup.yml", data["env"])
    return f"  warn  no backup after the migrations: {printable(data.get('msg') or 'it was cut off')}\n        {again}"


def copied(data: dict[str, Any]) -> str:
    """Where the backup was copied to; data: to, seconds and notes, or msg when it was not; neither in check mode."""
    if "seconds" in data:
        text = f"copied to {printable(data['to'])} and read back there   {duration(data['seconds'])}"
        return "\n".join([labelled("", text), *(f"  warn  {printable(note)}" for note in data["notes"])])
    return f"  warn  the backup was NOT copied: {printable(data['msg'])}" if data.get("msg") else ""


def retained(data: dict[str, Any]) -> str:
    """The old backups that were removed, nothing when none was; data: removed, finished, check, msg when it failed."""
    lines, gone = [], data.get("removed") or []
    if gone:
        ids = ", ".join(one["id"] for one in gone[:_NAMED])
        more = f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else ""
        would = "would be removed" if data["check"] else "removed"
        freed = size(sum(one["size"] or 0 for one in gone))
        lines.append(labelled("RETAIN", f"{count(len(gone), 'old backup')} {would} ({freed}): {ids}{more}"))
    if data.get("msg"):
        lines.append(f"  warn  old backups could not be removed: {printable(data['msg'])}")
    return "\n".join(lines)


def drill_begun(data: dict[str, Any]) -> str:
    """Which backup is tried out; data: backup, unusable."""
    one = data["backup"]
    text = (
        f"{one['id']}   {moment(one['taken_at'])} UTC   {size(one['size'])}   schema {one['ledger_version'] or 'empty'}"
    )
    lines = [labelled("DRILL", text)]
    if data["unusable"]:
        ids = ", ".join(data["unusable"][:_NAMED])
        lines.append(f"  warn  it is not the newest, {count(len(data['unusable']), 'newer one')} NOT usable: {ids}")
    return "\n".join(lines)


def drill(data: dict[str, Any]) -> str:
    """How it went; data: env, backup, older, restored (result of database_restore), removed (of database_copies)."""
    one, done, lines = data["backup"], data["restored"], []
    if "seconds" in done:
        numbers = f"{count(done['tables'], 'table')}, {rows_text(done['rows'])}, {size(done['size'])}"
        lines.append(labelled("RESTORE", f"{numbers}   {duration(done['seconds'])}   equal to the backup's snapshot"))
        lines += [f"  warn  not compared: {printable(text)}" for text in done["not_compared"]]
        before = one.get("restore_seconds")
        then = f" ({duration(before)} when it was taken)" if before is not None else ""
        result = labelled("RESULT", f"SUCCEEDED   {one['id']} can be restored, in {duration(done['seconds'])}{then}")
        lines.append(result)
    else:
        lines += [
            labelled("RESULT", f"FAILED   {one['id']} could NOT be restored"),
            *wrapped(drill_failure(data) or ""),
        ]
        lines.append(f"  take another one: {command('playbooks/backup.yml', data['env'])}")
        if data["older"]:
            lines.append(f"  try the one before: ansible-playbook playbooks/drill.yml -e backup={data['older']}")
    if data["removed"].get("msg"):
        lines.append(f"  warn  what was restored is still there: {printable(data['removed']['msg'])}")
    return "\n".join(lines)


def drill_failure(data: dict[str, Any]) -> str | None:
    """Why a drill failed; None for one that did not, and for the data of other screens."""
    if "restored" not in data or "older" not in data or "seconds" in data["restored"]:
        return None
    return str(data["restored"].get("msg") or "the step was ended from outside")


def listed(backups: list[dict[str, Any]]) -> list[str]:
    """The newest backups and how many more there are; backups: as database_backup_info lists them."""
    good, broken = ([one for one in backups if one["verified"] is wanted] for wanted in (True, False))
    lines = columns([_row(one) for one in good[:_LISTED]], indent=" " * _LABEL)
    more = [f"{len(good) - _LISTED} older ones"] if len(good) > _LISTED else []
    more += [f"{len(broken)} NOT usable: {', '.join(one['id'] for one in broken[:_NAMED])}"] if broken else []
    if more:
        lines.append(" " * _LABEL + "; ".join(more))
    return [labelled("BACKUPS", lines[0].strip()), *lines[1:]] if lines else [labelled("BACKUPS", "none")]


def _row(one: dict[str, Any]) -> list[str]:
    return [
        one["id"],
        f"{moment(one['taken_at'])} UTC",
        size(one["size"]),
        f"schema {one['ledger_version'] or 'empty'}",
        _proof(one),
        f"tagged {printable(one['tag'])}" if one.get("tag") else "",
    ]


def _proof(one: dict[str, Any]) -> str:
    seconds = one.get("restore_seconds")
    return f"verified, {f'restored in {duration(seconds)}' if seconds is not None else 'read back'}"


def last_drill(drill: dict[str, Any] | None, backups: list[dict[str, Any]], env: str, now: datetime) -> list[str]:
    """The last drill, and whether another one is due; drill: see drill.record, or None; now: with a time zone."""
    lines, due = [], ""
    if drill:
        how = f"restored in {duration(drill['seconds'])}" if drill["ok"] else "could NOT be restored"
        lines.append(labelled("DRILL", f"{drill['id']} {how}, {moment(drill['at'])} UTC by {_who(drill)}"))
        if not drill["ok"]:
            lines += wrapped(drill.get("error") or "")
        days = (now - instant(drill["at"])).days
        due = f"the last drill is {days} days old" if days > _OLD_DAYS else ""
    elif any(one["verified"] for one in backups) and not any(_restored(one) for one in backups):
        due = "no backup was ever restored here"
    if due and backups:
        lines.append(f"  warn  {due}: ansible-playbook playbooks/drill.yml -e env={env}")
    return lines


def _who(drill: dict[str, Any]) -> str:
    return printable(drill.get("operator") or "unknown")


def _restored(one: dict[str, Any]) -> bool:
    return bool(one["verified"]) and one.get("restore_seconds") is not None


def after_failed_drill(drill: dict[str, Any] | None, backups: list[dict[str, Any]], env: str) -> str:
    """What to type when the newest backup is one that could not be restored; "" when it is not."""
    newest = next((one["id"] for one in backups if one["verified"]), None)
    if not drill or drill["ok"] or drill["id"] != newest:
        return ""
    return f"the newest backup could not be restored, take another one: {command('playbooks/backup.yml', env)}"


def utc_now() -> datetime:
    """The time of the controller."""
    return datetime.now(timezone.utc)
