"""Version 2: owners, turns, idempotency keys, feedback, artifacts, allocations of sandboxes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    _owners()
    _conversations()
    _sandboxes()


def _owners() -> None:
    for column in (
        sa.Column("owner", sa.Text, nullable=False, server_default="local"),
        sa.Column("title", sa.Text, nullable=False, server_default=""),
        sa.Column("updated_at", sa.Float, nullable=False, server_default="0"),
        sa.Column("archived_at", sa.Float),
    ):
        op.add_column("sessions", column)
    op.execute("UPDATE sessions SET updated_at = created_at")
    op.create_index("ix_sessions_owner_updated_at", "sessions", ["owner", "updated_at"])
    # Whose run it is, and which process works on it, are two things.
    op.execute("ALTER TABLE runs RENAME COLUMN owner TO process")
    op.add_column("runs", sa.Column("owner", sa.Text, nullable=False, server_default="local"))
    op.create_index("ix_runs_session_id", "runs", ["session_id"])


def _conversations() -> None:
    op.create_table(
        "turns",
        sa.Column("turn_id", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, sa.ForeignKey("sessions.session_id"), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False, index=True),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("run", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.UniqueConstraint("session_id", "number", name="uq_turns_session_id_number"),
    )
    op.create_table(
        "keys",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
    )
    op.create_table(
        "feedback",
        sa.Column("turn_id", sa.Text, sa.ForeignKey("turns.turn_id"), primary_key=True),
        sa.Column("rating", sa.Integer, nullable=False),
        sa.Column("expected", sa.Text, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )


def _sandboxes() -> None:
    op.create_table(
        "artifacts",
        sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("session_id", sa.Text, nullable=False, index=True),
        sa.Column("call_id", sa.Text),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "allocations",
        sa.Column("allocation_id", sa.Text, primary_key=True),
        sa.Column("sandbox_id", sa.Text, nullable=False, index=True),
        sa.Column("labels", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
