"""Version 7: runs that try a program on a dataset, and which of their events say what they found."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("programs", sa.Column("candidate", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "optimizations",
        sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("program", sa.Text, nullable=False),
        sa.Column("dataset", sa.Text, nullable=False),
    )
    op.create_table(
        "findings",
        sa.Column("run_id", sa.Text, sa.ForeignKey("runs.run_id"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("candidate", sa.Text, nullable=False),
        sa.Column("split", sa.Text, nullable=False),
        sa.Column("row_id", sa.Text, nullable=False),
        sa.Column("score", sa.Float),
    )
