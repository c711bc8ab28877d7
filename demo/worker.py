"""``python -m demo.worker``: every HABITAT_WORKER_INTERVAL seconds (1) bring the next members' totals up to date.

It sweeps over all members, a batch at a time, and each step is recorded as an event. Before version 04 of the schema
there is nothing to do.
"""

from __future__ import annotations

import os
import sys
import time
from typing import NoReturn
from uuid import UUID

import psycopg

from demo.database import Database, end_promptly_on_sigterm

BATCH = 100

_READY = "SELECT to_regprocedure('public.refresh_contribution_totals(uuid, integer)') IS NOT NULL"


def step(database: Database, after: UUID | None) -> UUID | None:
    """One batch, one transaction; returns where the next batch begins."""
    with database.session() as connection:
        if connection.execute(_READY).fetchone() != (True,):
            return None
        row = connection.execute("SELECT refresh_contribution_totals(%s, %s)", [after, BATCH]).fetchone()
        return row[0] if row else None


def run(interval: float) -> NoReturn:
    """Sweep without an end; a database that is away is tried again at the next beat and told once."""
    database = Database("habitat-worker")
    after: UUID | None = None
    said = ""
    while True:
        start = time.monotonic()
        try:
            after = step(database, after)
            said = ""
        except psycopg.Error as error:
            sentence = " ".join(str(error).split())
            if sentence != said:
                print(f"The worker tries again: {sentence}", file=sys.stderr, flush=True)
            said = sentence
        time.sleep(max(0.0, start + interval - time.monotonic()))


def main() -> int:
    end_promptly_on_sigterm()
    given = os.environ.get("HABITAT_WORKER_INTERVAL", "1")
    try:
        run(float(given))
    except ValueError:
        print(f"HABITAT_WORKER_INTERVAL must be a number of seconds, not {given!r}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
