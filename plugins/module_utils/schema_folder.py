# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Read a folder of migrations: which files they are, their order, and everything that is wrong with them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.habitat.runbook.plugins.module_utils.migration_file import (
    Migration,
    Problem,
    Source,
    read_migration,
)

_MIGRATION = re.compile(r"([0-9]+)_([\w-]+)\.sql")
_DOWN = re.compile(r"([0-9]+_[\w-]+)\.down\.sql")
_LEFT_OVER = re.compile(r".+\.sql[.~].*|.+\.sql[~#]|#.+\.sql#", re.IGNORECASE | re.DOTALL)
_GOOD_NAME = (
    "a migration is called like 07_email_verifications.sql: a number, an underscore, a name of letters, digits, "
    "_ and -, then .sql (its down may be a file 07_email_verifications.down.sql)"
)
# Numbers further apart than this are dates and times, not a series with a hole.
_LARGEST_GAP = 100


@dataclass(frozen=True)
class SchemaFolder:
    """A folder's migrations in the order of their numbers.

    ``problems`` are refusals: with any of them nothing may be applied (``migrations`` then lacks the
    files they are about). ``warnings`` are about the folder; each migration has its own beside them.
    """

    migrations: tuple[Migration, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


@dataclass
class _Found:
    folder: Path
    ups: dict[str, Path] = field(default_factory=dict)
    downs: dict[str, Path] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def shown(self, name: str) -> str:
        return f"{self.folder.name}/{name}"


def read_schema(folder: str | Path) -> SchemaFolder:
    """Read every migration of ``folder``: ``NN_name.sql``, ordered by number. Raises nothing; see ``problems``."""
    path = Path(folder).resolve()
    try:
        found = _list_files(path)
    except OSError as error:
        message = f"cannot read the folder of the migrations ({error.strerror}); create it, or correct its path"
        return SchemaFolder((), (Problem(str(folder), 0, message),), ())
    _check_numbers(found)
    _check_downs(found)
    migrations = [migration for stem in sorted(found.ups, key=_number) if (migration := _read_one(found, stem))]
    if not migrations and not found.problems:
        found.problems.append(Problem(path.name, 0, f"no migrations in this folder; {_GOOD_NAME}"))
    return SchemaFolder(tuple(migrations), tuple(found.problems), tuple(found.warnings))


def _number(stem: str) -> int:
    return int(stem.split("_", 1)[0])


def _list_files(folder: Path) -> _Found:
    found = _Found(folder)
    for path in sorted(folder.iterdir()):
        name = path.name
        if name.startswith(".") or path.is_dir():
            continue
        if _DOWN.fullmatch(name):
            found.downs[name[: -len(".down.sql")]] = path
        elif _MIGRATION.fullmatch(name):
            found.ups[name[: -len(".sql")]] = path
        elif name.lower().endswith(".sql"):
            found.problems.append(Problem(found.shown(name), 0, f"not a migration's name; {_GOOD_NAME}"))
        elif _LEFT_OVER.fullmatch(name):
            found.warnings.append(Problem(found.shown(name), 0, "looks like a copy of a migration and is ignored"))
    return found


def _check_numbers(found: _Found) -> None:
    """Refuse files with the same number, warn of a hole in a series."""
    stems = sorted(found.ups, key=_number)
    for before, stem in zip(stems, stems[1:]):
        gap = _number(stem) - _number(before)
        if gap == 0:
            message = f"has the same number as {found.shown(before)}.sql; renumber one of the two"
            found.problems.append(Problem(found.shown(f"{stem}.sql"), 0, message))
        elif 1 < gap <= _LARGEST_GAP:
            width = len(stem.split("_", 1)[0])
            first, last = (str(number).zfill(width) for number in (_number(before) + 1, _number(stem) - 1))
            missing = f"{first} is" if first == last else f"{first} to {last} are"
            message = f"{missing} missing before it; check that no file was forgotten"
            found.warnings.append(Problem(found.shown(f"{stem}.sql"), 0, message))


def _check_downs(found: _Found) -> None:
    for stem in sorted(set(found.downs) - set(found.ups)):
        message = f"belongs to {stem}.sql, which is not there; add or rename it"
        found.problems.append(Problem(found.shown(f"{stem}.down.sql"), 0, message))


def _read_one(found: _Found, stem: str) -> Migration | None:
    sources = []
    for path in filter(None, (found.ups[stem], found.downs.get(stem))):
        try:
            sources.append(Source(found.shown(path.name), path.read_bytes()))
        except OSError as error:
            message = f"cannot be read ({error.strerror}); correct that or remove the file"
            found.problems.append(Problem(found.shown(path.name), 0, message))
            return None
    version, name = stem.split("_", 1)
    migration, problems = read_migration(version, name, sources[0], sources[1] if len(sources) > 1 else None)
    found.problems += problems
    return migration
