"""Habitat's own migrations: there and back, the application's rights at every version, append-only events."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import psycopg
import pytest

from demo import worker
from demo.api import store
from demo.database import Database
from tests.integration.habitat import LEDGER, MIGRATIONS, REPOSITORY, apply, make_roles, revert, schema_of

FOUNDING_EXAMPLE = """\
-- Migration: Add email verification
-- Up migration

CREATE TABLE email_verifications (
  id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
  member_id UUID NOT NULL REFERENCES members(id),
  email VARCHAR(255) NOT NULL,
  token VARCHAR(255) NOT NULL UNIQUE,
  expires_at TIMESTAMPTZ NOT NULL,
  verified_at TIMESTAMPTZ,
  created_at TIMESTAMPTZ NOT NULL DEFAULT NOW()
);

CREATE INDEX idx_email_verifications_member ON email_verifications(member_id);
CREATE INDEX idx_email_verifications_token ON email_verifications(token);

-- Down migration (rollback)
-- DROP TABLE email_verifications;
"""


@pytest.fixture
def owner(cluster, database) -> Iterator[psycopg.Connection]:
    """A session of the role that owns the database and may do nothing else; the application's role exists."""
    make_roles(cluster, database)
    with cluster.connect(database, user="habitat") as session:
        yield session


def application(cluster, owner) -> psycopg.Connection:
    return cluster.connect(owner.info.dbname, user="habitat_app")


def test_the_files_are_the_ones_of_the_founding_document():
    assert [migration.file.rsplit("/", 1)[-1] for migration in MIGRATIONS.values()] == [
        "01_treasury_core.sql",
        "02_people_core.sql",
        "03_rel_contributions.sql",
        "04_events.sql",
        "05_indexes.sql",
        "06_security.sql",
        "07_email_verifications.sql",
    ]
    assert (REPOSITORY / "schema/07_email_verifications.sql").read_text() == FOUNDING_EXAMPLE
    assert {migration.mode for migration in MIGRATIONS.values()} == {"transaction"}


def test_the_commented_down_section_of_the_founding_example_is_executable():
    down = MIGRATIONS["07"].down
    assert (down.state, down.sql.strip()) == ("ok", "DROP TABLE email_verifications;")


@pytest.mark.parametrize("ledger", [True, False])
@pytest.mark.parametrize("role", ["owner", "connection"])
def test_each_down_gives_the_schema_before_and_up_again_the_schema_after(request, owner, role, ledger):
    session = request.getfixturevalue(role)  # the owner, and a superuser, who may migrate as well
    if ledger:
        session.execute(LEDGER)
    before = {}
    for version in MIGRATIONS:
        before[version] = schema_of(session)
        apply(session, version, version)
    full = schema_of(session)
    for version in reversed(MIGRATIONS):
        revert(session, version)
        assert schema_of(session) == before[version], f"after the down of {version}"
    apply(session)
    assert schema_of(session) == full


def test_a_missing_role_that_may_not_be_made_is_told_with_what_to_run(owner):
    make_role = MIGRATIONS["01"].up[0].text
    assert "CREATE ROLE habitat_app" in make_role
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
        owner.execute(make_role.replace("habitat_app", "habitat_missing"))
    assert caught.value.diag.message_primary == "the role habitat_missing does not exist and habitat may not create it"
    assert "CREATE ROLE habitat_missing LOGIN" in caught.value.diag.message_hint


def test_the_role_is_made_where_it_is_missing_and_may_be_made(connection):
    make_role = MIGRATIONS["01"].up[0].text.replace("habitat_app", "habitat_made")
    with connection.transaction(force_rollback=True):
        connection.execute(make_role)
        connection.execute(make_role)
        row = connection.execute("SELECT rolcanlogin, rolsuper FROM pg_roles WHERE rolname = 'habitat_made'").fetchone()
        assert row == (False, False)


