"""Statements without what cannot change their meaning; which commands they are."""

from __future__ import annotations

import pytest
from ansible_collections.habitat.runbook.plugins.module_utils.canonical import canonical, tokens
from ansible_collections.habitat.runbook.plugins.module_utils.commands import (
    closes_transaction,
    needs_no_transaction,
    opens_transaction,
    transaction_control,
)
from ansible_collections.habitat.runbook.plugins.module_utils.lexer import split
from ansible_collections.habitat.runbook.plugins.module_utils.statement import Statement
from ansible_collections.habitat.runbook.plugins.module_utils.synopsis import reads_as_sql


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1", "SELECT 1"),
        ("SELECT\n  1 ,\t2", "SELECT 1 , 2"),
        ("SELECT/* a */1 -- b\n+ /* /* c */ */ 2", "SELECT 1 + 2"),
        (
            "SELECT 'a  b', \"c  --d\", $$e\n\n/*f*/$$ ,  E'g\\'  h'",
            "SELECT 'a  b', \"c  --d\", $$e\n\n/*f*/$$ , E'g\\'  h'",
        ),
        ("SELECT 'a' \n -- c\n\n 'b'", "SELECT 'a'\n'b'"),
        ("SELECT E'a'\n -- it's\n 'b\\'c'  , 1", "SELECT E'a'\n'b\\'c' , 1"),
        ("SELECT 'it''s'\n\n  'b'  , 1", "SELECT 'it''s'\n'b' , 1"),
        ("SELECT 'a' /* \n */ 'b'", "SELECT 'a' 'b'"),
        ("SELECT 'a'\n/* */ 'b'", "SELECT 'a' 'b'"),
        ("SELECT 'a'\nAS b", "SELECT 'a' AS b"),
        ("SELECT 1\u00a0 +\n2", "SELECT 1\u00a0 + 2"),
        ("SELECT a - -b  -/**/c", "SELECT a - -b - c"),
    ],
)
def test_canonical(text: str, expected: str) -> None:
    assert canonical(text) == expected
    assert canonical(expected) == expected


def test_canonical_knows_standard_conforming_strings() -> None:
    assert canonical("SELECT 'a\\'  --b'", standard=False) == "SELECT 'a\\'  --b'"
    assert canonical("SELECT 'a\\'  --b'", standard=True) == "SELECT 'a\\'"


def test_tokens() -> None:
    text = "Select \"A b\".C /* x */, E'it\\'s', $t$;$t$ -- y\n:= $1 <= 1.5 (Ü)"
    expected = ["select", '"A b"', ".", "c", ",", "E'it\\'s'", ",", "$t$;$t$"]
    assert list(tokens(text)) == [*expected, ":", "=", "$1", "<", "=", "1.5", "(", "ü", ")"]


def one(sql: str) -> Statement:
    (statement,) = split(sql)
    return statement


@pytest.mark.parametrize(
    ("sql", "command"),
    [
        ("BEGIN", "BEGIN"),
        ("begin isolation level serializable", "BEGIN"),
        ("START TRANSACTION", "START TRANSACTION"),
        ("COMMIT", "COMMIT"),
        ("end work", "END"),
        ("ROLLBACK", "ROLLBACK"),
        ("ROLLBACK TO SAVEPOINT s", "ROLLBACK TO"),
        ("ABORT", "ABORT"),
        ("SAVEPOINT s", "SAVEPOINT"),
        ("RELEASE s", "RELEASE"),
        ("PREPARE TRANSACTION 'x'", "PREPARE TRANSACTION"),
        ("COMMIT PREPARED 'x'", "COMMIT PREPARED"),
        ("ROLLBACK /* c */ PREPARED 'x'", "ROLLBACK PREPARED"),
        ("PREPARE p AS SELECT 1", ""),
        ("SET TRANSACTION READ ONLY", ""),
        ("SELECT 'COMMIT'", ""),
        ('"begin"', ""),
        ("beginning", ""),
        ("commit_all", ""),
    ],
)
def test_transaction_control(sql: str, command: str) -> None:
    assert transaction_control(one(sql)) == command


@pytest.mark.parametrize(
    "sql", ["BEGIN", "BEGIN WORK", "begin read only", "START TRANSACTION ISOLATION LEVEL SERIALIZABLE"]
)
def test_opens_transaction(sql: str) -> None:
    assert opens_transaction(one(sql))


@pytest.mark.parametrize(
    ("sql", "closes"),
    [
        ("COMMIT", True),
        ("end", True),
        ("COMMIT WORK", True),
        ("END /* c */ TRANSACTION", True),
        ("COMMIT AND NO CHAIN", True),
        ("COMMIT AND CHAIN", False),
        ("COMMIT PREPARED 'x'", False),
        ("ROLLBACK", False),
        ("SELECT 1", False),
    ],
)
def test_closes_transaction(sql: str, closes: bool) -> None:
    assert closes_transaction(one(sql)) is closes


