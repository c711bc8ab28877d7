"""How the API and the worker reach the database: one connection per thread, and no wait without an end.

Where the database is comes from libpq's own environment (PGHOST, PGPORT, PGDATABASE, PGUSER and PGPASSFILE or
PGPASSWORD), so a password is never an argument.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

STATEMENT_SECONDS = 5
"""What one statement may take; the server enforces it."""

STOP_SECONDS = 0.4
"""What a process may take to end after SIGTERM."""

# A server that lost its client notices within half a second even while it waits for a lock.
_SERVER_OPTIONS = (
    f"-c statement_timeout={STATEMENT_SECONDS}s -c idle_in_transaction_session_timeout=10s"
    " -c client_connection_check_interval=500ms"
)


class Database:
    """Hands every thread its own connection and replaces one that has died."""

    def __init__(self, application_name: str) -> None:
        self._name = application_name
        self._mine = threading.local()

    @contextmanager
    def session(self, seconds: float = STATEMENT_SECONDS + 1) -> Iterator[psycopg.Connection]:
        """A live connection for a block that may take ``seconds``; raises ``psycopg.OperationalError`` without one."""
        connection = getattr(self._mine, "connection", None)
        if connection is None or not _alive(connection):
            connection = self._mine.connection = self._connect()
        with deadline(connection, seconds):
            yield connection

    def _connect(self) -> psycopg.Connection:
        # No prepared statements: a migration may change what a statement returns while the connection lives.
        return psycopg.connect(
            "",
            application_name=self._name,
            options=_SERVER_OPTIONS,
            connect_timeout=2,
            autocommit=True,
            prepare_threshold=None,
        )


def _alive(connection: psycopg.Connection) -> bool:
    """Ask the server, since a connection that was cut looks well until it is used."""
    with suppress(psycopg.OperationalError), deadline(connection, 1):
        connection.execute("")
        return True
    connection.close()
    return False


@contextmanager
def deadline(connection: psycopg.Connection, seconds: float) -> Iterator[None]:
    """Cut the connection when the block takes longer; a server that is frozen keeps no timeout of its own."""
    timer = threading.Timer(seconds, _cut, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(connection: psycopg.Connection) -> None:
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def end_promptly_on_sigterm() -> None:
    """SIGTERM interrupts the main thread (and its query); an alarm ends the process if that is not enough."""

    def stop(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, STOP_SECONDS)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
