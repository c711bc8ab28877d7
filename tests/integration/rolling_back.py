"""What a rollback does on the database's host, restore and swap, in a process of its own that can be killed.

``python -m tests.integration.rolling_back SOCKET_FOLDER USER DATABASE RUN BACKUPS BACKUP BIN_DIR [PAUSE]`` prints
``restore``, ``swap`` and ``done`` when it comes to them. After printing ``PAUSE`` it waits for a line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import copies, put_back
from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import find_tools
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.manifest import BackupError, find_backup, read
from ansible_collections.habitat.runbook.plugins.module_utils.restore import restore_backup

_JOBS = 2


def roll_back(
    host: str, user: str, database: str, run: str, backups: str, backup: str, bin_dir: str, say: Callable[[str], None]
) -> None:
    """The same calls with the same settings as modules database_restore and database_swap, without a run lock."""

    def connect(name: str, lock_timeout: str, statement_timeout: str) -> psycopg.Connection:
        settings = {"application_name": session_name(run), "options": session_options(lock_timeout, statement_timeout)}
        return psycopg.connect(host=host, user=user, dbname=name, autocommit=True, connect_timeout=10, **settings)

    incoming = copies.copy_name(database, copies.RESTORE, run)
    dump = Path(find_backup(backups, backup).dump)
    with connect("postgres", "0", "0") as admin:
        say("restore")
        copies.drop_copies(admin, database, [copies.RESTORE])
        tools, told = find_tools(bin_dir, admin.info.server_version), read(dump.with_suffix(".json"))
        done = restore_backup(admin, lambda name: connect(name, "0", "0"), tools, dump, told, incoming, _JOBS)
        if done.differences:
            raise BackupError("; ".join(done.differences))
    say("swap")
    put_back.put_back(lambda name: connect(name, "10s", "1min"), database, incoming, Run(run, "alice"), backup)
    say("done")


def main(*arguments: str) -> None:
    def say(stage: str) -> None:
        print(stage, flush=True)
        if stage in arguments[7:]:
            sys.stdin.readline()

    try:
        roll_back(*arguments[:7], say=say)
    except (BackupError, OSError, psycopg.Error) as error:
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    main(*sys.argv[1:])
