"""Whether the database answers, asked in a thread of its own so that the answer never takes longer than promised."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from typing import Any

import psycopg

from demo.api import store
from demo.database import Database

PATIENCE_SECONDS = 1.5
"""After this long without an answer the database counts as not answering."""


class Health:
    """Callers that come while a question is under way share its answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, "health")
        self._lock = threading.Lock()
        self._asking: Future[dict[str, Any]] | None = None

    def report(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and body: 200 with the schema's version, or 503 with what is wrong."""
        with self._lock:
            if self._asking is None or self._asking.done():
                self._asking = self._thread.submit(self._ask)
            asking = self._asking
        try:
            return 200, asking.result(PATIENCE_SECONDS)
        except TooLate:
            return 503, _degraded(f"The database did not answer within {PATIENCE_SECONDS} seconds.")
        except psycopg.Error as error:
            return 503, _degraded(f"The database does not answer: {one_line(error)}")

    def wait(self, seconds: float) -> None:
        """Return as soon as the database answers, at the latest after ``seconds``."""
        end = time.monotonic() + seconds
        while self.report()[0] != 200 and time.monotonic() < end:
            time.sleep(0.05)

    def _ask(self) -> dict[str, Any]:
        start = time.monotonic()
        with self._database.session(PATIENCE_SECONDS) as connection:
            version = store.schema_version(connection)
        return {
            "status": "ok",
            "schema_version": version,
            "database_ms": round((time.monotonic() - start) * 1000, 1),
        }


def _degraded(error: str) -> dict[str, Any]:
    return {"status": "degraded", "schema_version": None, "error": error}


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
