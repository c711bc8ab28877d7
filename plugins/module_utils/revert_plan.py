# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Plan the way down: which migrations are taken back, in which order, and with which text.

Pure: files come as heads of a bundle (dicts), the ledger's rows as dicts. A migration's text is the one in its file as
long as the file is the one that ran; else the text that was stored in the ledger when it was applied.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from ansible_collections.habitat.runbook.plugins.module_utils.command_line import command
from ansible_collections.habitat.runbook.plugins.module_utils.commands import needs_no_transaction, transaction_control
from ansible_collections.habitat.runbook.plugins.module_utils.comparison import Refusal
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import SqlError, split

FILE = "file"
LEDGER = "ledger"

_NUMBER = re.compile(r"[0-9]{1,100}")
_HASH_SHOWN = 8
_LISTED = 20
_SHOWN = 4
_GONE = "its file is gone"
_CHANGED = "its file was changed after it was applied"
# Times as to_jsonb writes them: the fraction has one to six digits, a timestamp without time zone no offset.
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?(?:Z|([+-])(\d\d)(?::?(\d\d))?(?::?(\d\d))?)?", re.ASCII
)


@dataclass(frozen=True)
class Revert:
    """One migration to take back: ``text`` is its SQL, which runs in one transaction.

    ``source`` is "file" or "ledger"; ``note`` says why it is the ledger's, else "". ``file`` is the path to show to
    people, or "the ledger"; ``line`` is the number of the text's first line there, the timeouts are
    those the file sets for itself. ``applied_at`` is ISO text as in the
    row, None where the ledger does not tell it.
    """

    version: str
    name: str
    applied_at: str | None
    text: str
    source: str
    note: str
    file: str
    line: int = 1
    lock_timeout: str | None = None
    statement_timeout: str | None = None


class _Unusable(Exception):
    """A migration that cannot be taken back; ``refusal`` says why."""

    def __init__(self, what: str, found: str, next: str) -> None:
        super().__init__(what)
        self.refusal = Refusal(what, found, next)


def plan_revert(
    heads: list[dict], rows: list[dict], progress: list[dict], to: str | None, steps: int | None, env: str
) -> tuple[list[Revert], list[Refusal]]:
    """What is taken back, newest application first; or nothing and everything that keeps it from being done.

    heads: as ``read_bundle`` yields them, of the files as they are now. rows: the ledger's, with ``down_sql`` (text or
    None). progress: as ``ledger.read_progress`` returns it. One of ``to`` (takes back what has a higher number; "0"
    everything above 0) and ``steps`` (takes back the newest n by the time they were applied) is given.
    """
    refusals = _refuse_rows(rows)
    if refusals:
        return [], refusals
    newest_first = sorted(rows, key=_age, reverse=True)
    refusals = _refuse_question(newest_first, to, steps)
    if refusals:
        return [], refusals
    # The newest rows are wanted: a partial migration may build on any of them, whatever its number is.
    limit = -1 if to is None else int(to)
    chosen = newest_first[:steps] if to is None else [row for row in newest_first if _number(row) > limit]
    refusals = [_refuse_partial(row, env) for row in _begun(progress, rows, limit)]
    files = {int(head["version"]): head for head in heads}
    reverts = []
    for row in chosen:
        try:
            reverts.append(_plan_one(row, files.get(_number(row)), env))
        except _Unusable as unusable:
            refusals.append(unusable.refusal)
    return ([], refusals) if refusals else (reverts, [])


def _number(row: dict) -> int:
    return int(str(row["version"]))


def _age(row: dict) -> tuple[datetime, int]:
    return _time(row.get("applied_at")), _number(row)


def _time(text: str | None) -> datetime:
    """A time of the ledger in UTC; what is unknown comes before everything, infinity behind everything."""
    found = _TIME.fullmatch(text or "")
    # The first and the last year are no real times, and arithmetic with them could leave the calendar.
    if not found or found[1][:4] in ("0000", "0001", "9999"):
        edge = datetime.max if (text or "").startswith(("infinity", "9999")) else datetime.min
        return edge.replace(tzinfo=timezone.utc)
    day, clock, fraction, sign, *offset = found.groups()
    hours, minutes, seconds = (int(part or 0) for part in offset)
    away = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    # Not fromisoformat alone: before Python 3.11 it takes fractions of three or six digits only.
    local = datetime.fromisoformat(f"{day}T{clock}.{(fraction or '').ljust(6, '0')}+00:00")
    return local + away if sign == "-" else local - away


def _refuse_rows(rows: list[dict]) -> list[Refusal]:
    """Refuse a ledger in which a version is no number, or the same number stands twice."""
    strange: list[str] = []
    seen: dict[int, str] = {}
    for version in (str(row["version"]) for row in rows):
        if not _NUMBER.fullmatch(version):
            strange.append(f'version "{version}" is no number')
        elif int(version) in seen:
            strange.append(f'versions "{seen[int(version)]}" and "{version}" are the same number')
        else:
            seen[int(version)] = version
    if not strange:
        return []
    found = "; ".join(strange[:3])
    return [Refusal("the ledger holds a version that cannot be used", found, "correct it in schema_migrations")]


