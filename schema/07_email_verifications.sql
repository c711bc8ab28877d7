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
