# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""The words of rollback.yml: what can be chosen, what a rollback will do, what it did. Data in, text out. Pure.

``written`` in the data is row_versions.Written as a dict, or None where nobody could count.
"""

from __future__ import annotations

import shlex
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.adoption import announced
from ansible_collections.habitat.runbook.plugins.module_utils.choice import instant
from ansible_collections.habitat.runbook.plugins.module_utils.command_line import CONFIRMED, command
from ansible_collections.habitat.runbook.plugins.module_utils.losses import would_lose
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import quoted
from ansible_collections.habitat.runbook.plugins.module_utils.screens import header, labelled, refusal
from ansible_collections.habitat.runbook.plugins.module_utils.table import (
    columns,
    count,
    duration,
    moment,
    printable,
    size,
)
from ansible_collections.habitat.runbook.plugins.module_utils.written_table import (
    UNKNOWN,
    by_table,
    doubts,
    number_text,
    numbers_right,
    rows_text,
    written_cell,
)

_PROBLEMS_SHOWN = 3
_COMPARED = ": rows, digests, sequences, large objects, extensions, versions and schema"
_TWO_DAYS = 48 * 3600
_DAY = 24 * 3600
_LEDGER = "the ledger"  # revert_plan.Revert.file of a text that is kept there
_MEANING = {
    "before": "as it was before a rollback",
    "point": "restore point before a migration",
    "restore": "left over from an unfinished rollback",
}


def choices(data: dict[str, Any]) -> str:
    """What can be gone back to, and the commands for it.

    data: env, database, now (seconds since the epoch); backups, newest first: id, taken_at, size, ledger_version,
    verified, problems, restore_seconds, written (exact, rows or None, and uncertain and uncounted where known); copies:
    name, kind, run_id, size, version or None; reversible, newest first: version, name.
    """
    backups, copies = data["backups"], data["copies"]
    kept = f"{len(copies)} {'copy' if len(copies) == 1 else 'copies'} kept inside the server"
    lines = [f"{data['env']} / {printable(data['database'])}   {count(len(backups), 'backup')}, {kept}"]
    if backups:
        lines.append(labelled("BACKUPS", "newest first"))
        lines += columns(numbers_right(_backup_rows(backups, data["now"]), (2, 5)))
        lines += [_unusable(one) for one in backups if not one["verified"]]
        if any(one["written"] and not one["written"]["exact"] for one in backups):
            lines.append("  about: of another database or of before a restore; its tables were compared by digest")
    else:
        lines += [
            labelled("BACKUPS", "none; take one:"),
            f"  {command('playbooks/backup.yml', data['env'])}",
        ]
    if copies:
        rows = [["NAME", "SIZE", "SCHEMA", "WHAT IT IS"]]
        rows += [
            [printable(one["name"]), size(one["size"]), one["version"] or "-", _MEANING[one["kind"]]] for one in copies
        ]
        lines += [labelled("COPIES", "kept inside the server"), *columns(numbers_right(rows, (1,)))]
    return "\n".join([*lines, *_next(data), "  nothing was chosen, so nothing was done"])


def _backup_rows(backups: list[dict[str, Any]], now: float) -> list[list[str]]:
    rows = [["ID", "TAKEN (UTC)", "SIZE", "SCHEMA", "VERIFIED", "ROWS WRITTEN SINCE"]]
    for one in backups:
        taken = f"{moment(one['taken_at'])}, {_ago(one['taken_at'], now)}" if one["taken_at"] else "-"
        length = "-" if one["size"] is None else size(one["size"])
        schema = one["ledger_version"] or "-"
        rows.append([printable(one["id"]), taken, length, schema, _verified(one), written_cell(one["written"])])
    return rows


def _verified(one: dict[str, Any]) -> str:
    if not one["verified"]:
        return "NO"
    seconds = one["restore_seconds"]
    return "read" if seconds is None else f"restored, {duration(seconds)}"


def _ago(taken_at: str, now: float) -> str:
    seconds = now - instant(taken_at).timestamp()
    if seconds < 1:
        return "just now"
    return f"{duration(seconds) if seconds < _TWO_DAYS else f'{seconds // _DAY:.0f} days'} ago"


def _unusable(one: dict[str, Any]) -> str:
    problems = printable("; ".join(one["problems"][:_PROBLEMS_SHOWN])) or "it was not verified"
    return f"  warn  {printable(one['id'])} cannot be used: {problems}"


def _next(data: dict[str, Any]) -> list[str]:
    env, lines = data["env"], []
    verified = [one for one in data["backups"] if one["verified"]]
    if verified:
        schema = _schema(verified[0]["ledger_version"])
        lines += [f"to restore the newest verified backup ({schema}):", _rollback(env, backup=verified[0]["id"])]
    usable = [one for one in data["copies"] if one["kind"] != "restore" and one["name"].isprintable()]
    if usable:
        lines += ["to go back to the newest kept copy:", _rollback(env, env=env, backup=usable[0]["name"])]
    if data["reversible"]:
        newest, *before = data["reversible"]
        lines.append(f"to take {_named(newest)} back by its down section:")
        lines.append(_rollback(env, env=env, to=before[0]["version"] if before else "0"))
        lines.append(f"{_rollback(env, env=env, steps='1')}   (the same)")
    return [labelled("NEXT", "type one of these"), *(f"  {line}" for line in lines)] if lines else []


def _rollback(env: str, /, **inputs: str) -> str:
    given = [f"-e {name}={shlex.quote(printable(text))}" for name, text in inputs.items()]
    return _command(env, "rollback.yml", *given)


def _command(env: str, playbook: str, *inputs: str) -> str:
    confirmed = [f"-e confirm={env}"] if env == CONFIRMED else []
    return f"  ansible-playbook {' '.join([playbook, *inputs, *confirmed])}"


def rollback_plan(data: dict[str, Any]) -> str:
    """What going back to a backup or a kept copy will do, and what happens when it fails.

    data: run, database, host, server as for screens.header; source (kind "backup" or "copy", id, taken_at or None,
    size, ledger_version), adopts (see adoption.adoption), current, removed and returning (version, name), written,
    settings (lines), kept_as, running, notes (lines about what is odd).
    """
    source, backup = data["source"], data["source"]["kind"] == "backup"
    taken = f", taken {moment(source['taken_at'])} UTC" if source["taken_at"] else ""
    what = f"{source['kind']} {printable(source['id'])} ({size(source['size'])}{taken})"
    way = f"schema {data['current'] or 'empty'} -> {source['ledger_version'] or 'empty'}"
    lines = [header(data), labelled("ROLLBACK", f"{way}, from {what}")]
    lines += announced(data["adopts"], data["run"]["operator"]) if data["adopts"] else []
    lines += [
        f"  {words}: {', '.join(_named(one) for one in data[key])}"
        for key, words in (("removed", "migrations that go"), ("returning", "migrations that come back"))
        if data[key]
    ]
    lines += _written_lines(data["written"], source["kind"], data["kept_as"])
    if data["settings"]:
        lines.append("  settings of the database that will be those of the backup:")
        lines += [f"    {printable(line)}" for line in data["settings"]]
    lines += [f"  warn  {printable(line)}" for line in data["notes"]]
    running = f"{', '.join(data['running'])}" if data["running"] else "none is running"
    lines.append(f"  services to stop: {running}")
    if backup:
        lines.append(f"  it is restored and compared beside the live database before the services stop{_took(source)}")
    lines.append("  if it fails: any failure before the swap leaves the database as it is")
    lines.append(f"  after the swap: the former database is kept as {printable(data['kept_as'])}, nothing is dropped")
    return "\n".join(lines)


def _took(source: dict[str, Any]) -> str:
    seconds = source["restore_seconds"]
    return "" if seconds is None else f"; that took {duration(seconds)} when it was taken"


def _named(one: dict[str, Any]) -> str:
    return f"{one['version']} {printable(one['name'] or '')}".rstrip()


def _written_lines(written: dict[str, Any] | None, kind: str, kept_as: str) -> list[str]:
    if written is None:
        return [
            f"  how many rows were written since the {kind} is not known;",
            f"  they will not be in the restored database but stay in {printable(kept_as)}",
        ]
    if not written["tables"]:
        return [f"  no row was written, changed or deleted since the {kind}"]
    lines = [f"  {_sentence(written, kind)}", *by_table(written)]
    lines += doubts(written)
    lines.append(f"  what migrations wrote is counted, too; all of it stays in {printable(kept_as)}")
    return lines


def _sentence(written: dict[str, Any], kind: str) -> str:
    if not written["exact"]:
        return f"these tables are not as in the {kind}, which is of another database or of before a restore:"
    if not written["rows"]:
        return f"no new row is known, but rows of the {kind} are gone or tables could not be counted:"
    was = "was" if written["rows"] == 1 else "were"
    return f"{rows_text(written['rows'])} {was} written since the {kind} and will not be in the restored database:"


def restored(data: dict[str, Any]) -> str:
    """The restored copy; data: seconds, tables, rows, size (bytes), not_compared (lines)."""
    numbers = f"{count(data['tables'], 'table')}, {rows_text(data['rows'])}, {size(data['size'])}"
    equal = f"equal to the backup's snapshot{', but for this:' if data['not_compared'] else _COMPARED}"
    lines = [labelled("RESTORE", f"{numbers}   {duration(data['seconds'])}"), f"  {equal}"]
    return "\n".join([*lines, *(f"  warn  {printable(text)}" for text in data["not_compared"])])


def swapped(data: dict[str, Any]) -> str:
    """The databases have changed names; data: database, kept_as, seconds, sessions_ended."""
    ended = data["sessions_ended"]
    told = f"{count(ended, 'session')} {'was' if ended == 1 else 'were'} ended" if ended else "no session was ended"
    name, kept = printable(data["database"]), printable(data["kept_as"])
    what = f"{name} is what was put back now   {duration(data['seconds'])}   {told}"
    return "\n".join([labelled("SWAP", what), f"  the former one is kept as {kept}"])


def left_out(data: dict[str, Any]) -> str:
    """What only the kept database holds, counted after the swap; data: kept_as, written, and env where a backup was
    put back."""
    written, kept = data["written"], printable(data["kept_as"])
    if written is None:
        return labelled("LEFT OUT", f"could not be counted; whatever was written since is in {kept}")
    if not written["tables"]:
        return labelled("LEFT OUT", f"nothing: {kept} holds no row that is not in the restored database")
    if not written["exact"]:
        lines = [labelled("LEFT OUT", f"these tables of {kept} are not as in the restored database:")]
    elif written["rows"]:
        verb = "is" if written["rows"] == 1 else "are"
        lines = [labelled("LEFT OUT", f"{rows_text(written['rows'])} {verb} in {kept} only:")]
    else:
        lines = [labelled("LEFT OUT", f"no new row is known, but {kept} differs in these tables:")]
    lines += [*by_table(written, ("ROWS RESTORED", "ROWS KEPT")), *doubts(written)]
    lines.append(f"  to look at them: psql -d {shlex.quote(kept)}")
    if data.get("env"):
        lines += ["  to bring them back:", f"  {command('playbooks/salvage.yml', data['env'], kept=kept)}"]
    lines.append(f"  when nobody needs it any more: DROP DATABASE {quoted(kept)};")
    return "\n".join(lines)


def version(data: dict[str, Any]) -> str:
    """The newest row of schema_migrations; data: version (None: there is no row), name and applied_at (or None)."""
    if data["version"] is None:
        return labelled("VERIFY", "the schema is empty: no row in schema_migrations")
    name = f" {printable(data['name'])}" if data["name"] else ""
    applied = f", applied {moment(data['applied_at'])} UTC" if data["applied_at"] else ""
    return labelled("VERIFY", f"schema_migrations is at {printable(data['version'])}{name}{applied}")


def revert_plan(data: dict[str, Any]) -> str:
    """What down migrations will do, or the refusal when rows would go and nobody has accepted that.

    data: run, database, host, server as for screens.header; current, planned_version or None (empty); reverts (version,
    name, source, note, statements) in their order; losses (loss_counts.count_losses, and file); accepted; running.
    """
    reverts = data["reverts"]
    if not reverts:
        return "\n".join([header(data), labelled("REVERT", f"nothing to take back, {_schema(data['current'])}")])
    way = f"schema {data['current'] or 'empty'} -> {data['planned_version'] or 'empty'}"
    rows = [["VERSION", "NAME", "STATEMENTS", "DOWN SECTION OF"]]
    rows += [[one["version"], printable(one["name"]), str(one["statements"]), _source(one)] for one in reverts]
    lines = [header(data), labelled("REVERT", f"{count(len(reverts), 'migration')}, {way}"), *columns(rows)]
    if data["losses"]:
        lines.append("  what will be dropped or changed:")
        table = [["WHAT", "ROWS", "WHERE"]]
        table += [[printable(one["what"]), _lost(one), _where(one)] for one in data["losses"]]
        lines += columns(numbers_right(table, (1,)), indent="    ")
    else:
        lines.append("  no row will be dropped or changed")
    lines.append(f"  services to stop: {', '.join(data['running']) or 'none is running'}")
    lines.append("  if one fails: PostgreSQL rolls it back, those before it stay reverted, the rest is not tried")
    if would_lose(data["losses"]) and not data["accepted"]:
        lines.append(_would_lose(data))
    return "\n".join(lines)


def _source(one: dict[str, Any]) -> str:
    text = "its file" if one["source"] == "file" else "the ledger"
    return f"{text}: {printable(one['note'])}" if one["note"] else text


def _where(one: dict[str, Any]) -> str:
    comma = ", line " if one["file"] == _LEDGER else ":"
    return f"{printable(one['file'])}{comma}{one['line']}"


def _lost(one: dict[str, Any]) -> str:
    if one["rows"] is None:
        return printable(one.get("note") or "") or UNKNOWN
    return f"about {number_text(one['rows'])}" if one["estimated"] else number_text(one["rows"])


def _would_lose(data: dict[str, Any]) -> str:
    gone = [one for one in data["losses"] if one["rows"] is None or one["rows"] > 0]
    first = gone[0]
    unit = "" if first["rows"] is None else " row" if first["rows"] == 1 else " rows"
    more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
    instead = _rollback(data["run"]["env"], env=data["run"]["env"], backup="latest").strip()
    return refusal(
        "the down migrations would drop or change rows",
        f"{printable(first['what'])} ({_lost(first)}{unit}){more}",
        f"add -e accept_data_loss=true\n  or restore the backup instead: {instead}",
    )


def reverted(data: dict[str, Any]) -> str:
    """What was taken back; data: reverted (version, name, duration_ms, source), remarks (lines)."""
    rows = []
    for one in data["reverted"]:
        stored = "" if one["source"] == "file" else ", by the text kept in the ledger"
        took = f"taken back in {duration(one['duration_ms'] / 1000)}{stored}"
        rows.append([one["version"], printable(one["name"]), took])
    lines = columns(rows, indent=" " * len(labelled("", "")))
    head = labelled("REVERT", lines[0].strip() if lines else "nothing was taken back")
    return "\n".join([head, *lines[1:], *(f"  note  {printable(line)}" for line in data["remarks"])])


def _schema(version: str | None) -> str:
    return f"schema {version}" if version else "the empty schema"