def test_needs_no_transaction_is_cheap_for_bulk_statements() -> None:
    """Only the first word is looked at: what stands behind it need not even be readable."""
    assert needs_no_transaction(Statement("INSERT INTO t VALUES ('", 1, 1)) is False


SQL = """
DROP TABLE email_verifications; DROP TABLE IF EXISTS a, public."B c" CASCADE; DROP FUNCTION f(int, numeric(10,2)), g;
DROP POLICY p ON public.members; DROP TRIGGER IF EXISTS t ON m; DROP INDEX CONCURRENTLY i; DROP CAST (a AS b);
DROP OPERATOR + (int, int); DROP OWNED BY app; DROP ROLE IF EXISTS a, b; DROP DATABASE d WITH (FORCE); DROP TYPE a;
ALTER TABLE members DROP COLUMN x; ALTER TABLE IF EXISTS ONLY public."M x" ADD COLUMN y int; ALTER ROLE app NOLOGIN;
ALTER TABLE a DISABLE ROW LEVEL SECURITY; ALTER TYPE t RENAME VALUE 'a' TO 'b'; ALTER FUNCTION f(int) OWNER TO x;
ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE ALL ON TABLES FROM app; ALTER POLICY p ON t USING (true);
ALTER LARGE OBJECT 5 OWNER TO x; ALTER SYSTEM RESET ALL; ALTER OPERATOR @@ (text, text) OWNER TO j;
CREATE TABLE a (b int); CREATE TEMP TABLE a AS SELECT 1; CREATE UNIQUE INDEX i ON t (a); CREATE VIEW v AS SELECT 1;
CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS $$ select 1; $$; CREATE EXTENSION IF NOT EXISTS x;
DELETE FROM a; DELETE FROM ONLY a AS b USING c WHERE d; UPDATE m SET a = 1; UPDATE ONLY a b SET (x, y) = (1, 2);
INSERT INTO a (b) VALUES (1); INSERT INTO a SELECT 1; WITH x AS (SELECT 1) DELETE FROM y USING x; SELECT setval('s', 1);
MERGE INTO a USING b ON a.x = b.x WHEN MATCHED THEN DELETE; TRUNCATE a, b RESTART IDENTITY CASCADE; CALL p(1);
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO app; GRANT app TO x; REVOKE ALL ON SCHEMA public FROM app;
COMMENT ON TABLE a IS NULL; COMMENT ON COLUMN a.b IS 'x'; DO $$ begin end $$; DO LANGUAGE plpgsql 'x';
SET lock_timeout = '5s'; SET LOCAL search_path TO a, b; RESET ALL; LOCK TABLE a IN SHARE MODE; VACUUM (FULL) a; ANALYZE;
REINDEX TABLE CONCURRENTLY t; REFRESH MATERIALIZED VIEW v; NOTIFY a, 'x'; REASSIGN OWNED BY a TO b; COPY t TO stdout;
BEGIN; BEGIN ISOLATION LEVEL SERIALIZABLE, READ WRITE; COMMIT; END WORK; ROLLBACK TO SAVEPOINT x; SECURITY LABEL ON TABLE a IS 'x';
VALUES (1); TABLE a; EXPLAIN SELECT 1; IMPORT FOREIGN SCHEMA a FROM SERVER b INTO c; SET CONSTRAINTS ALL DEFERRED
"""

PROSE = """
drop the table by hand, see wiki; Nothing to undo.; Drop table by hand; Drop column x from members; DROP TABLE x (if you must);
Alter table by hand; Alter the table back; delete the rows; Delete from the table by hand; update the members and set status;
Undo: DROP TABLE x; Drop the table first DROP TABLE x; grant the rights back to app; Revoke the rights from app;
Set the flag to false; Lock the table; Truncate the table; Call the DBA; Do nothing; Begin manually restoring; n/a; none;
comment on the ticket; Restore from backup; not applicable; See above; TODO; irreversible; Cannot be undone; Load the dump;
Execute by hand; Analyze the problem; Create a new table from backup; Create table from backup; Close the ticket;
End of file; Copy the rows back from the backup; Insert the rows again; Insert into the table what was there;
Prepare the rollback; Start over; Values are lost; Table stays as it is; Show it to the DBA; With the backup restore;
Move on with life; Import the dump; Reset the flag by hand; Merge into main; Reassign to ops; Refresh the view by hand;
Vacuum the table afterwards by hand; Rollback is manual; Commit the change; Abort everything; (drop it); 'x'; 42; $1
"""


@pytest.mark.parametrize("statement", list(split(SQL)), ids=lambda statement: statement.text)
def test_sql_reads_as_sql(statement: Statement) -> None:
    assert reads_as_sql(statement)


@pytest.mark.parametrize("statement", list(split(PROSE)), ids=lambda statement: statement.text)
def test_prose_does_not_read_as_sql(statement: Statement) -> None:
    assert not reads_as_sql(statement)
