# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Restoring a backup into a new database and proving it equal to what was backed up.

No other database is touched, so a restore can fail at any moment without harm: what it made is dropped again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils import dump_files
from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import Tools, session_environment
from ansible_collections.habitat.runbook.plugins.module_utils.copies import drop_copy
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, quoted
from ansible_collections.habitat.runbook.plugins.module_utils.properties import apply_properties, literal, missing_roles
from ansible_collections.habitat.runbook.plugins.module_utils.restore_comparison import compare, explained, major
from ansible_collections.habitat.runbook.plugins.module_utils.running_program import ProgramFailed
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import query

if TYPE_CHECKING:
    import psycopg

Connect = Callable[[str], "psycopg.Connection"]
"""Opens an autocommit connection of the run to the database of that name; raises psycopg.OperationalError."""

_PROVIDERS = {"c": "libc", "i": "icu", "b": "builtin"}
_LOCALE_OPTION = {"i": "ICU_LOCALE", "b": "BUILTIN_LOCALE"}
_NO_TIMEOUTS = {"statement_timeout": "0", "lock_timeout": "0"}

# Lines of pg_restore --list: dump id; catalog, oid; kind, schema ("-" for none), name, owner.
_ENTRY = re.compile(rb"[0-9]+; [0-9]+ [0-9]+ ")
_OF_EVENT_TRIGGER = re.compile(_ENTRY.pattern + rb"(EVENT TRIGGER - |(COMMENT|SECURITY LABEL) - EVENT TRIGGER )")

_UNKNOWN_SETTING = 'unrecognized configuration parameter "transaction_timeout"'

_MAY_CREATE = "SELECT FROM pg_catalog.pg_roles WHERE rolname = current_user AND (rolcreatedb OR rolsuper)"
_TEMPLATE_TABLESPACE = """
SELECT t.spcname AS name FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace
WHERE d.datname = 'template0'"""


@dataclass(frozen=True)
class Restored:
    """A restored database: how long it took, tables and rows by the manifest, what differs, what was not compared.

    With differences the database is kept for a look at it, but has neither statistics nor its properties, and only its
    owner may connect.
    """

    seconds: float
    tables: int
    rows: int
    differences: list[str]
    warnings: list[str]


def create_database(
    admin: psycopg.Connection, name: str, database: dict[str, Any], tablespace: str | None = None
) -> None:
    """Create an empty database with encoding, locale and owner as in ``manifest["database"]``.

    Only its owner may connect: nobody shall stray into it while it is filled. ``admin`` is in autocommit mode and in
    another database. Raises psycopg.Error; then there is no new database.
    """
    admin.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE template0 {_options(admin, database, tablespace)}")
    try:
        admin.execute(f"REVOKE CONNECT ON DATABASE {quoted(name)} FROM PUBLIC")
    except BaseException:
        _drop(admin, name)
        raise


def _options(admin: psycopg.Connection, database: dict[str, Any], tablespace: str | None) -> str:
    provider = database["locale_provider"]
    # datlocale is null with libc, whose locales are the other two.
    texts = {
        "ENCODING": database["encoding"],
        "LOCALE_PROVIDER": _PROVIDERS.get(provider, provider),
        "LC_COLLATE": database["collate"],
        "LC_CTYPE": database["ctype"],
        _LOCALE_OPTION.get(provider, "LOCALE"): database["locale"],
        "ICU_RULES": database["icu_rules"],
    }
    options = [f"{key} = {literal(admin, text)}" for key, text in texts.items() if text is not None]
    # Naming a tablespace needs a right over it, taking the template's does not.
    usual = query(admin, _TEMPLATE_TABLESPACE)[0]["name"]
    names = {"OWNER": database["owner"], "TABLESPACE": None if tablespace == usual else tablespace}
    return " ".join([*options, *(f"{key} = {quoted(value)}" for key, value in names.items() if value)])


def restore_backup(
    admin: psycopg.Connection,
    connect: Connect,
    tools: Tools,
    dump: Path,
    manifest: dict[str, Any],
    name: str,
    jobs: int = 1,
) -> Restored:
    """Restore a dump into the new database ``name``, compare it with the manifest, make it like the one backed up.

    ``admin`` is in autocommit mode, in a database that has nothing to do with it, such as ``postgres``, and without
    statement_timeout: DROP DATABASE waits for a checkpoint. ``jobs`` is pg_restore's number of sessions, one at most
    when ``tools`` allow no more. Raises BackupError with one sentence; then the database is dropped again if that is
    possible at all.
    """
    started = time.monotonic()
    properties, owner = manifest["database"]["properties"], manifest["database"]["owner"]
    what = f"backup {manifest['id']} could not be restored into database {name}"
    home = admin.info.dbname
    with explained(admin, what):
        _refuse(admin, tools, dump, manifest)
        create_database(admin, name, manifest["database"], properties["tablespace"])
    try:
        with explained(admin, what):
            found, warnings = _fill(admin, connect, tools, dump, manifest, name, jobs)
            if not found:
                apply_properties(admin, name, properties, owner)
    except BaseException as error:
        # A session of ours that somebody has ended looks whole until it is used.
        if not _drop(admin, name) and not _drop_anew(connect, home, name) and isinstance(error, BackupError):
            text = f"database {name} is still there and of no use: DROP DATABASE {quoted(name)} WITH (FORCE)"
            raise BackupError(f"{error}; {text}") from error
        raise
    rows = sum(table["rows"] for table in manifest["tables"].values())
    return Restored(round(time.monotonic() - started, 3), len(manifest["tables"]), rows, found, warnings)


