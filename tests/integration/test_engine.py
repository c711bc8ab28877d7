"""One transaction per migration, its ledger row in it, and nothing that leaks into the next one."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import steps


def test_applies_in_numeric_order_and_records_each(workshop):
    workshop.write(
        m9_first="CREATE TABLE a (id int)",
        m10_second="ALTER TABLE a ADD COLUMN b int;",
        m20260210100000_third="ALTER TABLE a ADD COLUMN c int;\n-- Down migration\nALTER TABLE a DROP COLUMN c;\n",
    )
    outcome = workshop.apply()
    assert [one["version"] for one in outcome.applied] == ["9", "10", "20260210100000"]
    rows = workshop.query(
        "SELECT version, name, kind, applied_by, run_id, down_sql FROM schema_migrations ORDER BY applied_at"
    )
    assert rows[0] == ("9", "first", "apply", "alice", "20261122t100211z-k3f", None)
    assert "DROP COLUMN c" in rows[2][5]
    assert workshop.apply().applied == []


def test_durations_are_those_of_the_ledger(workshop):
    workshop.write(m01_slow="SELECT pg_sleep(0.2)")
    (one,) = workshop.apply().applied
    assert 200 <= one["duration_ms"] < 20_000
    assert workshop.query("SELECT duration_ms FROM schema_migrations") == [(one["duration_ms"],)]


def test_a_failure_leaves_nothing_of_its_migration_and_keeps_those_before(workshop):
    workshop.write(
        m01_good="CREATE TABLE good (id int);",
        m02_bad="CREATE TABLE half (id int);\n\nINSERT INTO half VALUES (1),\n  ('x');\nCREATE TABLE never (id int);",
        m03_later="CREATE TABLE later (id int);",
    )
    outcome = workshop.apply()
    assert [one["version"] for one in outcome.applied] == ["01"]
    failure = outcome.failure
    assert (failure.version, failure.state, failure.sqlstate) == ("02", "rolled_back", "22P02")
    assert (failure.line, failure.column) == (4, 4)
    assert failure.file.endswith("02_bad.sql")
    assert failure.statement.startswith("INSERT INTO half")
    assert workshop.query("SELECT relname FROM pg_class WHERE relname IN ('good', 'half', 'never', 'later')") == [
        ("good",)
    ]
    assert workshop.query("SELECT version FROM schema_migrations") == [("01",)]
    assert workshop.states() == {"01": "applied", "02": "pending", "03": "pending"}


def test_errors_carry_detail_hint_and_context(workshop):
    workshop.write(m01_a="CREATE TABLE a (id int PRIMARY KEY);\nINSERT INTO a VALUES (1);\nINSERT INTO a VALUES (1);")
    failure = workshop.apply().failure
    assert failure.line == 3
    assert failure.detail == "Key (id)=(1) already exists."
    workshop.write(m01_a="DO $$\nBEGIN\n  RAISE EXCEPTION 'no' USING HINT = 'try this';\nEND $$;")
    failure = workshop.apply().failure
    assert failure.hint == "try this"
    assert "line 3 at RAISE" in failure.context


def test_a_deferred_constraint_that_fails_at_commit_rolls_everything_back(workshop):
    workshop.write(
        m01_a="""CREATE TABLE a (id int PRIMARY KEY);
                 CREATE TABLE b (id int REFERENCES a DEFERRABLE INITIALLY DEFERRED);
                 INSERT INTO b VALUES (1);"""
    )
    failure = workshop.apply().failure
    assert (failure.state, failure.sqlstate) == ("rolled_back", "23503")
    assert workshop.query("SELECT to_regclass('a')") == [(None,)]
    assert workshop.query("SELECT count(*) FROM schema_migrations") == [(0,)]


def test_a_file_that_is_one_transaction_runs_as_ours(workshop):
    workshop.write(
        m01_a="BEGIN ISOLATION LEVEL SERIALIZABLE;\nCREATE TABLE a AS SELECT current_setting('transaction_isolation') AS level;\nCOMMIT;"
    )
    assert not workshop.apply().failure
    assert workshop.query("SELECT level FROM a") == [("serializable",)]
    assert workshop.states() == {"01": "applied"}


def test_empty_and_comment_only_migrations_are_migrations(workshop):
    workshop.write(m01_empty="", m02_comment="-- nothing to do here\n/* at all */\n")
    assert [one["statements"] for one in workshop.apply().applied] == [0, 0]
    assert workshop.states() == {"01": "applied", "02": "applied"}


def test_session_state_does_not_leak(workshop):
    workshop.execute("CREATE SCHEMA elsewhere")
    workshop.write(
        m01_dirty="""SET search_path = elsewhere; SET statement_timeout = '7s'; SET session_replication_role = replica;
                     CREATE TEMP TABLE scratch (id int); PREPARE p AS SELECT 1; LISTEN x;
                     SELECT set_config('habitat.member_id', 'x', false); CREATE TABLE here (id int);""",
        m02_clean="""CREATE TABLE seen AS SELECT current_setting('search_path') AS path,
                     current_setting('statement_timeout') AS timeout, current_setting('session_replication_role') AS replication,
                     to_regclass('scratch') AS scratch, (SELECT count(*) FROM pg_prepared_statements) AS prepared,
                     coalesce(current_setting('habitat.member_id', true), '') AS member;""",
    )
    assert not workshop.apply().failure
    assert workshop.query("SELECT * FROM public.seen") == [('"$user", public', "1min", "origin", None, 0, "")]
    assert workshop.query("SELECT to_regclass('elsewhere.here')::text") == [("elsewhere.here",)]


@pytest.mark.parametrize(
    "change", ["SET ROLE pg_monitor", "SET SESSION AUTHORIZATION pg_monitor", "SET LOCAL ROLE pg_monitor"]
)
def test_a_file_that_changes_its_role_is_still_recorded(workshop, change):
    workshop.write(m01_a=f"CREATE TABLE a (id int); {change};", m02_b="CREATE TABLE b (id int);")
    assert not workshop.apply().failure
    assert workshop.query("SELECT tableowner FROM pg_tables WHERE tablename = 'b'") == [("postgres",)]


def test_timeouts_of_a_file_are_its_own(workshop):
    probe = (
        "CREATE TABLE t{} AS SELECT current_setting('lock_timeout') AS l, current_setting('statement_timeout') AS s;"
    )
    workshop.write(
        m01_a="-- migrate: lock_timeout=7s statement_timeout=3min\n" + probe.format(1),
        m02_b=probe.format(2),
        m03_c="SET lock_timeout = '9s';" + probe.format(3),
        m04_d=probe.format(4),
    )
    assert not workshop.apply().failure
    found = [workshop.query(f"SELECT l, s FROM t{number}")[0] for number in (1, 2, 3, 4)]
    assert found == [("7s", "3min"), ("2s", "1min"), ("9s", "1min"), ("2s", "1min")]


def test_defaults_of_role_and_database_do_not_shorten_ours(workshop, database):
    workshop.execute(f"ALTER DATABASE \"{database}\" SET statement_timeout = '500ms'")
    workshop.write(m01_a="CREATE TABLE a AS SELECT current_setting('statement_timeout') AS s FROM pg_sleep(0.7);")
    assert not workshop.apply().failure
    assert workshop.query("SELECT s FROM a") == [("1min",)]


def test_waiting_for_a_lock_is_bounded_and_explained(workshop):
    workshop.lock_timeout = "200ms"
    workshop.execute(
        "CREATE TABLE busy (id int); CREATE TABLE schema_migrations (version text, applied_at timestamptz)"
    )
    workshop.execute("INSERT INTO schema_migrations VALUES ('00', now())")
    workshop.write(m01_a="ALTER TABLE busy ADD COLUMN b int;")
    with workshop._connect() as other, other.transaction():
        other.execute("LOCK TABLE busy IN ACCESS SHARE MODE")
        started = time.monotonic()
        failure = workshop.apply().failure
        assert time.monotonic() - started < 120
    assert failure.sqlstate == "55P03"
    assert "run this again" in failure.advice
    assert not workshop.apply().failure


def test_sessions_carry_the_run(workshop):
    workshop.write(m01_a="CREATE TABLE a AS SELECT current_setting('application_name') AS name;")
    workshop.apply()
    assert workshop.query("SELECT name FROM a") == [("runbook/20261122t100211z-k3f",)]


def test_verify_rows_or_errors_roll_back(workshop):
    workshop.write(m01_a="CREATE TABLE a AS SELECT 5 AS id;\n-- Verify\nSELECT id AS wrong FROM a WHERE id > 3;\n")
    failure = workshop.apply().failure
    assert failure.message == "a Verify query must return no row, this one returned (wrong=5)"
    assert (failure.line, failure.state) == (3, "rolled_back")
    workshop.write(m01_a="CREATE TABLE a AS SELECT 5 AS id;\n-- Verify\nSELECT 1 / 0;\n")
    assert workshop.apply().failure.sqlstate == "22012"
    assert workshop.query("SELECT to_regclass('a')") == [(None,)]
    workshop.write(m01_a="CREATE TABLE a AS SELECT 5 AS id;\n-- Verify\nSELECT id FROM a WHERE id > 5;\n")
    assert not workshop.apply().failure


def test_copy_data_and_dump_output_run(workshop, cluster, database):
    text = "CREATE TABLE a (id int, t text);\nCOPY a FROM stdin;\n1\tone; -- no comment\n2\t\\N\n\\.\nCOPY a TO stdout;\nCOPY a FROM stdin WITH (FORMAT csv);\n3,three\n\\.\n"
    workshop.write(m01_a=text)
    assert not workshop.apply().failure
    assert workshop.query("SELECT * FROM a ORDER BY id") == [(1, "one; -- no comment"), (2, None), (3, "three")]
    workshop.write(m02_b="COPY a FROM stdin;\nnot a number\tx\n\\.\n")
    failure = workshop.apply().failure
    assert failure.sqlstate == "22P02"
    assert "COPY a, line 1" in failure.context
    assert workshop.query("SELECT count(*) FROM a") == [(3,)]


def test_copy_from_a_server_file_is_an_ordinary_statement(workshop, tmp_path):
    (tmp_path / "rows").write_text("1\n2\n")
    tmp_path.chmod(0o755)
    workshop.write(m01_a=f"CREATE TABLE a (id int); COPY a FROM '{tmp_path}/rows'; SELECT 1;")
    outcome = workshop.apply()
    assert not outcome.failure, outcome.failure
    assert workshop.query("SELECT count(*) FROM a") == [(2,)]


def test_large_answers_do_not_block(workshop):
    """Both sides writing at once would wait for ever without reading in between."""
    many = "SELECT repeat('x', 1000) FROM generate_series(1, 5000);\n" * 30
    workshop.write(m01_a="CREATE TABLE a (id int);" + many + f"SELECT '{'y' * 3_000_000}';")
    done = threading.Event()
    thread = threading.Thread(target=lambda: (workshop.apply(), done.set()), daemon=True)
    thread.start()
    assert done.wait(300)


def test_a_killed_backend_is_a_failure_that_leaves_nothing(workshop):
    workshop.write(
        m01_a="CREATE TABLE a (id int);\nSELECT pg_terminate_backend(pg_backend_pid());\nCREATE TABLE b (id int);"
    )
    failure = workshop.apply().failure
    assert failure.state == "rolled_back"
    assert workshop.query("SELECT to_regclass('a'), (SELECT count(*) FROM schema_migrations)") == [(None, 0)]
    assert workshop.states() == {"01": "pending"}


def test_a_connection_lost_at_commit_is_looked_up_not_guessed(workshop, monkeypatch):
    """The answer to COMMIT is lost on the way, once after and once before the server executed it."""
    from ansible_collections.habitat.runbook.plugins.module_utils import transaction

    real = transaction.run_one

    def lost(executed: bool):
        def run_one(connection, item):
            if item.sql == "COMMIT":
                if executed:
                    real(connection, item)
                else:
                    workshop.execute(f"SELECT pg_terminate_backend({connection.info.backend_pid})")
                raise transaction.StatementFailed(item, psycopg.OperationalError("connection lost"), lost=True)
            return real(connection, item)

        return run_one

    workshop.write(m01_a="CREATE TABLE a (id int);")
    monkeypatch.setattr(transaction, "run_one", lost(executed=False))
    assert workshop.apply().failure.state == "rolled_back"
    assert workshop.states() == {"01": "pending"}
    monkeypatch.setattr(transaction, "run_one", lost(executed=True))
    outcome = workshop.apply()
    assert outcome.failure is None
    assert [one["version"] for one in outcome.applied] == ["01"]


@pytest.mark.parametrize(("commit", "states"), [(4, {"01": "applied"}), (3, {"01": "partial 2/2"})])
def test_a_connection_lost_at_a_commit_of_a_stepwise_migration_is_looked_up(workshop, monkeypatch, commit, states):
    """The answer to one of its COMMITs is lost after the server has executed it; the fourth one is the last."""
    workshop.write(m01_a="CREATE TABLE a (id int);\nCREATE INDEX CONCURRENTLY i ON a (id);")
    real, commits = steps.run_one, itertools.count(1)

    def lost(connection, item):
        answer = real(connection, item)
        if item.sql == "COMMIT" and next(commits) == commit:
            connection.pgconn.finish()
            raise steps.StatementFailed(item, psycopg.OperationalError("connection lost"), lost=True)
        return answer

    monkeypatch.setattr(steps, "run_one", lost)
    outcome = workshop.apply()
    assert workshop.states() == states
    if states["01"] == "applied":
        assert (outcome.failure, [one["version"] for one in outcome.applied]) == (None, ["01"])
    else:
        assert (outcome.failure.state, outcome.failure.done) == ("partial", 2)


def test_a_journal_without_room_takes_a_migration_back_before_its_commit(workshop):
    def full(event, version, xid):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    workshop.write(m01_a="CREATE TABLE a (id int);")
    failure = workshop.apply(note=full).failure
    assert (failure.state, failure.sqlstate) == ("rolled_back", "53100")
    assert failure.message == "the run's journal cannot be written (No space left on device); make room on its disk"
    assert workshop.states() == {"01": "pending"}


def test_a_server_that_cannot_be_asked_after_a_lost_commit_leaves_it_unknown(workshop, monkeypatch):
    from ansible_collections.habitat.runbook.plugins.module_utils import engine, history, transaction

    real, tries = transaction.run_one, []

    def lost(connection, item):
        if item.sql == "COMMIT":
            raise transaction.StatementFailed(item, psycopg.OperationalError("connection lost"), lost=True)
        return real(connection, item)

    def away():
        tries.append(1)
        if len(tries) <= 2:
            raise psycopg.OperationalError("starting up")
        return workshop.connect()

    monkeypatch.setattr(transaction, "run_one", lost)
    workshop.write(m01_a="CREATE TABLE a (id int);")
    workshop.compare()
    plan = str(workshop.bundle)
    found = engine.apply(workshop.connect(), away, plan, ["01"], history.Run("20261122t100211z-k3f", "alice"))
    assert (found.failure.state, len(tries)) == ("rolled_back", 3)
    tries.clear()
    monkeypatch.setattr(engine, "_RECONNECT_SECONDS", 0)
    found = engine.apply(workshop.connect(), away, plan, ["01"], history.Run("20261122t100211z-k3f", "alice"))
    assert found.failure.state == "unknown"


def test_target_stops_there(workshop):
    workshop.write(m01_a="SELECT 1", m02_b="SELECT 1", m03_c="SELECT 1")
    assert [one["version"] for one in workshop.apply("2").applied] == ["01", "02"]
    assert workshop.states() == {"01": "applied", "02": "applied", "03": "pending"}
