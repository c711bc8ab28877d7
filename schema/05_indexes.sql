-- Migration: Indexes
-- For the questions the application asks often, and for the foreign keys that are looked up from the other side.

-- Up migration

CREATE INDEX idx_treasury_entries_account ON treasury_entries (account_id, booked_at);
CREATE INDEX idx_contributions_member ON contributions (member_id, created_at);
CREATE INDEX idx_contributions_account ON contributions (account_id, created_at);

-- The event store grows in the order of time: a block range index finds a period and stays tiny.
CREATE INDEX idx_events_recorded_at ON events USING brin (recorded_at);

-- Down migration

DROP INDEX idx_events_recorded_at;
DROP INDEX idx_contributions_account;
DROP INDEX idx_contributions_member;
DROP INDEX idx_treasury_entries_account;
