# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Backups as data: the manifest beside a dump, and the list of the backups in a folder.

A backup is ``<id>.dump`` (a file, or a folder in the directory form), ``<id>.globals.sql`` and ``<id>.json``. The last
is the manifest and is written last, so a manifest that is there says that the dump was proved, and how. It also holds
what a restored copy is compared with.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ansible_collections.habitat.runbook.plugins.module_utils import dump_files

FORMAT = 3
"""Version of the manifest's form; a reader refuses one that it does not know."""

READ, RESTORE = "read", "restore"
"""Ways of proving a dump: by reading it back whole, and by restoring and comparing it."""

NAME = re.compile(r"\A[a-z][a-z0-9_-]{0,30}-[0-9]{8}t[0-9]{6}z-[a-z0-9]{3}\Z")
"""Ids that backups are given: ``<environment>-<run id>``."""

_ENVIRONMENT = re.compile(r"\A[a-z][a-z0-9_-]{0,30}\Z")
_RUN_ID = re.compile(r"\A[0-9]{8}t[0-9]{6}z-[a-z0-9]{3}\Z")
_TAG = re.compile(r"\A[a-z0-9][a-z0-9._-]{0,40}\Z")
_ASKED_ID = re.compile(r"\A[a-z0-9][a-z0-9._-]{0,80}\Z")
_SHA256 = re.compile(r"\A[0-9a-f]{64}\Z")
_PLAIN_NAME = re.compile(r"\A[a-z_][a-z0-9_]*\Z")
_NUMBER = re.compile(r"\A[0-9]{1,100}\Z")
_QUOTED_OR_PLAIN = re.compile(r'"((?:[^"]|"")*)"|([^".]+)')
_LARGEST_MANIFEST = 256 * 1024 * 1024
_PROBLEMS_SHOWN = 3

_SHAPE: dict[str, Any] = {
    "format": int,
    "id": str,
    "environment": str,
    "run_id": str,
    "taken_at": str,
    "taken_by": str,
    "seconds": (int, float),
    "server_version": str,
    "pg_dump_version": str,
    "dump": {"file": str, "size": int, "sha256": str, "compression": str, "form": str},
    "proof": {"kind": str, "seconds": (int, float), "restore_seconds": (int, float, type(None))},
    "globals": {"file": str, "size": int, "sha256": str},
    "tag": (str, type(None)),
    "snapshot": {
        "system_identifier": str,
        "database_oid": int,
        "xmin": str,
        "xmax": str,
        "xip": list,
        "lsn": str,
    },
    "database": {
        "name": str,
        "owner": str,
        "encoding": str,
        "collate": str,
        "ctype": str,
        "locale_provider": str,
        "locale": (str, type(None)),
        "icu_rules": (str, type(None)),
        "environment": (str, type(None)),
        "properties": {
            "connection_limit": int,
            "comment": (str, type(None)),
            "settings": list,
            "acl": (list, type(None)),
            "tablespace": str,
            "security_labels": list,
        },
    },
    "ledger_versions": (list, type(None)),
    "schema_sha256": str,
    "tables": dict,
    "materialized_views": dict,
    "sequences": dict,
    "large_objects": {"count": int, "digest": str},
    "roles": list,
    "extensions": dict,
}


class BackupError(ValueError):
    """A backup cannot be taken, read or found; the text is one sentence for the operator."""


@dataclass(frozen=True)
class Backup:
    """One backup of a folder. Fields are None where a broken manifest does not tell them.

    ``size`` is in bytes, ``taken_at`` an ISO time in UTC by the database's clock, ``ledger_version`` the highest
    version by number. ``verified``: the manifest is whole and the dump beside it is the one it describes. ``proof`` is
    READ or RESTORE, ``restore_seconds`` what restoring and comparing took when it was taken.
    """

    id: str
    dump: str
    verified: bool
    problems: tuple[str, ...]
    taken_at: str | None = None
    size: int | None = None
    environment: str | None = None
    database: str | None = None
    ledger_version: str | None = None
    form: str | None = None
    tag: str | None = None
    proof: str | None = None
    restore_seconds: float | None = None


def backup_id(environment: str, run_id: str) -> str:
    """``<environment>-<run id>``. Raises BackupError when one of the two has another form."""
    if not _ENVIRONMENT.match(environment):
        raise BackupError(f"env is {environment!r}; expected lower-case letters first, such as staging")
    if not _RUN_ID.match(run_id):
        raise BackupError(f"run_id is {run_id!r}; expected a form such as 20261122t100211z-k3f")
    return f"{environment}-{run_id}"


def check_tag(tag: str | None) -> None:
    """Raise BackupError for a tag of another form than a word."""
    if tag is not None and not _TAG.match(tag):
        raise BackupError(f"tag is {tag[:80]!r}; expected a word of small letters and digits such as before-sale")


