-- Migration: Security
-- Row-level security: the application acts for one member at a time and reaches that member's rows only.
--
-- How it works. The application connects as habitat_app and says at the start of each transaction for whom it acts:
--   SELECT set_config('habitat.member_id', '<id of the member>', true);
-- Without that, or with an empty value, no member's row is visible and none can be written; a value that is no uuid
-- is an error. The setting guards against a forgotten WHERE, not against somebody who runs SQL of his own as
-- habitat_app.
--
-- What crosses members has a narrow way of its own, made with the tables and running with the owner's rights: the view
-- member_directory (public columns) and the function refresh_contribution_totals (the worker's task). There is no role
-- to switch to and no setting that lifts the policies.
--
-- The owner is not subject to the policies (no FORCE), so migrations and pg_dump see every row. Hence the application
-- must never connect as the owner, a superuser or a role with BYPASSRLS.

-- Up migration

CREATE FUNCTION current_member_id() RETURNS uuid
LANGUAGE sql STABLE
SET search_path = pg_catalog
AS $$ SELECT nullif(current_setting('habitat.member_id', true), '')::uuid $$;
COMMENT ON FUNCTION current_member_id() IS 'The member for whom this transaction acts; null when nobody is named.';
REVOKE EXECUTE ON FUNCTION current_member_id() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION current_member_id() TO habitat_app;

ALTER TABLE treasury_accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE treasury_entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
ALTER TABLE contributions ENABLE ROW LEVEL SECURITY;
ALTER TABLE events ENABLE ROW LEVEL SECURITY;
ALTER TABLE contribution_totals ENABLE ROW LEVEL SECURITY;

-- The sub-select lets the planner ask for the member once per statement and not once per row.
CREATE POLICY accounts_are_public ON treasury_accounts FOR SELECT TO habitat_app
  USING (true);

CREATE POLICY own_row ON members TO habitat_app
  USING (id = (SELECT current_member_id()))
  WITH CHECK (id = (SELECT current_member_id()));

CREATE POLICY own_contributions ON contributions TO habitat_app
  USING (member_id = (SELECT current_member_id()))
  WITH CHECK (member_id = (SELECT current_member_id()));

-- The sub-query is itself under the policy of contributions.
CREATE POLICY entries_of_own_contributions ON treasury_entries FOR SELECT TO habitat_app
  USING (EXISTS (SELECT FROM contributions c WHERE c.id = contribution_id));

CREATE POLICY book_own_contributions ON treasury_entries FOR INSERT TO habitat_app
  WITH CHECK (EXISTS (
    SELECT FROM contributions c
    WHERE c.id = contribution_id AND c.account_id = treasury_entries.account_id AND c.amount = treasury_entries.amount
  ));

CREATE POLICY own_events ON events FOR SELECT TO habitat_app
  USING (stream_id = (SELECT current_member_id()));

CREATE POLICY append_own_events ON events FOR INSERT TO habitat_app
  WITH CHECK (stream_type = 'member' AND stream_id = (SELECT current_member_id()));

CREATE POLICY own_total ON contribution_totals FOR SELECT TO habitat_app
  USING (member_id = (SELECT current_member_id()));

-- Tables that this owner makes later: the application may read and add, nothing beyond, and the file that makes a
-- table with private rows has to enable row-level security on it. The ledger of migrations exists before this and
-- is not touched; a table of the runbook made later must take these rights away again (the last query of -- Verify).
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE ON TABLES TO habitat_app;

-- Verify

-- A table the application can reach but that has no row-level security.
SELECT c.oid::regclass AS table_without_row_level_security
FROM pg_catalog.pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relrowsecurity
  AND has_table_privilege('habitat_app', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE');

-- The policies do not hold for a role that is above them.
SELECT r.rolname AS application_role_above_the_policies
FROM pg_catalog.pg_roles r
WHERE r.rolname = 'habitat_app'
  AND (r.rolsuper OR r.rolbypassrls OR pg_has_role('habitat_app', (SELECT relowner FROM pg_class WHERE oid = 'members'::regclass), 'MEMBER'));

-- The application must not be able to rewrite the history of migrations.
SELECT c.oid::regclass AS ledger_the_application_can_write
FROM pg_catalog.pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname ^@ 'schema_migrations'
  AND (has_any_column_privilege('habitat_app', c.oid, 'INSERT, UPDATE')
       OR has_table_privilege('habitat_app', c.oid, 'DELETE, TRUNCATE, TRIGGER'));

-- Down migration

ALTER DEFAULT PRIVILEGES IN SCHEMA public REVOKE SELECT, INSERT, UPDATE ON TABLES FROM habitat_app;

DROP POLICY own_total ON contribution_totals;
DROP POLICY append_own_events ON events;
DROP POLICY own_events ON events;
DROP POLICY book_own_contributions ON treasury_entries;
DROP POLICY entries_of_own_contributions ON treasury_entries;
DROP POLICY own_contributions ON contributions;
DROP POLICY own_row ON members;
DROP POLICY accounts_are_public ON treasury_accounts;

ALTER TABLE contribution_totals DISABLE ROW LEVEL SECURITY;
ALTER TABLE events DISABLE ROW LEVEL SECURITY;
ALTER TABLE contributions DISABLE ROW LEVEL SECURITY;
ALTER TABLE members DISABLE ROW LEVEL SECURITY;
ALTER TABLE treasury_entries DISABLE ROW LEVEL SECURITY;
ALTER TABLE treasury_accounts DISABLE ROW LEVEL SECURITY;

DROP FUNCTION current_member_id();
