-- Who may do what in the control database, which is another one than the ledger's. Run it after each
-- `aforo-admin migrate`, as whom that ran, who must be let create roles. Again is harmless. Roles are
-- made without passwords.
DO $$
DECLARE
  wanted text;
  held text;
BEGIN
  FOREACH wanted IN ARRAY ARRAY['aforo_admin', 'aforo_sync'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
      EXECUTE format('CREATE ROLE %I LOGIN', wanted);
    END IF;
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA public FROM %I', wanted);
    EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM %I', wanted);
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), wanted);
    EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', wanted);
    -- Every process looks whether the schema is its own.
    EXECUTE format('GRANT SELECT ON django_migrations TO %I', wanted);
  END LOOP;
  EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());

  -- The pages and commands write all, but not the schema and not what was recorded.
  FOR held IN
    SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'django_migrations'
  LOOP
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO aforo_admin', held);
    -- sync reads the catalog, and neither people nor their sessions.
    IF starts_with(held, 'control_') THEN
      EXECUTE format('GRANT SELECT ON %I TO aforo_sync', held);
    END IF;
  END LOOP;
END $$;
REVOKE ALL ON SCHEMA public FROM PUBLIC;

-- The record of changes is added to, and its head moves; nothing of it is edited or removed.
REVOKE UPDATE, DELETE ON control_auditentry FROM aforo_admin;
REVOKE INSERT, DELETE ON control_head FROM aforo_admin;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO aforo_admin;

-- Nothing of these becomes part of the read model.
REVOKE ALL ON control_apitoken, control_idempotentanswer, control_scenario FROM aforo_sync;

-- Which sync leads, and that its life sign was seen.
REVOKE ALL ON control_auditentry FROM aforo_sync;
GRANT INSERT, UPDATE, DELETE ON control_lease TO aforo_sync;
