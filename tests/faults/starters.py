"""Many who begin at the same moment: exactly one gets the run lock, and the others leave nothing."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import run_lock
from ansible_collections.habitat.runbook.plugins.module_utils.inputs import new_run_id

from tests.faults.shots import Outcome
from tests.faults.stand import Stand, wait_for


def rounds(stand: Stand, starters: int, count: int) -> Outcome:
    """So many rounds of so many starters through run_lock.acquire, as module run_lock calls it."""
    outcome, begun = Outcome("run lock", f"{starters} starters, {count} rounds", "-"), time.monotonic()
    stand.reset("habitat_05")
    for number in range(count):
        won = _round(stand, starters, outcome)
        outcome.expect(won == 1, f"round {number}: {won} of {starters} have the lock")
    left = [path.name for path in stand.runs.glob("2*")]
    outcome.expect(not left, f"folders are left: {left[:2]}")
    with contextlib.suppress(AssertionError):
        # Those that did not get the lock have answered, and are about to end.
        wait_for(lambda: not stand.guards(), "guards end", 60)
    outcome.expect(not stand.guards(), "guards are left")
    outcome.seconds = time.monotonic() - begun
    return outcome


def _connect(stand: Stand) -> dict[str, Any]:
    stack = stand.stack
    return {"host": stack.host, "port": stack.port, "user": stack.owner, "password": stack.owner_password}


def _round(stand: Stand, starters: int, outcome: Outcome) -> int:
    together = threading.Barrier(starters)
    ids: set[str] = set()
    while len(ids) < starters:
        ids.add(new_run_id())

    def start(run_id: str) -> dict[str, Any] | None:
        run = {"id": run_id, "env": "local", "database": "habitat", "host": "here", "operator": "somebody"}
        run |= {"origin": "here", "command": "migrate.yml", "inputs": {}, "container": None}
        watch = {
            "silence": 15.0,
            "patience": 60.0,
            "max_window": 1800.0,
            "urls": [],
            "body": {},
            "given_password": None,
        }
        together.wait()
        return run_lock.acquire(stand.runs / run_id, _connect(stand), run, watch)

    with ThreadPoolExecutor(starters) as pool:
        answers = list(pool.map(start, ids))
    winners = [run_id for run_id, answer in zip(ids, answers, strict=True) if answer is None]
    named = {(answer or {}).get("run_id") for answer in answers if answer is not None}
    outcome.expect(named <= set(winners), f"the others were told of {named}, not of {winners}")
    with psycopg.connect(**_connect(stand), dbname="postgres", autocommit=True) as connection:
        for run_id in winners:
            run_lock.release(connection, stand.runs / run_id, run_id)
    return len(winners)


def two_runs(stand: Stand) -> Outcome:
    """Two operators type the same command at the same moment."""
    outcome, begun = Outcome("migrate", "two at once", "-"), time.monotonic()
    stand.reset("habitat_05")
    done = [one.finished() for one in [stand.launch("migrate.yml") for _ in range(2)]]
    refused = [one for one in done if one.code]
    outcome.expect(len(refused) == 1, f"they end with {[one.code for one in done]}")
    outcome.expect(all("another run holds" in one.screen for one in refused), "the second is not told of the first")
    outcome.expect(stand.versions()[-1] == "07", "the first did not do its work")
    outcome.seconds = time.monotonic() - begun
    return outcome
