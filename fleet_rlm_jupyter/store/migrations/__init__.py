"""One module for each version of the store, in the form that Alembic reads."""