def test_the_api_and_the_worker_work_at_every_version(cluster, owner, monkeypatch):
    for name, value in cluster.conninfo(owner.info.dbname, "habitat_app").items():
        monkeypatch.setenv(
            {"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE", "user": "PGUSER"}[name], str(value)
        )
    database = Database("test")
    owner.execute(LEDGER)
    with database.session() as session:
        assert store.schema_version(session) is None
        for version in MIGRATIONS:
            apply(owner, version, version)
            owner.execute("INSERT INTO schema_migrations (version) VALUES (%s)", [version])
            assert store.schema_version(session) == version
            if version >= "02":
                member = store.add_member(session, f"v{version}@example.org", f"Member {version}")["id"]
                assert store.get_member(session, member)["email"] == f"v{version}@example.org"
                assert len(store.list_members(session, 50, store.FIRST)) == int(version) - 1
            if version >= "03":
                store.add_contribution(session, member, Decimal("12.50"), None)
                assert [row["amount"] for row in store.list_contributions(session, member, 9)] == [Decimal("12.50")]
            events = worker_events(owner)
            worker.step(database, None)
            assert worker_events(owner) == events + (version >= "04")


def worker_events(owner) -> int:
    if owner.execute("SELECT to_regclass('events')").fetchone() == (None,):
        return 0
    return owner.execute("SELECT count(*) FROM events WHERE event_type = 'treasury.totals_refreshed'").fetchone()[0]


def test_a_contribution_is_booked_and_told_with_it(cluster, owner):
    apply(owner)
    with application(cluster, owner) as session:
        member = store.add_member(session, "a@example.org", "A")["id"]
        given = store.add_contribution(session, member, Decimal("12.50"), "Roof")
    assert owner.execute("SELECT contribution_id, amount, description FROM treasury_entries").fetchall() == [
        (given["id"], Decimal("12.50"), "Roof")
    ]
    query = "SELECT version, event_type, payload FROM events WHERE stream_id = %s ORDER BY version"
    assert owner.execute(query, [member]).fetchall() == [
        (1, "member.joined", {"display_name": "A"}),
        (2, "member.contributed", {"contribution": str(given["id"]), "amount": "12.50", "currency": "EUR"}),
    ]


def test_the_worker_sums_up_what_each_member_gave(cluster, owner):
    apply(owner)
    with application(cluster, owner) as session:
        members = sorted(store.add_member(session, f"{name}@example.org", name)["id"] for name in "abc")
        for amount in ("1.10", "2.20"):
            store.add_contribution(session, members[0], Decimal(amount), None)
        refresh = "SELECT refresh_contribution_totals(%s, 2)"
        assert session.execute(refresh, [None]).fetchone() == (members[1],)
        assert session.execute(refresh, [members[1]]).fetchone() == (None,)
    query = "SELECT member_id, contributions, amount FROM contribution_totals ORDER BY member_id"
    assert owner.execute(query).fetchall() == [
        (members[0], 2, Decimal("3.30")),
        (members[1], 0, Decimal(0)),
        (members[2], 0, Decimal(0)),
    ]


def test_of_the_ledger_the_application_reads_the_version_and_writes_nothing(cluster, owner):
    owner.execute(LEDGER)
    owner.execute("ALTER TABLE schema_migrations ADD COLUMN checksum text")
    owner.execute("INSERT INTO schema_migrations (version) VALUES ('01')")
    for version in MIGRATIONS:
        apply(owner, version, version)
        with application(cluster, owner) as session:
            assert session.execute("SELECT version FROM schema_migrations WHERE applied_at <= now()").rowcount == 1
            for refused in (
                "SELECT checksum FROM schema_migrations",
                "INSERT INTO schema_migrations (version) VALUES ('99')",
                "UPDATE schema_migrations SET version = '99'",
                "DELETE FROM schema_migrations",
                "TRUNCATE schema_migrations",
                "CREATE TABLE mine (id int)",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    session.execute(refused)


def test_a_table_made_later_may_be_read_and_added_to_by_the_application(cluster, owner):
    apply(owner, last="06")
    owner.execute("CREATE TABLE later (id int)")
    with application(cluster, owner) as session:
        session.execute("INSERT INTO later VALUES (1)")
        session.execute("UPDATE later SET id = 2")
        assert session.execute("SELECT id FROM later").fetchall() == [(2,)]
        for refused in ("DELETE FROM later", "TRUNCATE later", "DROP TABLE later"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                session.execute(refused)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE {table} SET {column} = {column}",
        "UPDATE {table} SET {column} = {column} WHERE false",
        "DELETE FROM {table}",
        "DELETE FROM {table} WHERE false",
        "TRUNCATE {table}",
        "TRUNCATE {table} CASCADE",
    ],
)
@pytest.mark.parametrize(("table", "column"), [("events", "payload"), ("treasury_entries", "description")])
@pytest.mark.parametrize("role", ["owner", "connection"])
def test_events_and_bookings_are_append_only_for_everybody(request, owner, role, table, column, statement):
    apply(owner, last="04")
    session = request.getfixturevalue(role)
    with pytest.raises(psycopg.errors.RestrictViolation, match=f"{table} is append-only"):
        session.execute(statement.format(table=table, column=column))


