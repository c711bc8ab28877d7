-- Migration: Event sourcing
-- Everything that happened, in order, and a first projection of it: what each member has contributed.

-- Up migration

CREATE TABLE events (
  position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  stream_type text NOT NULL CHECK (stream_type ~ '^[a-z][a-z_]*$'),
  stream_id uuid NOT NULL,
  version bigint NOT NULL CHECK (version > 0),
  event_type text NOT NULL CHECK (event_type ~ '^[a-z][a-z_]*\.[a-z][a-z_]*$'),
  payload jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(payload) = 'object'),
  recorded_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (stream_id, version)
);
COMMENT ON TABLE events IS 'The event store, append-only. Of two writers that append the same version to a stream one fails.';
COMMENT ON COLUMN events.position IS 'Grows over all streams, with gaps; it is not the order of the commits.';
COMMENT ON COLUMN events.stream_id IS 'What the event is about: the id of a member or of a treasury account.';
COMMENT ON COLUMN events.version IS 'Counts the events of one stream from 1.';

CREATE TRIGGER events_append_only
  BEFORE UPDATE OR DELETE OR TRUNCATE ON events
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION append_event(stream_type text, stream_id uuid, event_type text, payload jsonb) RETURNS bigint
LANGUAGE sql
SET search_path = pg_catalog, public, pg_temp
AS $$
  INSERT INTO events (stream_type, stream_id, version, event_type, payload)
  SELECT $1, $2, coalesce(max(e.version), 0) + 1, $3, $4 FROM events e WHERE e.stream_id = $2
  RETURNING version
$$;
COMMENT ON FUNCTION append_event(text, uuid, text, jsonb) IS
  'Appends an event to a stream with the caller''s rights and returns its version; a writer that came first makes it fail with unique_violation.';

CREATE TABLE contribution_totals (
  member_id uuid PRIMARY KEY REFERENCES members (id) ON DELETE CASCADE,
  contributions bigint NOT NULL CHECK (contributions >= 0),
  amount numeric(16, 2) NOT NULL CHECK (amount >= 0),
  refreshed_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE contribution_totals IS 'Projection: the sum of each member''s contributions, kept by refresh_contribution_totals alone.';
COMMENT ON COLUMN contribution_totals.refreshed_at IS 'When the sum last changed.';

-- The worker's one task crosses all members, so it runs with the owner's rights. That keeps the right to exactly
-- this: the application role cannot write a total, and has no switch that would show it other members' rows.
CREATE FUNCTION refresh_contribution_totals(after uuid, batch integer) RETURNS uuid
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp
AS $$
DECLARE
  page uuid[] := ARRAY(SELECT m.id FROM members m WHERE after IS NULL OR m.id > after ORDER BY m.id LIMIT batch);
BEGIN
  INSERT INTO contribution_totals AS t (member_id, contributions, amount)
  SELECT m.id, count(c.id), coalesce(sum(c.amount), 0)
  FROM members m LEFT JOIN contributions c ON c.member_id = m.id
  WHERE m.id = ANY (page)
  GROUP BY m.id
  ON CONFLICT (member_id) DO UPDATE
    SET contributions = excluded.contributions, amount = excluded.amount, refreshed_at = excluded.refreshed_at
    WHERE (t.contributions, t.amount) IS DISTINCT FROM (excluded.contributions, excluded.amount);

  PERFORM append_event('treasury', a.id, 'treasury.totals_refreshed', jsonb_build_object('members', cardinality(page)))
  FROM treasury_accounts a WHERE a.code = 'general';

  RETURN page[batch];
END
$$;
COMMENT ON FUNCTION refresh_contribution_totals(uuid, integer) IS
  'Brings the totals of the next `batch` members after `after` (null: from the first) up to date and records that as an event. Returns the last member of a full batch, null at the end.';
REVOKE EXECUTE ON FUNCTION append_event(text, uuid, text, jsonb) FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION refresh_contribution_totals(uuid, integer) FROM PUBLIC;

GRANT SELECT, INSERT ON events TO habitat_app;
GRANT SELECT ON contribution_totals TO habitat_app;
GRANT EXECUTE ON FUNCTION append_event(text, uuid, text, jsonb) TO habitat_app;
GRANT EXECUTE ON FUNCTION refresh_contribution_totals(uuid, integer) TO habitat_app;

-- Down migration

DROP FUNCTION refresh_contribution_totals(uuid, integer);
DROP TABLE contribution_totals;
DROP FUNCTION append_event(text, uuid, text, jsonb);
DROP TABLE events;
