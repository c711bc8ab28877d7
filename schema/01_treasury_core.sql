-- Migration: Treasury core
-- The treasury's accounts and the entries that make up their balances, and the role the application works as.
-- Applied by the role that owns the database; that role needs no special rights once habitat_app exists.

-- Up migration

-- A role belongs to the whole cluster, so another database or an operator may have made it already. It is made
-- without a login: whoever runs the cluster gives it one (ALTER ROLE habitat_app LOGIN PASSWORD ...).
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'habitat_app') THEN
    CREATE ROLE habitat_app NOLOGIN;
  END IF;
EXCEPTION
  WHEN duplicate_object OR unique_violation THEN
    NULL;  -- another database of this cluster made it at the same moment
  WHEN insufficient_privilege THEN
    RAISE EXCEPTION 'the role habitat_app does not exist and % may not create it', current_user
      USING ERRCODE = 'insufficient_privilege',
            HINT = 'As a role that may create roles run: CREATE ROLE habitat_app LOGIN PASSWORD ''...''; then apply again.';
END
$$;

GRANT USAGE ON SCHEMA public TO habitat_app;

-- The application reports the schema's version; of the ledger it may read that and no more.
DO $$
BEGIN
  IF to_regclass('public.schema_migrations') IS NOT NULL THEN
    GRANT SELECT (version, applied_at) ON public.schema_migrations TO habitat_app;
  END IF;
END
$$;

CREATE TABLE treasury_accounts (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  code text NOT NULL UNIQUE CHECK (code ~ '^[a-z][a-z0-9_]{0,30}$'),
  name text NOT NULL CHECK (name <> ''),
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE treasury_accounts IS 'Accounts of the community''s treasury; each is kept in one currency.';
COMMENT ON COLUMN treasury_accounts.currency IS 'ISO 4217 code of every amount booked on the account.';

CREATE TABLE treasury_entries (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  account_id uuid NOT NULL REFERENCES treasury_accounts (id),
  amount numeric(14, 2) NOT NULL CHECK (amount <> 0),
  description text NOT NULL CHECK (description <> ''),
  booked_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE treasury_entries IS 'Bookings, append-only: a mistake is put right by a second entry. An account''s balance is their sum.';
COMMENT ON COLUMN treasury_entries.amount IS 'In the account''s currency: above zero came in, below zero went out.';

CREATE FUNCTION refuse_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog
AS $$
BEGIN
  RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP
    USING ERRCODE = 'restrict_violation', HINT = 'Add a row that corrects the earlier one.';
END
$$;
COMMENT ON FUNCTION refuse_change() IS 'Trigger of append-only tables: refuses whatever fires it.';
REVOKE EXECUTE ON FUNCTION refuse_change() FROM PUBLIC;

-- Per statement, so that TRUNCATE and statements that match no row are refused as well, the owner's included.
CREATE TRIGGER treasury_entries_append_only
  BEFORE UPDATE OR DELETE OR TRUNCATE ON treasury_entries
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

GRANT SELECT ON treasury_accounts TO habitat_app;
GRANT SELECT, INSERT ON treasury_entries TO habitat_app;

INSERT INTO treasury_accounts (code, name, currency) VALUES ('general', 'General fund', 'EUR');

-- Down migration

DROP TABLE treasury_entries;
DROP TABLE treasury_accounts;
DROP FUNCTION refuse_change();

DO $$
BEGIN
  IF to_regclass('public.schema_migrations') IS NOT NULL THEN
    REVOKE SELECT (version, applied_at) ON public.schema_migrations FROM habitat_app;
  END IF;
END
$$;
REVOKE USAGE ON SCHEMA public FROM habitat_app;

-- The role habitat_app stays: other databases of this cluster may use it.
