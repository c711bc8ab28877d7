"""Migrations that cannot be one transaction: recognised, recorded step by step, resumed."""

from __future__ import annotations

import pytest

INVALID = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"


def test_concurrent_indexes_run_one_by_one(workshop):
    workshop.write(
        m01_a="CREATE TABLE a (id int, b int);",
        m02_idx="CREATE INDEX CONCURRENTLY i1 ON a (id);\nCREATE INDEX CONCURRENTLY i2 ON a (b);\nVACUUM a;",
    )
    outcome = workshop.apply()
    assert not outcome.failure, outcome.failure
    assert outcome.applied[1]["mode"] == "steps"
    assert workshop.query("SELECT count(*) FROM schema_migrations_progress") == [(0,)]
    assert workshop.states() == {"01": "applied", "02": "applied"}


def test_a_failing_step_is_on_record_and_a_later_run_goes_on_there(workshop):
    workshop.write(
        m01_a="CREATE TABLE a (id int); INSERT INTO a VALUES (1), (1);",
        m02_idx="""ALTER TABLE a ADD COLUMN b int;
INSERT INTO a VALUES (7);
CREATE UNIQUE INDEX CONCURRENTLY i1 ON a (id);
ALTER TABLE a ADD COLUMN c int;""",
    )
    failure = workshop.apply().failure
    assert (failure.state, failure.done, failure.total) == ("partial", 2, 4)
    assert (failure.line, failure.sqlstate) == (3, "23505")
    assert workshop.states()["02"] == "partial 2/4"
    assert workshop.query(INVALID) == [(0,)], "our own INVALID index is gone"
    assert workshop.query("SELECT version FROM schema_migrations") == [("01",)]
    assert "could not create unique index" in workshop.query("SELECT error FROM schema_migrations_progress")[0][0]
    workshop.execute("DELETE FROM a WHERE ctid = (SELECT min(ctid) FROM a)")
    outcome = workshop.apply()
    assert not outcome.failure, outcome.failure
    assert workshop.query("SELECT count(*) FROM a WHERE id = 7") == [(1,)], "no step ran twice"
    assert workshop.states()["02"] == "applied"


def test_neighbours_that_can_share_a_transaction_do(workshop):
    workshop.write(m01_a="CREATE TABLE a (id int);\nCREATE TABLE b (id int);\nSELECT 1 / 0;\nVACUUM a;")
    failure = workshop.apply().failure
    assert (failure.done, failure.total) == (0, 4)
    assert workshop.query("SELECT to_regclass('a'), to_regclass('b')") == [(None, None)]


def test_changed_statements_that_already_ran_are_refused(workshop):
    workshop.write(m01_a="CREATE TABLE a (id int);\nVACUUM a;\nSELECT 1 / 0;")
    assert workshop.apply().failure.done == 2
    workshop.write(m01_a="CREATE TABLE a (id bigint);\nVACUUM a;\nSELECT 1;")
    (refusal,) = workshop.compare().refusals
    assert "was changed after it was begun" in refusal.what
    assert "2 of its 3 statements" in refusal.found
    workshop.write(m01_a="CREATE TABLE a (id int);\nVACUUM a;\nSELECT 1;")
    assert not workshop.apply().failure


def test_settings_made_by_the_file_are_made_again_when_it_goes_on(workshop):
    workshop.execute("CREATE SCHEMA elsewhere")
    workshop.write(m01_a="SET search_path = elsewhere;\nCREATE TABLE a (id int);\nVACUUM a;\nSELECT 1 / 0;\nVACUUM;")
    assert workshop.apply().failure.done == 3
    workshop.write(
        m01_a="SET search_path = elsewhere;\nCREATE TABLE a (id int);\nVACUUM a;\nCREATE TABLE b (id int);\nVACUUM;"
    )
    assert not workshop.apply().failure
    assert workshop.query("SELECT to_regclass('elsewhere.b')::text") == [("elsewhere.b",)]


def test_as_written_keeps_the_files_own_transactions(workshop):
    workshop.write(
        m01_a="""-- migrate: transaction=false
CREATE TABLE a (id int);
BEGIN;
INSERT INTO a VALUES (1);
COMMIT;
BEGIN;
INSERT INTO a VALUES (2);
SELECT 1 / 0;
COMMIT;"""
    )
    failure = workshop.apply().failure
    assert (failure.done, failure.total) == (4, 8)
    assert workshop.query("SELECT id FROM a") == [(1,)]
    assert workshop.states() == {"01": "partial 4/8"}
    workshop.write(
        m01_a="""-- migrate: transaction=false
CREATE TABLE a (id int);
BEGIN;
INSERT INTO a VALUES (1);
COMMIT;
INSERT INTO a VALUES (3);"""
    )
    assert not workshop.apply().failure
    assert workshop.query("SELECT id FROM a ORDER BY id") == [(1,), (3,)]


