"""The history beside the ledger: what is written, by whom, that nothing of it can be changed, and that it goes on."""

from __future__ import annotations

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import copies, engine, history, ledger
from ansible_collections.habitat.runbook.plugins.module_utils.bundle import read_bundle
from ansible_collections.habitat.runbook.plugins.module_utils.put_back import put_back

from tests.integration.conftest import RUN

WHO = history.Run("20261122t110211z-b7q", "bob", "AWX job 811")


def events(workshop) -> list[tuple]:
    return workshop.query("SELECT event, version FROM schema_migrations_history ORDER BY at")


def test_every_application_is_on_record(workshop):
    workshop.write(m01_a="CREATE TABLE a (id int);", m02_b="CREATE INDEX CONCURRENTLY i ON a (id);")
    assert not workshop.apply().failure
    assert events(workshop) == [("apply", "01"), ("apply", "02")]
    ((first, second),) = [tuple(workshop.query("SELECT to_jsonb(h) FROM schema_migrations_history h ORDER BY at"))]
    for (row,) in (first, second):
        assert (row["run_id"], row["operator"], row["error"]) == (RUN.run_id, RUN.operator, None)
        assert row["duration_ms"] >= 0
    assert set(first[0]["detail"]["changes"]) == {"table public.a", "column public.a.id", "column order public.a"}
    assert first[0]["detail"]["after"] == second[0]["detail"]["before"]
    assert set(second[0]["detail"]["changes"]) == {"index public.i"}


def test_a_failure_is_on_record_and_what_it_tried_is_not_there(workshop):
    workshop.write(m01_a="CREATE TABLE a (id int);", m02_b="CREATE TABLE b (id int); SELECT 1/0;")
    assert workshop.apply().failure
    assert events(workshop) == [("apply", "01"), ("fail", "02")]
    rows = workshop.query("SELECT error, detail->>'state' FROM schema_migrations_history WHERE event = 'fail'")
    assert rows == [("division by zero", "rolled_back")]


def test_a_baseline_is_on_record(workshop):
    workshop.write(m01_a="CREATE TABLE a (id int);")
    workshop.compare()
    with workshop.connect() as connection:
        heads = [head for head, _ in read_bundle(str(workshop.bundle))]
        engine.baseline(connection, heads, ["01"], WHO)
        (entry,) = history.read_history(connection, 10)
    assert (entry["event"], entry["version"], entry["operator"], entry["origin"]) == (
        "baseline",
        "01",
        "bob",
        "AWX job 811",
    )


def test_nobody_but_a_superuser_changes_it(cluster, database, connection):
    role = f"owner_{database}"
    connection.execute(f"CREATE ROLE {role} LOGIN")
    try:
        connection.execute(f'ALTER DATABASE "{database}" OWNER TO {role}')
        with cluster.connect(database, user=role) as owner:
            ledger.ensure_ledger(owner)
            owner.execute(history.INSERT, history.values(history.APPLY, WHO, "01", "a"))
            for command in ("UPDATE {} SET operator = 'x'", "DELETE FROM {}", "TRUNCATE {}"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    owner.execute(command.format(history.TABLE))
            assert len(history.read_history(owner, 10)) == 1
    finally:
        connection.execute(f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}")
        connection.execute(f'ALTER DATABASE "{database}" OWNER TO postgres')
        connection.execute(f"DROP ROLE {role}")


def test_the_last_commit_is_the_first_of_the_last_run(connection):
    ledger.ensure_ledger(connection)
    assert history.last_commit(connection) is None
    for run_id, event in (("a", "apply"), ("b", "apply"), ("b", "apply"), ("c", "fail"), ("d", "restore")):
        connection.execute(history.INSERT, history.values(event, history.Run(run_id, "x"), "01", "n"))
    row = connection.execute(
        "SELECT to_jsonb(min(at)) #>> '{}' FROM schema_migrations_history WHERE run_id = 'b'"
    ).fetchone()
    assert history.last_commit(connection) == row[0]


def test_it_goes_on_in_the_database_that_comes_in(cluster, database, workshop):
    workshop.write(m01_a="CREATE TABLE a (id int);", m02_b="CREATE TABLE b (id int);")
    workshop.apply("01")
    with cluster.connect() as admin:
        incoming = copies.take_point(admin, database, WHO.run_id)
    workshop.apply()
    done = put_back(lambda name: cluster.connect(name), database, incoming, WHO, "the point")
    try:
        assert (done["from_version"], done["to_version"]) == ("02", "01")
        assert events(workshop) == [("apply", "01"), ("apply", "02"), ("restore", "01")]
        assert workshop.states() == {"01": "applied", "02": "pending"}
        row = workshop.query("SELECT detail, operator FROM schema_migrations_history WHERE event = 'restore'")
        assert row == [({"source": "the point", "from_version": "02"}, "bob")]
        with cluster.connect(done["kept_as"]) as kept:
            assert [entry["event"] for entry in history.read_history(kept, 10)] == ["apply", "apply"]
    finally:
        with cluster.connect() as admin:
            admin.execute(f'DROP DATABASE "{done["kept_as"]}"')


def test_it_begins_in_a_database_that_never_had_one(cluster, database, connection):
    with cluster.connect() as admin:
        incoming = copies.copy_name(database, copies.RESTORE, WHO.run_id)
        admin.execute(f'CREATE DATABASE "{incoming}" TEMPLATE template0')
    connection.close()
    done = put_back(lambda name: cluster.connect(name), database, incoming, WHO, "an empty one")
    with cluster.connect(database) as now:
        assert [entry["event"] for entry in history.read_history(now, 10)] == ["restore"]
    with cluster.connect() as admin:
        admin.execute(f'DROP DATABASE "{done["kept_as"]}"')
