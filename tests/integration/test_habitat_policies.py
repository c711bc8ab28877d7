"""Row-level security of 06_security.sql, tried as the application's role: one's own rows and nobody else's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest

from demo.api import store
from demo.embedded import postgres
from tests.integration.habitat import LEDGER, MIGRATIONS, apply, found, make_roles, revert

NO_ONE = "00000000-0000-0000-0000-000000000000"


@dataclass
class Habitat:
    """A database at version 07 with two members who gave something, and sessions of both roles."""

    owner: psycopg.Connection
    app: psycopg.Connection
    me: UUID
    other: UUID

    def act_as(self, member: UUID | str) -> None:
        self.app.execute("SELECT set_config('habitat.member_id', %s, false)", [str(member)])

    def denied(self, statement: str, values: list | None = None) -> None:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
            self.app.execute(statement, values)


@pytest.fixture
def habitat(cluster, database) -> Iterator[Habitat]:
    make_roles(cluster, database)
    with cluster.connect(database, user="habitat") as owner, cluster.connect(database, user="habitat_app") as app:
        owner.execute(LEDGER)
        apply(owner)
        me, other = (store.add_member(app, f"{name}@example.org", name)["id"] for name in ("me", "other"))
        for member in (me, other):
            store.add_contribution(app, member, Decimal("10.00"), None)
        app.execute("SELECT refresh_contribution_totals(NULL, 100)")
        there = Habitat(owner, app, me, other)
        there.act_as(me)
        yield there


OWNED = [
    ("members", "id"),
    ("contributions", "member_id"),
    ("events", "stream_id"),
    ("contribution_totals", "member_id"),
]


@pytest.mark.parametrize(("table", "member"), OWNED)
def test_only_own_rows_are_visible(habitat, table, member):
    everybody = {row[0] for row in habitat.owner.execute(f"SELECT {member} FROM {table}")}
    assert everybody >= {habitat.me, habitat.other}
    assert {row[0] for row in habitat.app.execute(f"SELECT {member} FROM {table}")} == {habitat.me}


def test_only_entries_of_own_contributions_are_visible(habitat):
    query = "SELECT c.member_id FROM treasury_entries e JOIN contributions c ON c.id = e.contribution_id"
    assert habitat.owner.execute(query).rowcount == 2
    assert habitat.app.execute("SELECT FROM treasury_entries").rowcount == 1
    assert habitat.app.execute(query).fetchall() == [(habitat.me,)]


@pytest.mark.parametrize("nobody", ["", NO_ONE, None])
@pytest.mark.parametrize("table", [*dict(OWNED), "treasury_entries"])
def test_who_acts_for_nobody_sees_nothing(habitat, table, nobody):
    if nobody is None:
        habitat.app.execute("RESET habitat.member_id")
    else:
        habitat.act_as(nobody)
    assert habitat.app.execute(f"SELECT FROM {table}").rowcount == 0


def test_a_setting_that_is_no_id_is_an_error_and_not_a_way_in(habitat):
    habitat.act_as("' OR true --")
    with pytest.raises(psycopg.errors.InvalidTextRepresentation):
        habitat.app.execute("SELECT FROM members")


def test_the_member_is_forgotten_with_the_transaction(habitat):
    habitat.app.execute("RESET habitat.member_id")
    assert store.get_member(habitat.app, habitat.me)["email"] == "me@example.org"
    assert habitat.app.execute("SELECT FROM members").rowcount == 0


def test_a_member_cannot_be_added_in_another_name(habitat):
    habitat.denied("INSERT INTO members (id, email, display_name) VALUES (gen_random_uuid(), 'x@example.org', 'X')")


def test_a_contribution_can_be_added_for_oneself_only(habitat):
    add = "INSERT INTO contributions (member_id, account_id, amount) SELECT %s, id, 1 FROM treasury_accounts"
    habitat.denied(add, [habitat.other])
    assert habitat.app.execute(add, [habitat.me]).rowcount == 1


def test_an_entry_books_an_own_contribution_at_its_amount_only(habitat):
    pending = (
        "INSERT INTO contributions (member_id, account_id, amount) SELECT %s, id, 5 FROM treasury_accounts RETURNING id"
    )
    ids = {member: habitat.owner.execute(pending, [member]).fetchone()[0] for member in (habitat.me, habitat.other)}
    book = (
        "INSERT INTO treasury_entries (account_id, contribution_id, amount, description)"
        " SELECT id, %s, %s, 'x' FROM treasury_accounts"
    )
    habitat.denied(book, [ids[habitat.other], 5])
    habitat.denied(book, [ids[habitat.me], 6])
    habitat.denied(book, [None, 5])
    assert habitat.app.execute(book, [ids[habitat.me], 5]).rowcount == 1


def test_an_event_can_be_appended_to_the_own_stream_only(habitat):
    append = "SELECT append_event(%s, %s, 'member.seen', '{}')"
    habitat.denied(append, ["member", habitat.other])
    habitat.denied(append, ["treasury", habitat.me])
    assert habitat.app.execute(append, ["member", habitat.me]).fetchone() == (3,)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE members SET display_name = 'x' WHERE id = %s",
        "UPDATE contributions SET amount = 1 WHERE member_id = %s",
        "DELETE FROM members WHERE id = %s",
        "DELETE FROM contributions WHERE member_id = %s",
        "SELECT FROM members WHERE id = %s FOR UPDATE",
    ],
)
def test_rows_of_another_member_are_out_of_reach(habitat, statement):
    before = habitat.owner.execute("SELECT * FROM members m JOIN contributions c ON c.member_id = m.id").fetchall()
    assert habitat.app.execute(statement, [habitat.other]).rowcount == 0
    after = habitat.owner.execute("SELECT * FROM members m JOIN contributions c ON c.member_id = m.id").fetchall()
    assert after == before


def test_own_rows_can_be_changed_and_deleted_but_not_given_away(habitat):
    change = habitat.app.execute
    assert change("UPDATE members SET display_name = 'New' WHERE id = %s", [habitat.me]).rowcount == 1
    assert change("UPDATE contributions SET note = 'New'").rowcount == 1
    habitat.denied("UPDATE contributions SET member_id = %s", [habitat.other])
    habitat.denied("UPDATE members SET id = gen_random_uuid()")
    change(
        "INSERT INTO contributions (member_id, account_id, amount, note)"
        " SELECT %s, id, 1, 'Withdrawn' FROM treasury_accounts",
        [habitat.me],
    )
    assert change("DELETE FROM contributions WHERE note = 'Withdrawn'").rowcount == 1
    with pytest.raises(psycopg.errors.ForeignKeyViolation):  # the booking holds it in place
        change("DELETE FROM contributions")


def test_a_member_without_contributions_can_leave(habitat):
    leaver = store.add_member(habitat.app, "leaver@example.org", "Leaver")["id"]
    habitat.act_as(leaver)
    assert habitat.app.execute("DELETE FROM members").rowcount == 1
    assert habitat.owner.execute("SELECT FROM members").rowcount == 2


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO contribution_totals (member_id, contributions, amount) SELECT id, 1, 1 FROM members",
        "UPDATE contribution_totals SET amount = 1",
        "DELETE FROM contribution_totals",
        "INSERT INTO treasury_accounts (code, name, currency) VALUES ('mine', 'Mine', 'EUR')",
        "UPDATE treasury_accounts SET name = 'Mine'",
        "ALTER TABLE members DISABLE ROW LEVEL SECURITY",
        "SET ROLE habitat",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    ],
)
def test_what_the_application_has_no_right_to(habitat, statement):
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        habitat.app.execute(statement)


def test_the_directory_shows_everybody_and_nothing_private(habitat):
    cursor = habitat.app.execute("SELECT * FROM member_directory")
    assert {row[0] for row in cursor} == {habitat.me, habitat.other}
    assert [column.name for column in cursor.description] == ["id", "display_name", "created_at"]


def test_the_worker_reaches_all_members_while_acting_for_nobody(habitat):
    habitat.owner.execute("DELETE FROM contribution_totals")
    habitat.app.execute("RESET habitat.member_id")
    habitat.app.execute("SELECT refresh_contribution_totals(NULL, 100)")
    assert habitat.owner.execute("SELECT FROM contribution_totals WHERE amount = 10").rowcount == 2


def test_functions_of_the_schema_are_for_the_application_alone(habitat):
    query = """
        SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND has_function_privilege('public', oid, 'EXECUTE')"""
    assert habitat.owner.execute(query).fetchall() == []
    pinned = """
        SELECT oid::regprocedure FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND NOT proconfig::text ~ 'search_path=pg_catalog'"""
    assert habitat.owner.execute(pinned).fetchall() == []


def test_the_owner_can_dump_every_row(habitat):
    info = habitat.owner.info
    where = ["-h", info.host, "-p", str(info.port), "-U", "habitat", "-d", info.dbname]
    dump = subprocess.run([postgres.tool("pg_dump"), *where], text=True, capture_output=True, check=True).stdout
    assert "me@example.org" in dump and "other@example.org" in dump


def test_the_down_section_opens_everything_again(habitat):
    for version in ("07", "06"):
        revert(habitat.owner, version)
    assert habitat.app.execute("SELECT FROM members").rowcount == 2


def broken(habitat: Habitat, *statements: str) -> list[tuple]:
    """What the verify section of 06 finds after some statements of the owner, which are taken back."""
    with habitat.owner.transaction(force_rollback=True):
        for statement in statements:
            habitat.owner.execute(statement)
        return [(str(row[0]),) for row in found(habitat.owner, MIGRATIONS["06"])]


def test_the_verify_section_finds_what_is_open(habitat):
    revert(habitat.owner, "07")
    assert broken(habitat) == []
    assert broken(habitat, "ALTER TABLE members DISABLE ROW LEVEL SECURITY") == [("members",)]
    assert broken(habitat, "CREATE TABLE later (id int)") == [("later",)]
    assert broken(habitat, "GRANT UPDATE (version) ON schema_migrations TO habitat_app") == [("schema_migrations",)]


def test_the_verify_section_finds_a_role_above_the_policies(habitat, cluster):
    revert(habitat.owner, "07")
    with cluster.connect() as admin:
        admin.execute("ALTER ROLE habitat_app BYPASSRLS")
        try:
            assert broken(habitat) == [("habitat_app",)]
        finally:
            admin.execute("ALTER ROLE habitat_app NOBYPASSRLS")