def may_create(connection: psycopg.Connection) -> bool:
    """Whether the role may create databases."""
    return bool(query(connection, _MAY_CREATE))


def _refuse(admin: psycopg.Connection, tools: Tools, dump: Path, manifest: dict[str, Any]) -> None:
    role = query(admin, "SELECT current_user::text AS role")[0]["role"]
    if not may_create(admin):
        raise BackupError(f"role {role} may not create databases; run ALTER ROLE {quoted(role)} CREATEDB")
    needed = major(manifest["pg_dump_version"])
    if major(tools.version) < needed:
        raise BackupError(
            f"{tools.pg_restore}{tools.place} is {tools.version} and cannot read backup {manifest['id']} by pg_dump "
            f"{manifest['pg_dump_version']}; install the PostgreSQL {needed} client or set bin_dir"
        )
    missing = missing_roles(admin, manifest)
    if missing:
        raise BackupError(
            f"backup {manifest['id']} names roles that this server does not have: {', '.join(missing)}; "
            f"create them first (CREATE ROLE {quoted(missing[0])}; {manifest['globals']['file']} has their settings)"
        )
    if dump_files.digest_of(dump) != manifest["dump"]["sha256"]:
        raise BackupError(
            f"{dump} is not the dump that the manifest of backup {manifest['id']} describes: it was changed, damaged "
            f"or replaced after the backup; use another backup"
        )


def _fill(
    admin: psycopg.Connection,
    connect: Connect,
    tools: Tools,
    dump: Path,
    manifest: dict[str, Any],
    name: str,
    jobs: int,
) -> tuple[list[str], list[str]]:
    entries = [line for line in tools.listing(dump).splitlines() if _ENTRY.match(line)]
    late = [line for line in entries if _OF_EVENT_TRIGGER.match(line)]
    _run(admin, tools, dump, name, jobs, [line for line in entries if line not in late])
    with ExitStack() as closing:
        # Opened while there is no event trigger that acts on login; what we do in it from here on fires none.
        session = closing.enter_context(connect(name))
        session.execute("SET statement_timeout = 0; SET lock_timeout = 0")
        if late:
            _run(admin, tools, dump, name, 1, late)
        found, warnings = compare(session, tools, manifest, name, jobs)
        if not found:
            session.execute("ANALYZE")
    return found, warnings


def _run(admin: psycopg.Connection, tools: Tools, dump: Path, name: str, jobs: int, entries: list[bytes]) -> None:
    """Restore these entries of the dump, in their order."""
    session = admin.info.parameter_status("application_name") or ""
    tolerant = major(tools.version) >= 17 > admin.info.server_version // 10000
    where = ["-d", tools.conninfo(admin, session, name), "--no-password", f"--jobs={tools.jobs(jobs):d}"]
    if not tolerant:
        where.append("--exit-on-error")
    with tools.restoring(dump, entries, where, session_environment(admin, **_NO_TIMEOUTS)) as program:
        try:
            program.wait()
        except ProgramFailed:
            if not (tolerant and _only_unknown_setting(program.messages())):
                raise


def _only_unknown_setting(messages: list[str]) -> bool:
    """Whether pg_restore came to its end and nothing failed but what it tells older servers without being asked.

    From 17 on it sets transaction_timeout, which servers before 17 refuse. Raises ProgramFailed for another error.
    """
    errors = [line.split("error: ", 1)[1] for line in messages if "error: " in line and _UNKNOWN_SETTING not in line]
    if errors:
        raise ProgramFailed(f"pg_restore failed: {' '.join(errors[0].split())}")
    return any("errors ignored on restore" in line for line in messages)


def _drop(admin: psycopg.Connection, name: str) -> bool:
    """Drop a database we made, with all sessions in it; False when that is not possible."""
    with suppress(admin.Error):
        drop_copy(admin, name)
        return True
    return False


def _drop_anew(connect: Connect, home: str, name: str) -> bool:
    with suppress(Exception), connect(home) as admin:
        return _drop(admin, name)
    return False
