# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""What a migration says about itself: ``-- migrate: key=value key="quoted value"``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

_PAIR = re.compile(r'([^\s="]+)=("[^"]*"|[^\s"]+)(?=\s|$)')
_DURATION = re.compile(r"(?P<number>[0-9]+)(?P<unit>ms|s|min|h|d)|0")
_MILLISECONDS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
# GUC_UNIT_MS settings are 32-bit signed integers in PostgreSQL.
_LONGEST = 2**31 - 1
KEYS = ("transaction", "irreversible", "lock_timeout", "statement_timeout")


@dataclass
class Directives:
    """The settings of one migration; ``problems`` holds what is wrong with them as (line, message)."""

    transaction: bool | None = None
    irreversible: str | None = None
    lock_timeout: str | None = None
    statement_timeout: str | None = None
    problems: list[tuple[int, str]] = field(default_factory=list)


def read_directives(lines: Iterable[tuple[int, str]]) -> Directives:
    """Read the texts behind ``-- migrate:``, each given with its line number."""
    found = Directives()
    for line, text in lines:
        for problem in _read_line(found, text):
            found.problems.append((line, problem))
    return found


def _read_line(found: Directives, text: str) -> Iterable[str]:
    rest = " ".join(_PAIR.sub("", text).split())
    if rest or not text:
        what = f'cannot read "{rest}" in' if rest else "nothing stands behind"
        yield f"{what} -- migrate:; write key=value, a value with blanks in double quotes; {_known()}"
    for key, value in _PAIR.findall(text):
        quoted = value.startswith('"')
        problem = _set(found, key, value.strip('"'), quoted)
        if problem:
            yield problem


def _known() -> str:
    return "the keys are " + ", ".join(KEYS)


def _set(found: Directives, key: str, value: str, quoted: bool) -> str:
    """Store one setting; what is wrong with it, or "" when nothing is."""
    if key not in KEYS:
        return f'unknown key "{key}" in -- migrate:; {_known()}'
    if getattr(found, key) is not None:
        return f"{key} is set twice; keep one of the two"
    if key == "transaction":
        if value not in ("true", "false"):
            return f'transaction must be true or false, not "{value}"'
        found.transaction = value == "true"
    elif key == "irreversible":
        if not value.strip() or (not quoted and value.lower() in ("true", "false", "yes", "no", "on", "off", "1", "0")):
            return 'irreversible needs the reason, such as irreversible="the old addresses are gone"'
        found.irreversible = value
    else:
        if not _is_duration(value):
            return f'{key} must be a duration such as 0, 500ms, 5s, 10min, 1h (24 days at most), not "{value}"'
        setattr(found, key, value)
    return ""


def _is_duration(text: str) -> bool:
    match = _DURATION.fullmatch(text)
    return bool(match and int(match["number"] or 0) * _MILLISECONDS[match["unit"] or "ms"] <= _LONGEST)
