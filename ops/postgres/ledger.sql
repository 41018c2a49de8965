-- Who may do what in the ledger's database. Run it after each `aforo-meter migrate`, as whom that
-- ran, who must be let create roles. Again is harmless. Roles are made without passwords.
DO $$
DECLARE
  wanted text;
BEGIN
  FOREACH wanted IN ARRAY ARRAY['aforo_consume', 'aforo_deliver', 'aforo_ingest', 'aforo_reader']
  LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
      EXECUTE format('CREATE ROLE %I LOGIN', wanted);
    END IF;
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA public FROM %I', wanted);
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), wanted);
    EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', wanted);
    -- Every process looks whether the schema is its own.
    EXECUTE format('GRANT SELECT ON alembic_version TO %I', wanted);
  END LOOP;
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
END $$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

-- consume writes all but what deliver writes; also: rerate, void, close, sessions kill. An adjustment,
-- and a price that something was charged by, is added and stays.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO aforo_consume;
GRANT INSERT ON adjustment, outbox, price, price_told, reporting_tenant TO aforo_consume;
GRANT INSERT, UPDATE ON
  guard_state, intervention, margin_state, position, prices_checked, unpriced_told
TO aforo_consume;
GRANT INSERT, DELETE ON true_figure TO aforo_consume;
GRANT INSERT, UPDATE, DELETE ON
  call, call_part, charge, decided, logged, seen_event, session
TO aforo_consume;

-- deliver sends what stands in the outbox; also: alerts list, show, resend.
GRANT SELECT, INSERT, UPDATE, DELETE ON outbox, delivery, delivery_attempt, endpoint_gone
TO aforo_deliver;

-- ingest looks whether an event is known, and a session over.
GRANT SELECT ON seen_event, session TO aforo_ingest;

-- Whoever only looks: aforo-admin; explain, statement, forecast, completeness, sessions list.
GRANT SELECT ON ALL TABLES IN SCHEMA public TO aforo_reader;
