# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which backup is meant by what stands behind ``-e backup=``. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils.inputs import RUN_ID, Refused, plain
from ansible_collections.habitat.runbook.plugins.module_utils.table import moment, printable

LATEST = "latest"
"""The word for the newest verified backup from before the last run that committed something."""

_ID = re.compile(rf"(?P<env>[a-z][a-z0-9_-]{{0,30}})-{RUN_ID.pattern}")
_COPY = re.compile(rf".+_(before|point)_{RUN_ID.pattern}")
# The name the founding runbook gives its dumps, which operators know without their folder and ending, too.
_FOUNDING = re.compile(r"pre-migration-[0-9]{8}-[0-9]{6}")
# Any other dump is told from a slip of the fingers by its ending; the same letters as manifest.find_backup takes.
_FILE = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]{0,80})\.(dump|json)")
_LONGEST_PATH = 4096  # bytes: PATH_MAX of Linux
_LONGEST_DATABASE = 63  # bytes: PostgreSQL's NAMEDATALEN - 1
_EXPECTED = "expected a backup's id such as staging-20261122t100211z-k3f, its file, a kept copy's name, or latest"
_SEE = "leave -e backup= out to see what there is"
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.](\d{1,6})\d*)?(?:Z|([+-])(\d\d)(?::?(\d\d)(?::?(\d\d))?)?)?"
)
_SHOWN = 3


def reduce_backup(text: str) -> str:
    """The backup's id, ``latest``, or the name of a copy kept inside the server.

    Of a file's path only the name counts, without its ending: backups are looked up in the environment's own folder.
    Raises Refused for everything else.
    """
    if not text.strip():
        raise Refused("backup is empty", _EXPECTED, _SEE)
    if not text.isprintable():
        raise Refused(f'backup is "{plain(text)}"', "it has control characters in it", _EXPECTED)
    if text.startswith("-"):
        raise Refused(f'backup is "{plain(text)}"', "it begins as an option of a program does", _EXPECTED)
    if len(text.encode()) > _LONGEST_PATH:
        raise Refused(f'backup is "{plain(text)}"', f"it is {len(text)} characters long", _EXPECTED)
    name = _reduced(text)
    if name is None:
        raise Refused(f'backup is "{plain(text)}"', _EXPECTED, _SEE)
    return name


def _reduced(text: str) -> str | None:
    # Before anything is cut off: a database may have a slash in its name.
    if text == LATEST or (_COPY.fullmatch(text) and len(text.encode()) <= _LONGEST_DATABASE):
        return text
    name = text.rsplit("/", 1)[-1]
    file = _FILE.fullmatch(name)
    if file:
        return file["name"]
    return name if _ID.fullmatch(name) or _FOUNDING.fullmatch(name) else None


def environment_of(reduced: str) -> str | None:
    """The environment a backup's id names; None for ``latest``, a copy, or a dump that was named by hand."""
    found = _ID.fullmatch(reduced)
    return found["env"] if found else None


def instant(timestamp: str) -> datetime:
    """An ISO 8601 time with its zone, as the database and the manifests write it; UTC where it names none.

    Raises ValueError for a text of another form. (datetime.fromisoformat of Python 3.9 and 3.10 reads neither a Z nor
    a fraction that PostgreSQL has cut.)
    """
    found = _TIME.fullmatch(timestamp)
    if not found:
        raise ValueError(f"{timestamp!r} is no ISO 8601 time")
    day, time, fraction, sign, *zone = found.groups()
    hours, minutes, seconds = (int(part or 0) for part in zone)
    offset = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    when = datetime.fromisoformat(f"{day}T{time}.{(fraction or '').ljust(6, '0')}")
    return when.replace(tzinfo=timezone(-offset if sign == "-" else offset))


def latest(backups: list[dict[str, Any]], last_commit: str | None) -> dict[str, Any]:
    """The newest verified backup from before the last run that committed something.

    backups: fields of manifest.Backup. last_commit: when that run committed its first thing, None when no run ever did;
    then it is the newest verified backup. Raises Refused when there is no such backup, telling why each is none.
    """
    limit = None if last_commit is None else instant(last_commit)
    good = [one for one in backups if one["verified"] and (limit is None or instant(one["taken_at"]) < limit)]
    if good:
        return max(good, key=lambda one: (instant(one["taken_at"]), one["id"]))
    if not backups:
        raise Refused("there is no backup that could be the latest", "there is no backup at all", "")
    what = "no backup is verified"
    if limit is not None:
        what = "no verified backup is from before the last run that committed something"
    shown = [f"{plain(one['id'])}: {_why_not(one, last_commit)}" for one in backups[:_SHOWN]]
    more = [f"and {len(backups) - _SHOWN} more"] if len(backups) > _SHOWN else []
    late = [one["id"] for one in backups if one["verified"]]
    way = f"name one by its id if you mean it: -e backup={late[0]}" if late else "repair or replace what is missing"
    raise Refused(what, "; ".join([*shown, *more]), way)


def _why_not(one: dict[str, Any], last_commit: str | None) -> str:
    if not one["verified"]:
        return printable(", ".join(one["problems"])) or "it is not verified"
    return f"taken {moment(one['taken_at'])}, after that run's first commit at {moment(last_commit)} UTC"