def test_a_file_that_leaves_its_transaction_open_fails(workshop):
    workshop.write(m01_a="-- migrate: transaction=false\nCREATE TABLE a (id int);\nBEGIN;\nINSERT INTO a VALUES (1);")
    failure = workshop.apply().failure
    assert "ends inside a transaction" in failure.message
    assert workshop.states() == {"01": "partial 1/3"}
    assert workshop.query("SELECT count(*) FROM a") == [(0,)]


def test_procedures_that_commit_need_the_directive_and_say_so(workshop):
    body = "DO $$ BEGIN CREATE TABLE a (id int); COMMIT; END $$;"
    workshop.write(m01_a=body)
    failure = workshop.apply().failure
    assert failure.sqlstate == "2D000"
    assert "transaction=false" in failure.advice
    workshop.write(m01_a="-- migrate: transaction=false\n" + body)
    assert not workshop.apply().failure


def test_verify_after_steps_keeps_the_migration_partial(workshop):
    workshop.write(m01_a="CREATE TABLE a (id int);\nVACUUM a;\n-- Verify\nSELECT 'bad' AS state;")
    failure = workshop.apply().failure
    assert (failure.state, failure.done, failure.total) == ("partial", 2, 2)
    assert workshop.states() == {"01": "partial 2/2"}
    workshop.write(m01_a="CREATE TABLE a (id int);\nVACUUM a;\n-- Verify\nSELECT 'bad' AS state WHERE false;")
    assert not workshop.apply().failure
    assert workshop.states() == {"01": "applied"}


def test_an_invalid_index_of_an_interrupted_build_is_dropped_when_the_run_goes_on(workshop):
    workshop.write(m01_a="CREATE TABLE a (id int);\nCREATE INDEX CONCURRENTLY i1 ON a (id);")
    workshop.write(m01_a="CREATE TABLE a (id int);\nSELECT 1 / 0;\nCREATE INDEX CONCURRENTLY i1 ON a (id);")
    assert workshop.apply().failure.done == 0
    workshop.write(m01_a="CREATE TABLE a (id int);\nCREATE INDEX CONCURRENTLY i1 ON a (lower(id::text), (1 / id));")
    assert not workshop.apply().failure
    workshop.write(m02_b="VACUUM a;\nCREATE INDEX CONCURRENTLY i2 ON a (id);")
    workshop.execute("INSERT INTO a VALUES (1)")
    workshop.execute(
        "CREATE INDEX i2 ON a (id); UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i2'::regclass"
    )
    failure = workshop.apply().failure
    assert failure.sqlstate == "42P07", "an index that is not ours is never dropped"
    outcome = workshop.apply()
    assert not outcome.failure, outcome.failure
    assert workshop.query(INVALID) == [(0,)]


def test_if_not_exists_over_an_invalid_index_is_no_success(workshop):
    workshop.execute("CREATE TABLE schema_migrations (version text, applied_at timestamptz); CREATE TABLE a (id int)")
    workshop.execute("INSERT INTO schema_migrations VALUES ('00', now())")
    workshop.execute(
        "CREATE INDEX i ON a (id); UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i'::regclass"
    )
    workshop.write(m01_a="CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON a (id);")
    failure = workshop.apply().failure
    assert "exists but is INVALID" in failure.message


@pytest.mark.parametrize("name", ["Mixed Case", "plain"])
def test_concurrent_build_ignores_our_lock_timeout(workshop, name):
    """An old snapshot elsewhere must not kill the build and leave an INVALID index."""
    workshop.lock_timeout = "100ms"
    workshop.write(m01_a="CREATE TABLE a (id int);")
    workshop.apply()
    workshop.write(
        m02_b=f"CREATE INDEX CONCURRENTLY \"{name}\" ON a (id);\nCREATE TABLE t AS SELECT current_setting('lock_timeout') AS l;"
    )
    import threading

    with workshop._connect() as other:
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM a")
        timer = threading.Timer(0.6, lambda: other.execute("COMMIT"))
        timer.start()
        outcome = workshop.apply()
        timer.join()
    assert not outcome.failure, outcome.failure
    assert workshop.query("SELECT l FROM t") == [("100ms",)]