def qualified(schema: str, name: str) -> str:
    """``schema.name``, each quoted when it is not plain: the key of tables and sequences in a manifest.

    Whether a name is a key word does not matter here, so the key is the same with every server and client.
    """
    return ".".join(part if _PLAIN_NAME.match(part) else quoted(part) for part in (schema, name))


def quoted(name: str) -> str:
    """A name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def requalified(text: str) -> str:
    """``qualified`` of a name as PostgreSQL quotes it, such as ``public."user"``."""
    parts = [m[2] or m[1].replace('""', '"') for m in _QUOTED_OR_PLAIN.finditer(text)]
    return qualified(*parts)


def sorted_versions(versions: Iterable[str]) -> list[str]:
    """Versions by number ("10" after "9"); what is no number stands behind, by text."""
    return sorted(versions, key=lambda text: (0, int(text), text) if _NUMBER.match(text) else (1, 0, text))


def latest_version(versions: Iterable[str]) -> str | None:
    """The highest version by number; None when there is none."""
    numbered = [version for version in sorted_versions(versions) if _NUMBER.match(version)]
    return numbered[-1] if numbered else None


def build(environment: str, run_id: str, **facts: Any) -> dict[str, Any]:
    """A manifest from what was found out about a backup. Raises BackupError when ``read`` would not accept it."""
    identity = backup_id(environment, run_id)
    manifest = {**facts, "format": FORMAT, "id": identity, "environment": environment, "run_id": run_id}
    problems = problems_of(manifest, identity)
    if problems:
        raise BackupError(f"backup {identity} would have no valid manifest: {problems[0]}")
    return manifest


def to_text(manifest: dict[str, Any]) -> str:
    """The manifest as the text of its file."""
    return json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def problems_of(data: Any, expected_id: str) -> list[str]:
    """What is wrong with a manifest, as clauses; an empty list means that it is valid."""
    if not isinstance(data, dict):
        return ["the manifest is not a JSON object"]
    if data.get("format") != FORMAT:
        return [f"the manifest has format {data.get('format')!r}, this version reads {FORMAT}"]
    return list(_misfits(data, _SHAPE)) or list(_contradictions(data, expected_id))


def _misfits(data: dict[str, Any], shape: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, expected in shape.items():
        value, name = data.get(key), prefix + key
        if isinstance(expected, dict):
            if isinstance(value, dict):
                yield from _misfits(value, expected, f"{name}.")
            else:
                yield f"the manifest's {name} is missing or not an object"
        elif key not in data:
            yield f"the manifest's {name} is missing"
        elif not isinstance(value, expected) or isinstance(value, bool):
            yield f"the manifest's {name} is {str(value)[:40]!r}"


def _contradictions(data: dict[str, Any], expected_id: str) -> Iterator[str]:
    if data["id"] != expected_id or data["id"] != f"{data['environment']}-{data['run_id']}":
        yield f"the manifest is of {data['id'][:80]!r}"
    if data["dump"]["file"] != f"{expected_id}.dump":
        yield f"the manifest is of the file {data['dump']['file'][:80]!r}"
    if data["globals"]["file"] != f"{expected_id}.globals.sql":
        yield f"the manifest is of the file {data['globals']['file'][:80]!r}"
    if data["dump"]["form"] not in (dump_files.CUSTOM, dump_files.DIRECTORY):
        yield f"the manifest's dump.form is {data['dump']['form'][:40]!r}"
    if data["proof"]["kind"] not in (READ, RESTORE):
        yield f"the manifest's proof.kind is {data['proof']['kind'][:40]!r}"
    if not _is_time(data["taken_at"]):
        yield f"the manifest's taken_at is {data['taken_at'][:40]!r}"
    digests = (data["dump"]["sha256"], data["globals"]["sha256"], data["schema_sha256"])
    if not all(map(_SHA256.match, digests)):
        yield "the manifest's sha256 is not one"
    lists = {"ledger_versions": data["ledger_versions"] or (), "snapshot.xip": data["snapshot"]["xip"]}
    for name, texts in {**lists, "roles": data["roles"]}.items():
        if not all(isinstance(text, str) for text in texts):
            yield f"the manifest's {name} are not texts"
    yield from _wrong_entries(data)


def _wrong_entries(data: dict[str, Any]) -> Iterator[str]:
    for kind, shape in _PROPERTIES.items():
        for entry in data["database"]["properties"][kind] or ():
            if not isinstance(entry, dict) or list(_entry_misfits(entry, shape)):
                yield f"the manifest's database.properties.{kind} say: {str(entry)[:40]!r}"
    for kind, shape in _ENTRIES.items():
        for name, entry in data[kind].items():
            if not isinstance(entry, dict) or list(_entry_misfits(entry, shape)):
                yield f"the manifest's {kind} say about {name[:80]!r}: {str(entry)[:40]!r}"


_ENTRIES: dict[str, dict[str, Any]] = {
    "tables": {"rows": int, "digest": str},
    "materialized_views": {"rows": (int, type(None))},
    "sequences": {"last_value": int, "is_called": bool},
}

_PROPERTIES: dict[str, dict[str, Any]] = {
    "settings": {"role": (str, type(None)), "name": str, "value": str},
    "acl": {"grantee": str, "grantor": str, "privilege": str, "grantable": bool},
    "security_labels": {"provider": str, "label": str},
}


def _entry_misfits(entry: dict[str, Any], shape: dict[str, Any]) -> Iterator[str]:
    for key, expected in shape.items():
        value = entry.get(key, ...)
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            yield key


def _is_time(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")
    except ValueError:
        return False
    return True


def read(path: Path) -> dict[str, Any]:
    """The manifest in a file. Raises BackupError when it is not a valid one."""
    data, problems = _load(path)
    if problems:
        raise BackupError(f"backup {path.stem} cannot be used: {'; '.join(problems)}")
    return data


def _load(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        info = path.lstat()
        if not stat.S_ISREG(info.st_mode):
            return {}, ["the manifest is not a regular file"]
        if info.st_size > _LARGEST_MANIFEST:
            return {}, [f"the manifest is larger than any real one ({info.st_size} bytes)"]
        data = json.loads(path.read_bytes().decode())
    except OSError as error:
        return {}, [f"the manifest cannot be read: {error.strerror}"]
    except (ValueError, RecursionError):
        return {}, ["the manifest is not JSON"]
    return data, problems_of(data, path.stem)[:_PROBLEMS_SHOWN]


def list_backups(folder: str | Path, check: bool = False) -> list[Backup]:
    """The backups of a folder, newest first by the time they were taken; broken ones last.

    With ``check`` every dump is read and compared with its sha256, which takes as long as reading it takes. Files
    that are not named as manifests are ignored, and a folder that does not exist holds no backups.
    Raises BackupError when the folder cannot be read.
    """
    try:
        found = sorted(path for path in Path(folder).iterdir() if path.suffix == ".json" and NAME.match(path.stem))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BackupError(f"the backups in {folder} cannot be listed: {error.strerror}") from error
    backups = [_describe(path, check) for path in found]
    return sorted(backups, key=lambda backup: (backup.taken_at or "", backup.id), reverse=True)


def _describe(path: Path, check: bool) -> Backup:
    dump = path.with_suffix(".dump")
    data, broken = _load(path)
    if broken:
        return Backup(path.stem, str(dump), False, tuple(broken))
    problems = tuple(_dump_problems(dump, data["dump"], check))
    return Backup(
        id=path.stem,
        dump=str(dump),
        verified=not problems,
        problems=problems,
        taken_at=data["taken_at"],
        size=data["dump"]["size"],
        environment=data["environment"],
        database=data["database"]["name"],
        ledger_version=latest_version(data["ledger_versions"] or ()),
        form=data["dump"]["form"],
        tag=data["tag"],
        proof=data["proof"]["kind"],
        restore_seconds=data["proof"]["restore_seconds"],
    )


def _dump_problems(dump: Path, told: dict[str, Any], check: bool) -> Iterator[str]:
    try:
        form, size = dump_files.form_of(dump), dump_files.size_of(dump)
        if form != told["form"]:
            yield f"the dump is in the {form} form, its manifest says {told['form']}"
        elif size != told["size"]:
            yield f"the dump has {size} bytes, its manifest says {told['size']}"
        elif check and dump_files.digest_of(dump) != told["sha256"]:
            yield "the dump's sha256 is not the manifest's: it was changed or damaged after the backup"
    except dump_files.NotADump as error:
        yield str(error)
    except FileNotFoundError:
        yield "the dump is missing"
    except OSError as error:
        yield f"the dump cannot be read: {error.strerror}"


def find_backup(folder: str | Path, asked: str, check: bool = False) -> Backup:
    """The backup with this id, with ``check`` compared with its sha256.

    Raises BackupError for an id of another form and for one that is not among those of the folder.
    """
    if not _ASKED_ID.match(asked):
        raise BackupError(f"id is {asked[:80]!r}; expected a backup's id such as staging-20261122t100211z-k3f")
    known = [backup.id for backup in list_backups(folder)]
    if asked not in known:
        raise BackupError(f"there is no backup {asked} in {folder}; there are: {', '.join(known[:5]) or 'none'}")
    return _describe(Path(folder) / f"{asked}.json", check)
