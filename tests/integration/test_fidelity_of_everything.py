"""Objects of every kind, with rows, come back as they were from a backup, on every version that is supported.

What is compared here is asked of the catalogs by queries of its own, beside the comparison that every restore makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import client_programs, dump, restore
from ansible_collections.habitat.runbook.plugins.module_utils.catalog import read_catalog
from ansible_collections.habitat.runbook.plugins.module_utils.connect import session_name, session_options

from tests import servers
from tests.integration.everything_filled import FILLED, HELPERS, KINDS, NEWER, OF_THE_DATABASE
from tests.integration.schema_of_everything import ROLES

RUN = "20261122t100271z-k3f"
LIVE, COPY = "everything", "everything_copied"
VERSIONS = [
    pytest.param(major, marks=[pytest.mark.long, pytest.mark.xdist_group(f"everything-{major}")])
    for major in (15, 16, 17, 18)
]


@dataclass(frozen=True)
class Pair:
    """The database and what its backup was restored into, what the manifest says, and what the restore said."""

    live: psycopg.Connection
    copy: psycopg.Connection
    manifest: dict
    done: restore.Restored


@pytest.fixture(scope="module", params=VERSIONS)
def pair(request, tmp_path_factory) -> Iterator[Pair]:
    with servers.running(request.param) as (cluster, programs):
        settings = {"application_name": session_name(RUN), "options": session_options("30s", "1min")}

        def connect(name: str) -> psycopg.Connection:
            return cluster.connect(name, **settings)

        with cluster.connect() as admin:
            for role in ROLES:
                admin.execute(f"CREATE ROLE {role} LOGIN")
            admin.execute(f"CREATE DATABASE {LIVE} TEMPLATE template0")
            admin.execute(OF_THE_DATABASE.format(LIVE))
        folder = tmp_path_factory.mktemp("everything")
        with connect(LIVE) as session:
            newer = (NEWER[major] for major in NEWER if session.info.server_version >= major * 10000)
            for script in (*FILLED, *newer):
                session.execute(script)
            how = dump.How(bin_dir=str(programs), proof="restore", jobs=2)
            told = dump.take_backup(session, folder, "local", RUN, "alice", how).manifest
        with connect("postgres") as admin:
            tools = client_programs.find_tools(str(programs), admin.info.server_version)
            path = folder / told["dump"]["file"]
            done = restore.restore_backup(admin, connect, tools, path, told, COPY, 2)
        with cluster.connect(LIVE) as live, cluster.connect(COPY) as copy:
            for session in (live, copy):
                session.execute(HELPERS)
            yield Pair(live, copy, told, done)


def rows_of(session: psycopg.Connection, kind: str) -> list[tuple[str, ...]]:
    return sorted(tuple(str(value) for value in row) for row in session.execute(KINDS[kind][0]))


def test_the_backup_was_proved_and_the_restore_found_no_difference(pair):
    assert pair.manifest["proof"]["kind"] == "restore"
    assert (pair.done.differences, pair.done.warnings) == ([], [])


@pytest.mark.parametrize("kind", KINDS)
def test_comes_back_identical(pair, kind):
    was, came_back = rows_of(pair.live, kind), rows_of(pair.copy, kind)
    assert was, f"the fixture has no {kind}"
    lost, new = sorted(set(was) - set(came_back)), sorted(set(came_back) - set(was))
    assert was == came_back, f"{kind}: lost {lost[:3]}, new {new[:3]}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_would_be_seen(pair, kind):
    """Without this, a query that tells nothing would pass for equality."""
    before = rows_of(pair.copy, kind)
    with pair.copy.transaction(force_rollback=True):
        pair.copy.execute(KINDS[kind][1])
        assert rows_of(pair.copy, kind) != before, f"{kind}: the query does not tell of {KINDS[kind][1]}"
    assert rows_of(pair.copy, kind) == before


def test_the_schema_as_data_is_the_same(pair):
    """As ``catalog`` reads it, which compares nothing that a restore compares."""
    was, came_back = read_catalog(pair.live), read_catalog(pair.copy)
    assert len(was) > 200
    differing = {name: (was.get(name), came_back.get(name)) for name in was.keys() | came_back.keys()}
    assert {name: both for name, both in differing.items() if both[0] != both[1]} == {}
