"""The module's work without Ansible around it: ``python -m tests.benchmarks.apply_bundle SOCKET_FOLDER BUNDLE [WATCHED]``.

WATCHED stands in for schema_watch.WATCHED; with 0 no migration is watched.
"""

from __future__ import annotations

import sys

import psycopg
from ansible_collections.habitat.runbook.plugins.module_utils import engine
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.state import compare_bundle

RUN = Run("20261122t100211z-k3f", "bench")


def main(host: str, bundle: str, watched: str = "") -> None:
    engine.WATCHED = int(watched or engine.WATCHED)

    def connect() -> psycopg.Connection:
        settings = {"application_name": session_name(RUN.run_id), "options": session_options("5s", "10min")}
        return psycopg.connect(host=host, user="postgres", autocommit=True, **settings)

    with connect() as connection:
        comparison = compare_bundle(connection, bundle, "bench")[0]
        versions = [state.version for state in comparison.pending()]
        outcome = engine.apply(connection, connect, bundle, versions, RUN)
    if outcome.failure or not outcome.applied:
        sys.exit(str(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