def _refuse_question(newest_first: list[dict], to: str | None, steps: int | None) -> list[Refusal]:
    """Refuse a ``to`` that is not applied and ``steps`` that are not there."""
    known = sorted((str(row["version"]) for row in newest_first), key=int)
    if (to is None) == (steps is None):
        found = "neither to nor steps is given" if to is None else "both to and steps are given"
        return [Refusal("how far to go back is not clear", found, "add -e to=NN, or -e steps=N")]
    if to is not None and not _NUMBER.fullmatch(to):
        return [Refusal(f'to is "{to}"', f"a version is digits, such as {known[-1] if known else '05'}", "")]
    if to is not None and int(to) not in [0, *map(int, known)]:
        found = f"applied: {_listed(known)}"
        return [Refusal(f"migration {to} is not applied", found, "to=0 takes back everything")]
    if steps is not None and steps < 1:
        return [Refusal(f"steps is {steps}", "it is a number of migrations, 1 or more", "")]
    if steps is not None and steps > len(known):
        found = f"{len(known)} {'is' if len(known) == 1 else 'are'} applied: {_listed(known)}"
        return [Refusal(f"{steps} migrations cannot be taken back", found, "to=0 takes back everything")]
    return []


def _listed(versions: list[str]) -> str:
    if len(versions) > _LISTED:
        return f"{', '.join(versions[:3])}, ... {', '.join(versions[-3:])} ({len(versions)} in all)"
    return ", ".join(versions) or "none"


def _begun(progress: list[dict], rows: list[dict], limit: int) -> list[dict]:
    """Partial migrations above ``limit`` of which something ran, and which nobody recorded as applied since."""
    applied = {_number(row) for row in rows}
    begun = [row for row in progress if row["done"] and _number(row) not in applied]
    return [row for row in begun if _number(row) > limit]


def _refuse_partial(row: dict, env: str) -> Refusal:
    finish = f"finish it first: {command('migrate.yml', env, target=row['version'])}"
    return Refusal(
        f"migration {row['version']} is partial",
        f"{row['done']} of its {row['total']} statements ran, and a down section takes back a whole migration",
        f"{finish}; or {_restore(env)}",
    )


def _plan_one(row: dict, head: dict | None, env: str) -> Revert:
    version, stored = str(row["version"]), row.get("down_sql")
    name = (head or row).get("name") or ""
    applied_at = row.get("applied_at")
    if head and row.get("checksum") in (None, head["checksum"]):
        text = _text_of_file(version, head, env)
        down = head["down"]
        return Revert(
            version,
            name,
            applied_at,
            text,
            FILE,
            "",
            file=down.get("file") or head["file"],
            line=down.get("line") or 1,
            lock_timeout=head.get("lock_timeout"),
            statement_timeout=head.get("statement_timeout"),
        )
    if not stored:
        raise _nothing_stored(row, head, env)
    _check(f"the down text of {version} in the ledger", stored, f"{_bring_back(row, head)}, or {_restore(env)}")
    return Revert(
        version, row.get("name") or name, applied_at, stored, LEDGER, _CHANGED if head else _GONE, "the ledger"
    )


def _text_of_file(version: str, head: dict, env: str) -> str:
    state, reason, file = head["down"]["state"], head["down"]["reason"], head["file"]
    if state == "irreversible":
        raise _Unusable(f"{file} is declared irreversible", reason, _restore(env))
    correct = f"correct it (a down section may still change), or {_restore(env)}"
    if state == "none":
        add = f"add -- Down migration (a down section may still change), or {_restore(env)}"
        raise _Unusable(f"{file} cannot be taken back", reason, add)
    if state != "ok":
        raise _Unusable(f"the down section of {file} cannot be used", reason, correct)
    text = head["down"]["sql"]
    _check(f"the down section of {file}", text, correct)
    return text


def _check(what: str, text: str, next: str) -> None:
    """Raise _Unusable for a text that is no SQL, that is empty, or that cannot run inside of one transaction."""
    try:
        statements = list(split(text))
    except SqlError as error:
        raise _Unusable(f"{what} cannot be used", f"line {error.line}: {error.message}", next) from None
    if not statements:
        raise _Unusable(f"{what} cannot be used", "it holds no statement", next)
    for statement in statements:
        command = transaction_control(statement)
        if not command and needs_no_transaction(statement):
            words = statement.text.split()
            command = " ".join(words[:_SHOWN]) + (" ..." if len(words) > _SHOWN else "")
        if command:
            found = f"line {statement.line}: {command} cannot run in a transaction, and a down runs in one"
            raise _Unusable(f"{what} cannot be used", found, next)


def _nothing_stored(row: dict, head: dict | None, env: str) -> _Unusable:
    version, day = row["version"], _day(row.get("applied_at"))
    next = f"{_bring_back(row, head)}, or {_restore(env)}"
    if head:
        was, now = row["checksum"][:_HASH_SHOWN], head["checksum"][:_HASH_SHOWN]
        what = f"{head['file']} was changed after it was applied, and no down text was stored"
        found = f"applied {day} with sha256 {was}..., now {now}...: its down may not fit what ran"
        return _Unusable(what, found, next)
    name = f" as {version}_{row['name']}.sql" if row.get("name") else ""
    what = f"the file of migration {version} is gone, and no down text was stored"
    return _Unusable(what, f"applied {day}{name}", next)


def _bring_back(row: dict, head: dict | None) -> str:
    if head:
        return f"restore the file (git log -- {head['file']})"
    return f"bring the file back (git log --diff-filter=D -- 'schema/{row['version']}_*')"


def _restore(env: str) -> str:
    return f"restore the backup: {command('rollback.yml', env, backup='latest')}"


def _day(timestamp: str | None) -> str:
    return (timestamp or "at an unknown time")[:19].replace("T", " ")
