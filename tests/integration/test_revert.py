"""Down migrations on a real server: order, text, what is refused, and the schema afterwards."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from ansible_collections.habitat.runbook.plugins.module_utils import migrate_down, transaction
from ansible_collections.habitat.runbook.plugins.module_utils.catalog import fingerprint, read_catalog
from ansible_collections.habitat.runbook.plugins.module_utils.wire import StatementFailed

from tests.integration.conftest import RUN
from tests.integration.habitat import REPOSITORY

GIVEN = {
    "login_db": "",
    "run_id": RUN.run_id,
    "run_dir": None,
    "operator": "bob",
    "origin": "AWX job 811",
    "env": "local",
    "target": None,
    "steps": None,
    "accept_data_loss": False,
    "writer_roles": [],
    "drain": 1.0,
}


def revert(workshop, check: bool = False, **given: Any) -> dict[str, Any]:
    workshop.compare()
    parameters = {**GIVEN, "plan": str(workshop.bundle), **given}
    with workshop.connect() as connection:
        return migrate_down.revert(connection, lambda name: workshop.connect(), parameters, check, diff=True)


def schema_of(workshop) -> str:
    with workshop.connect() as connection:
        return fingerprint(read_catalog(connection))


A = "CREATE TABLE a (id int);\n-- Down migration\nDROP TABLE a;"
B = "CREATE TABLE b (id int);\nCREATE INDEX ON b (id);\n-- Down migration\n-- DROP TABLE b;"
C = "ALTER TABLE a ADD COLUMN name text;\n-- Down migration\nALTER TABLE a DROP COLUMN name;"


def test_newest_first_and_the_schema_is_what_it_was(workshop):
    workshop.write(m01_a=A)
    workshop.apply()
    before = schema_of(workshop)
    workshop.write(m02_b=B, m03_c=C)
    workshop.apply()
    done = revert(workshop, target="01")
    assert [one["version"] for one in done["reverted"]] == ["03", "02"]
    assert (done["from_version"], done["to_version"], done["changed"], done["remarks"]) == ("03", "01", True, [])
    assert schema_of(workshop) == before
    assert workshop.states() == {"01": "applied", "02": "pending", "03": "pending"}
    rows = workshop.query(
        "SELECT event, version, operator, origin FROM schema_migrations_history ORDER BY at DESC LIMIT 2"
    )
    assert rows == [("revert", "02", "bob", "AWX job 811"), ("revert", "03", "bob", "AWX job 811")]
    again = revert(workshop, target="01")
    assert (again["changed"], again["reverts"]) == (False, [])


def test_check_mode_says_what_would_happen_and_does_nothing(workshop):
    workshop.write(m01_a=A, m02_b=B)
    workshop.apply()
    found = revert(workshop, check=True, steps=1)
    assert [one["version"] for one in found["reverts"]] == ["02"]
    assert (found["changed"], found["to_version"]) == (True, "01")
    assert "DROP TABLE b" in found["diff"]["after"]
    assert workshop.states()["02"] == "applied"


def test_rows_that_would_go_have_to_be_accepted(workshop):
    workshop.write(m01_a=A)
    workshop.apply()
    workshop.execute("INSERT INTO a SELECT generate_series(1, 7)")
    refused = revert(workshop, steps=1)
    assert "7 rows would be dropped" in refused["msg"]
    assert refused["refusals"][0]["next"] == "add -e accept_data_loss=true"
    assert workshop.query("SELECT count(*) FROM a") == [(7,)]
    assert revert(workshop, steps=1, accept_data_loss=True)["changed"] is True
    assert workshop.query("SELECT to_regclass('a')") == [(None,)]


def test_what_nobody_could_see_beforehand_is_rolled_back(workshop):
    workshop.write(
        m01_a="CREATE FUNCTION f(i int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i + 1';\n"
        "CREATE TABLE a (id int, g int GENERATED ALWAYS AS (f(id)) STORED);",
        m02_b="SELECT 1;\n-- Down migration\nDROP FUNCTION f(int) CASCADE;",
    )
    workshop.apply()
    workshop.execute("INSERT INTO a VALUES (1)")
    done = revert(workshop, steps=1)
    assert done["failure"]["state"] == "rolled_back"
    assert done["failure"]["message"] == (
        "it also drops public.a.g, which could not be seen beforehand; add -e accept_data_loss=true"
    )
    assert workshop.query("SELECT g FROM a") == [(2,)]


def test_the_text_of_the_ledger_serves_when_the_file_is_gone_or_changed(workshop):
    workshop.write(m01_a=A, m02_b=B)
    workshop.apply()
    workshop.remove("02_b")
    workshop.write(m01_a=A.replace("id int", "id bigint"))
    done = revert(workshop, target="0")
    assert [(one["version"], one["source"]) for one in done["reverted"]] == [("02", "ledger"), ("01", "ledger")]
    assert [one["note"] for one in done["reverts"]] == [
        "its file is gone",
        "its file was changed after it was applied",
    ]


@pytest.mark.parametrize(
    ("down", "words"),
    [
        ("", "no down"),
        ('-- migrate: irreversible="rows were merged"\n', "rows were merged"),
        ("-- Down migration\n-- drop what was made above, carefully\n", "SQL"),
    ],
)
def test_what_cannot_be_taken_back_names_the_other_way(workshop, down, words):
    text = "CREATE TABLE a (id int);\n"
    workshop.write(m01_a=down + text if down.startswith("-- migrate") else text + down)
    workshop.apply()
    refused = revert(workshop, steps=1)
    (one,) = refused["refusals"]
    assert words in one["what"] + one["found"]
    assert "rollback.yml -e env=local -e backup=latest" in one["next"]
    assert workshop.states()["01"] == "applied"


def test_a_down_that_leaves_something_behind_is_rolled_back(workshop):
    workshop.write(m01_a="CREATE TABLE a (id int);\nCREATE TABLE left_over (id int);\n-- Down migration\nDROP TABLE a;")
    workshop.apply()
    done = revert(workshop, steps=1)
    assert done["failure"]["state"] == "rolled_back"
    assert "does not bring the schema back: " in done["failure"]["message"]
    assert "left_over" in done["failure"]["message"]
    assert (done["changed"], done["to_version"]) == (False, "01")
    assert workshop.query("SELECT to_regclass('a') IS NOT NULL") == [(True,)]


def test_another_order_of_columns_is_only_remarked(workshop):
    workshop.write(m01_a="CREATE TABLE a (id int, name text, last int);\n-- Down migration\nDROP TABLE a;")
    workshop.apply()
    workshop.write(
        m02_b="ALTER TABLE a DROP COLUMN name;\n-- Down migration\nALTER TABLE a ADD COLUMN name text;",
    )
    workshop.apply()
    done = revert(workshop, steps=1)
    assert done["failure"] is None
    (remark,) = done["remarks"]
    assert remark.startswith("02: ")
    assert "public.a" in remark
    assert "order" in remark


def test_a_failing_down_keeps_what_was_reverted_before(workshop):
    workshop.write(m01_a=A, m02_b="CREATE TABLE b (id int);\n-- Down migration\nDROP TABLE nowhere;", m03_c=C)
    workshop.apply()
    done = revert(workshop, target="0")
    assert [one["version"] for one in done["reverted"]] == ["03"]
    assert (done["failure"]["version"], done["failure"]["state"], done["to_version"]) == ("02", "rolled_back", "02")
    assert workshop.query("SELECT event, version FROM schema_migrations_history ORDER BY at DESC LIMIT 1") == [
        ("fail", "02")
    ]


@pytest.mark.parametrize("committed", [True, False])
def test_a_commit_without_an_answer_is_looked_up(workshop, monkeypatch, committed):
    from ansible_collections.habitat.runbook.plugins.module_utils import revert as downs

    workshop.write(m01_a=A)
    workshop.apply()
    real = transaction.run_one

    def lost(connection, item):
        if item.sql != "COMMIT":
            return real(connection, item)
        if committed:
            real(connection, item)
        connection.close()
        raise StatementFailed(item, psycopg.OperationalError("gone"), lost=True)

    monkeypatch.setattr(downs, "run_one", lost)
    done = revert(workshop, steps=1)
    assert (done["failure"] is None) is committed
    assert workshop.states() == {"01": "pending" if committed else "applied"}


def test_habitats_own_schema_goes_down_and_up_again(workshop):
    for path in (REPOSITORY / "schema").glob("*.sql"):
        (workshop.folder / path.name).write_text(path.read_text())
    workshop.apply("05")
    before = schema_of(workshop)
    workshop.apply()
    top = schema_of(workshop)
    assert revert(workshop, target="05")["remarks"] == []
    assert schema_of(workshop) == before
    workshop.apply()
    assert schema_of(workshop) == top
    done = revert(workshop, target="0", accept_data_loss=True)
    assert (done["failure"], done["to_version"], len(done["reverted"])) == (None, None, 7)