def test_an_upsert_into_events_is_refused_too(owner):
    apply(owner, last="04")
    with pytest.raises(psycopg.errors.RestrictViolation):
        owner.execute(
            "INSERT INTO events (stream_type, stream_id, version, event_type) VALUES ('a', gen_random_uuid(), 1, 'a.b')"
            " ON CONFLICT (stream_id, version) DO UPDATE SET payload = '{}'"
        )


def test_two_writers_cannot_append_the_same_version(cluster, owner):
    apply(owner, last="04")
    append = "SELECT append_event('member', '00000000-0000-0000-0000-000000000001', 'member.seen', '{}')"
    with cluster.connect(owner.info.dbname, user="habitat", autocommit=False) as other:
        assert owner.execute(append).fetchone() == (1,)
        assert other.execute(append).fetchone() == (2,)
        owner.execute("SET lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):  # it waits for the other, whose version it also took
            owner.execute(append)
        other.commit()
        assert owner.execute(append).fetchone() == (3,)
    with pytest.raises(psycopg.errors.UniqueViolation):
        owner.execute(
            "INSERT INTO events (stream_type, stream_id, version, event_type)"
            " SELECT stream_type, stream_id, version, event_type FROM events"
        )


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO treasury_entries (account_id, amount, description) SELECT id, 0, 'x' FROM treasury_accounts",
        "INSERT INTO treasury_accounts (code, name, currency) VALUES ('x', 'x', 'euro')",
        "INSERT INTO members (email, display_name) VALUES ('no address', 'x')",
        "INSERT INTO members (email, display_name) VALUES ('a@example.org', '')",
        "INSERT INTO contributions (member_id, account_id, amount)"
        " SELECT m.id, a.id, -1 FROM members m, treasury_accounts a",
        "INSERT INTO events (stream_type, stream_id, version, event_type, payload)"
        " VALUES ('a', gen_random_uuid(), 1, 'a.b', '[]')",
        "INSERT INTO events (stream_type, stream_id, version, event_type) VALUES ('a', gen_random_uuid(), 0, 'a.b')",
    ],
)
def test_what_cannot_be_is_refused_by_the_table(owner, statement):
    apply(owner, last="04")
    owner.execute("INSERT INTO members (email, display_name) VALUES ('first@example.org', 'First')")
    with pytest.raises(psycopg.errors.CheckViolation):
        owner.execute(statement)


def test_an_email_is_unique_without_regard_to_case(owner):
    apply(owner, last="02")
    owner.execute("INSERT INTO members (email, display_name) VALUES ('a@example.org', 'A')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        owner.execute("INSERT INTO members (email, display_name) VALUES ('A@Example.org', 'B')")


def test_up_to_06_no_index_is_the_beginning_of_another(owner):
    apply(owner, last="06")
    query = """
        SELECT a.indexrelid::regclass, b.indexrelid::regclass FROM pg_index a JOIN pg_index b USING (indrelid)
        WHERE a.indexrelid <> b.indexrelid AND a.indexprs IS NULL AND b.indexprs IS NULL
          AND b.indkey::text || ' ' LIKE a.indkey::text || ' %%' AND NOT a.indisunique
          AND indrelid::regclass::text !~ '^(pg_|information_schema)'"""
    assert owner.execute(query, []).fetchall() == []


def test_every_foreign_key_is_indexed_on_its_own_side(owner):
    apply(owner)
    query = """
        SELECT conrelid::regclass, conname FROM pg_constraint
        WHERE contype = 'f' AND NOT EXISTS (
          SELECT FROM pg_index WHERE indrelid = conrelid AND indkey[0] = conkey[1])"""
    assert owner.execute(query).fetchall() == []


def test_every_table_has_a_comment_that_says_what_it_is_for(owner):
    apply(owner, last="06")
    query = """
        SELECT oid::regclass FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') AND obj_description(oid) IS NULL"""
    assert owner.execute(query).fetchall() == []
