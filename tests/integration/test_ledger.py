"""The ledger: made, upgraded in place, usable by hand, and what is refused because of it."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import engine, ledger, migrate
from ansible_collections.habitat.runbook.plugins.module_utils.comparison import baseline_versions
from ansible_collections.habitat.runbook.plugins.module_utils.history import Run
from ansible_collections.habitat.runbook.plugins.module_utils.state import compare_bundle

RUN = Run("20261122t100211z-k3f", "alice")
GIVEN = {"target": None, "run_id": RUN.run_id, "operator": "bob", "origin": "here"}
GIVEN |= {"lock_timeout": "2s", "statement_timeout": "1min"}
FOUNDING = "CREATE TABLE schema_migrations (version varchar(255) PRIMARY KEY, applied_at timestamptz NOT NULL{})"


def test_the_documents_statements_by_hand_keep_working(workshop):
    workshop.write(m01_a="SELECT 1", m02_b="SELECT 1")
    workshop.apply("01")
    workshop.execute("INSERT INTO schema_migrations(version) VALUES ('02')")
    newest = "SELECT version FROM schema_migrations ORDER BY applied_at DESC LIMIT 1"
    assert workshop.query(newest) == [("02",)]
    assert workshop.states() == {"01": "applied", "02": "by hand"}
    assert workshop.compare().refusals == []
    workshop.execute("DELETE FROM schema_migrations WHERE version = '02'")
    assert workshop.states() == {"01": "applied", "02": "pending"}


@pytest.mark.parametrize("default", ["", " DEFAULT now()"])
def test_the_two_column_table_is_upgraded_in_place(workshop, default):
    workshop.execute(FOUNDING.format(default))
    workshop.execute("INSERT INTO schema_migrations VALUES ('01', '2026-02-10 09:00+00')")
    workshop.write(m01_a="SELECT 1", m02_b="SELECT 1")
    assert workshop.states() == {"01": "by hand", "02": "pending"}
    assert not workshop.apply().failure
    assert workshop.query("SELECT version, name, applied_at < '2026-03-01' FROM schema_migrations ORDER BY 1") == [
        ("01", None, True),
        ("02", "b", False),
    ]
    workshop.execute("INSERT INTO schema_migrations(version) VALUES ('03')")
    with workshop.connect() as connection:
        assert ledger.ensure_ledger(connection) is False


@pytest.mark.parametrize("before", ["SELECT 1", FOUNDING.format("")])
def test_what_it_lacks_is_told_as_the_sql_that_makes_it(workshop, before):
    who = Run("20261122t100211z-k3f", "O'Brien %s", environment="local")
    workshop.execute(before)
    with workshop.connect() as connection:
        told = ledger.missing(connection, who)
        for statement in told:
            connection.execute(statement.encode())
        assert ledger.missing(connection, who) == []
        assert ledger.ensure_ledger(connection, who) is False
    assert ("CREATE TABLE IF NOT EXISTS public.schema_migrations (" in told[0]) == (before == "SELECT 1")
    told_of = "SELECT environment, set_by, reason FROM schema_migrations_environment"
    assert workshop.query(told_of) == [("local", "O'Brien %s", None)]


def test_a_diff_shows_the_bookkeeping_before_the_migrations(workshop):
    workshop.write(m01_a="CREATE TABLE a (id int)", m02_b="SELECT 2")
    workshop.compare()
    given = {**GIVEN, "plan": str(workshop.bundle), "env": "local"}
    with workshop.connect() as connection:
        found = migrate.migrate(connection, lambda name: workshop.connect(), given, check=True, diff=True)
        text = found["diff"]["after"]
        assert text.startswith("-- bookkeeping\nCREATE TABLE IF NOT EXISTS public.schema_migrations (")
        assert text.index("VALUES ('local', 'bob', NULL)") < text.index(
            "-- schema/01_a.sql\nCREATE TABLE a (id int);\n-- schema/02_b.sql"
        )
        assert workshop.query("SELECT to_regclass('schema_migrations'), to_regclass('a')") == [(None, None)]
        workshop.execute("CREATE TABLE made_by_hand (id int)")
        recorded = migrate.baseline(connection, {**given, "target": "01"}, check=True, diff=True)
        assert recorded["diff"]["after"].endswith("END $$;\n01 recorded as baseline\n")


def test_a_diff_is_of_the_migrations_alone_where_nothing_is_lacking(workshop):
    workshop.write(m01_a="SELECT 1", m02_b="SELECT 2")
    workshop.apply("01")
    given = {**GIVEN, "plan": str(workshop.bundle), "env": ""}
    with workshop.connect() as connection:
        found = migrate.migrate(connection, lambda name: workshop.connect(), given, check=True, diff=True)
    assert found["diff"]["after"] == "-- schema/02_b.sql\nSELECT 2;\n"


@pytest.mark.parametrize("kind", ["text", "integer", "bigint"])
def test_other_types_and_extra_columns_are_left_alone(workshop, kind):
    workshop.execute(f"CREATE TABLE schema_migrations (version {kind} PRIMARY KEY, who text DEFAULT 'me', note text)")
    workshop.execute("INSERT INTO schema_migrations (version) VALUES ('1')")
    workshop.write(m01_a="SELECT 1", m02_b="SELECT 1")
    assert workshop.states() == {"1": "by hand", "02": "pending"}
    assert not workshop.apply().failure
    assert workshop.query("SELECT who, applied_at IS NOT NULL FROM schema_migrations ORDER BY version") == [
        ("me", True),
        ("me", True),
    ]


def test_a_reader_may_compare(workshop, cluster, database):
    workshop.write(m01_a="SELECT 1", m02_b="SELECT 1")
    workshop.apply("01")
    workshop.execute("DROP ROLE IF EXISTS reader")
    workshop.execute("CREATE ROLE reader LOGIN")
    workshop.execute("GRANT SELECT ON schema_migrations, schema_migrations_progress TO reader")
    with cluster.connect(database, user="reader", options="-c default_transaction_read_only=on") as connection:
        comparison, _, _ = compare_bundle(connection, str(workshop.bundle), "local")
    assert [state.state for state in comparison.states] == ["applied", "pending"]
    workshop.execute("DROP OWNED BY reader; DROP ROLE reader")


def test_default_privileges_do_not_open_the_ledger(workshop):
    workshop.execute("DROP ROLE IF EXISTS app")
    workshop.execute("CREATE ROLE app; ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE ON TABLES TO app, PUBLIC")
    workshop.write(m01_a="CREATE TABLE a (id int)")
    workshop.apply()
    query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND has_table_privilege('app', oid, 'INSERT')"
    assert workshop.query(query) == [("a",)]
    workshop.execute("DROP OWNED BY app; ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM app; DROP ROLE app")


def test_edited_files_are_refused_with_both_digests(workshop):
    workshop.write(m01_a="CREATE TABLE a (id int);")
    workshop.apply()
    workshop.write(m01_a="-- only a comment\nCREATE TABLE a   (id int)\n;\n\n")
    assert workshop.states() == {"01": "applied"}
    workshop.write(m01_a="CREATE TABLE a (id bigint);")
    (refusal,) = workshop.compare().refusals
    assert refusal.what.endswith("01_a.sql was changed after it was applied")
    assert "sha256" in refusal.found
    assert "git log -- " in refusal.next


def test_missing_and_out_of_order_are_refused(workshop):
    workshop.write(m01_a="SELECT 1", m03_c="SELECT 1")
    workshop.apply()
    workshop.write(m02_b="SELECT 1")
    (refusal,) = workshop.compare().refusals
    assert refusal.what.endswith("02_b.sql is out of order")
    assert "above 03" in refusal.next
    workshop.remove("02_b")
    workshop.remove("01_a")
    (refusal,) = workshop.compare().refusals
    assert refusal.what == "migration 01 is applied but its file is missing"


def test_another_tools_table_is_not_touched(workshop):
    workshop.execute("CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)")
    workshop.write(m01_a="SELECT 1")
    (refusal,) = workshop.compare().refusals
    assert "golang-migrate" in refusal.found


def test_a_database_with_tables_but_no_ledger_is_refused_and_names_baseline(workshop):
    workshop.execute("CREATE TABLE something (id int)")
    workshop.write(m01_a="SELECT 1", m06_b="SELECT 1")
    (refusal,) = workshop.compare().refusals
    assert "no ledger" in refusal.what
    assert "playbooks/baseline.yml -e env=local -e to=06" in refusal.next


def test_extensions_are_not_somebodys_tables(workshop):
    workshop.execute("CREATE EXTENSION hstore")
    workshop.write(m01_a="SELECT 1")
    assert workshop.compare().refusals == []


def test_baseline_records_without_running(workshop):
    workshop.execute("CREATE TABLE something (id int)")
    workshop.write(m01_a="SELECT 1 / 0", m02_b="SELECT 1 / 0", m03_c="SELECT 1")
    comparison, found, heads = _compared(workshop)
    versions, refusals = baseline_versions(comparison, found, "2", "local")
    assert (versions, refusals) == (["01", "02"], [])
    with workshop.connect() as connection:
        engine.baseline(connection, heads, versions, RUN)
    assert workshop.states() == {"01": "baseline", "02": "baseline", "03": "pending"}
    assert workshop.query("SELECT version FROM schema_migrations ORDER BY applied_at DESC LIMIT 1") == [("02",)]
    comparison, found, _ = _compared(workshop)
    assert baseline_versions(comparison, found, "2", "local") == ([], [])
    assert not workshop.apply().failure
    assert workshop.states()["03"] == "applied"


def test_baseline_refusals(workshop):
    workshop.write(m01_a="SELECT 1", m02_b="SELECT 1")
    comparison, found, _ = _compared(workshop)
    assert "empty" in baseline_versions(comparison, found, "2", "local")[1][0].what
    workshop.execute("CREATE TABLE something (id int)")
    comparison, found, _ = _compared(workshop)
    assert "no migration" in baseline_versions(comparison, found, "9", "local")[1][0].what
    workshop.execute("DROP TABLE something")
    workshop.apply("01")
    comparison, found, _ = _compared(workshop)
    assert "already records runs" in baseline_versions(comparison, found, "2", "local")[1][0].found


def _compared(workshop):
    workshop.compare()
    with workshop.connect() as connection:
        return compare_bundle(connection, str(workshop.bundle), "local")
