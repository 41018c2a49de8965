"""`aforo-meter ingest`: usage that arrives over HTTP → Kafka."""
