# Copyright: The Habitat team
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Counting and digesting the tables of a snapshot in several sessions at once, while its owner does something else."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Event
from typing import TYPE_CHECKING, Any

from ansible_collections.habitat.runbook.plugins.module_utils.client_programs import reopened
from ansible_collections.habitat.runbook.plugins.module_utils.snapshot import (
    Snapshot,
    Table,
    count_tables,
    reading_settings,
)

if TYPE_CHECKING:
    import psycopg

_CANCEL_SECONDS = 0.05


class TableCounts:
    """The tables of a snapshot being counted by at most ``sessions`` sessions; a context manager that ends them.

    ``connection`` has exported the snapshot and keeps it; its sessions are told from others by the same name. They lock
    the tables at once and count from ``go`` on.
    """

    def __init__(self, connection: psycopg.Connection, snapshot: Snapshot, sessions: int) -> None:
        self._connection, self._snapshot = connection, snapshot
        self._waiting = deque(table for table in snapshot.tables if table.kind == "r")
        self._locks = f"LOCK TABLE ONLY {', ONLY '.join(table.sql for table in self._waiting)} IN ACCESS SHARE MODE"
        self._open: list[psycopg.Connection] = []
        self._found: dict[str, dict[str, Any]] = {}
        self._may_count = Event()
        many = max(1, min(sessions, len(self._waiting)))
        self._pool = ThreadPoolExecutor(many)
        self._workers: list[Future[None]] = [self._pool.submit(self._work) for _ in range(many)]

    def __enter__(self) -> TableCounts:
        return self

    def __exit__(self, *error: object) -> None:
        self._waiting.clear()
        self._may_count.set()
        # Again and again: a cancellation between two statements is lost.
        while wait(self._workers, _CANCEL_SECONDS).not_done:
            for session in list(self._open):
                with suppress(Exception):
                    session.cancel()
        self._pool.shutdown()

    def go(self) -> None:
        """Begin to count, unless that was begun before."""
        self._may_count.set()

    def done(self) -> bool:
        """Whether all tables are counted. Raises psycopg.Error when one could not be."""
        ended = [worker for worker in self._workers if worker.done()]
        for worker in ended:
            worker.result()
        return len(ended) == len(self._workers)

    def found(self) -> dict[str, dict[str, Any]]:
        """``{key: {"rows": n, "digest": text}}`` as ``count_tables`` has it; waits for the end. Raises as ``done``."""
        for worker in self._workers:
            worker.result()
        return {key: self._found[key] for key in sorted(self._found)}

    def _work(self) -> None:
        from psycopg import sql

        table = self._next()
        if table is None:
            return
        with reopened(self._connection) as session:
            self._open.append(session)
            session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            name = sql.Literal(self._snapshot.name)
            session.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(name))
            session.execute(reading_settings(session))
            # All at once, and now: later on whoever waits for the snapshot's owner would be in the way.
            session.execute(self._locks.encode())
            self._may_count.wait()
            while table is not None:
                self._found.update(count_tables(session, [table]))
                table = self._next()

    def _next(self) -> Table | None:
        """The next table to be counted, taken by one worker only; None when there is none any more."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return None
