-- Migration: People core
-- The members of the community.

-- Up migration

CREATE TABLE members (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  email text NOT NULL CHECK (length(email) <= 254 AND email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
  display_name text NOT NULL CHECK (length(display_name) BETWEEN 1 AND 100),
  created_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE members IS 'People who belong to the community.';
COMMENT ON COLUMN members.email IS 'As the member wrote it; unique without regard to case. At most 254 characters (RFC 5321).';

CREATE UNIQUE INDEX members_email_key ON members (lower(email));

-- What members may see of each other. The view reads with its owner's rights on purpose: it goes on listing everybody
-- once row-level security hides the rows of the table itself, so it must never show more than is public.
CREATE VIEW member_directory WITH (security_barrier) AS
  SELECT id, display_name, created_at FROM members;
COMMENT ON VIEW member_directory IS 'The public part of every member; nothing private may be added here.';

GRANT SELECT, INSERT, UPDATE, DELETE ON members TO habitat_app;
GRANT SELECT ON member_directory TO habitat_app;

-- Down migration

DROP VIEW member_directory;
DROP TABLE members;
