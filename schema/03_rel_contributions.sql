-- Migration: Contributions
-- What members give to the treasury, and the booking that each contribution leads to.

-- Up migration

CREATE TABLE contributions (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  member_id uuid NOT NULL REFERENCES members (id),
  account_id uuid NOT NULL REFERENCES treasury_accounts (id),
  amount numeric(14, 2) NOT NULL CHECK (amount > 0),
  note text CHECK (length(note) BETWEEN 1 AND 500),
  created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE contributions IS 'Money a member gave to an account of the treasury.';
COMMENT ON COLUMN contributions.amount IS 'In the account''s currency.';

ALTER TABLE treasury_entries
  ADD COLUMN contribution_id uuid UNIQUE REFERENCES contributions (id);
COMMENT ON COLUMN treasury_entries.contribution_id IS 'The contribution this entry books, if it books one; none is booked twice.';

-- A contribution that is not booked yet may be withdrawn; after that its entry holds it in place.
GRANT SELECT, INSERT, UPDATE, DELETE ON contributions TO habitat_app;

-- Down migration

ALTER TABLE treasury_entries DROP COLUMN contribution_id;
DROP TABLE contributions;
