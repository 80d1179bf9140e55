"""Alembic runs this file: it hands over the connection that the caller opened."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    # SQLite cannot alter a table in place; Alembic copies it then ("batch").
    render_as_batch=connection.dialect.name == "sqlite",
    # Alembic believes that SQLite has none. It has: `kit/db` begins transactions by hand.
    transactional_ddl=True,
)
# In the transaction that the caller began, and ends.
context.run_migrations()
