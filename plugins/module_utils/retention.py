# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Which backups stay and which may go, each with the reason. Pure.

Only verified ones of one environment and database are counted and removed. What is not usable is never removed: nobody
but a person can say whether something can still be got out of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ansible_collections.habitat.runbook.plugins.module_utils.choice import instant
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import Backup


@dataclass(frozen=True)
class Choice:
    """What becomes of a backup, and why; ``size`` in bytes, None when a broken manifest does not tell it."""

    id: str
    keep: bool
    reason: str
    size: int | None = None


def is_of(one: Backup, environment: str, database: str) -> bool:
    """Whether a backup is of this environment and database; of one whose manifest is broken its id tells the former."""
    if one.environment is None or one.database is None:
        return one.id.rsplit("-", 2)[0] == environment
    return (one.environment, one.database) == (environment, database)


def decide(
    backups: Iterable[Backup],
    keep: int,
    referred: Mapping[str, str],
    last_commit: str | None = None,
    taken: str | None = None,
) -> list[Choice]:
    """What becomes of each of these backups, newest first, those that are not usable last.

    backups: of one environment and database. keep: how many of the newest verified ones stay whatever refers to them;
    0 keeps all. referred: ids that something needs, each with what that is. last_commit: when the last run that
    committed something did so first (ISO 8601). taken: id of the one that was taken just now.
    """
    known = list(backups)
    good = sorted((one for one in known if one.verified), key=_age, reverse=True)
    needed = dict(referred)
    for one in good:
        if last_commit is not None and instant(one.taken_at or "") < instant(last_commit):
            needed.setdefault(one.id, "the newest from before the last run that committed something (backup=latest)")
            break
    choices = [_choose(one, number, keep, needed, taken) for number, one in enumerate(good)]
    broken = [one for one in known if not one.verified]
    return choices + [Choice(one.id, True, f"not usable: {'; '.join(one.problems)}", one.size) for one in broken]


def _choose(one: Backup, number: int, keep: int, needed: Mapping[str, str], taken: str | None) -> Choice:
    """number: how many newer ones there are."""
    reasons = (
        ("all are kept", keep == 0),
        ("taken just now", one.id == taken),
        ("the newest one", number == 0),
        (f"one of the newest {keep}", number < keep),
        (f"tagged {one.tag}", one.tag is not None),
        (needed.get(one.id, ""), one.id in needed),
    )
    reason = next((text for text, holds in reasons if holds), None)
    if reason is not None:
        return Choice(one.id, True, reason, one.size)
    return Choice(one.id, False, f"there are {keep} newer ones, and nothing refers to it", one.size)


def _age(one: Backup) -> tuple[float, str]:
    return instant(one.taken_at or "").timestamp(), one.id
