"""How alembic runs our migrations: on the connection that migrate.py gives it, or as text."""

from alembic import context

connection = context.config.attributes.get("connection")

if connection is None:
    context.configure(
        dialect_name=context.config.attributes["dialect_name"],
        starting_rev=context.config.attributes["starting_rev"],
        output_buffer=context.config.attributes["output_buffer"],
        literal_binds=True,
    )
else:
    context.configure(connection=connection)
# The transaction is the caller's: all versions or none.
context.run_migrations()
