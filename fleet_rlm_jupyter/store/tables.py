"""The tables as they are now; `migrations` says how a store gets there."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Integer, MetaData, Table, Text

METADATA = MetaData()

SESSIONS = Table(
    "sessions", METADATA, Column("session_id", Text, primary_key=True), Column("created_at", Float, nullable=False)
)
RUNS = Table(
    "runs",
    METADATA,
    Column("run_id", Text, primary_key=True),
    Column("session_id", Text, ForeignKey("sessions.session_id"), nullable=False),
    Column("question", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("started_at", Float, nullable=False, index=True),
    Column("ended_at", Float),
    Column("status", Text),
)
EVENTS = Table(
    "events",
    METADATA,
    Column("run_id", Text, ForeignKey("runs.run_id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("line", Text, nullable=False),
    sqlite_with_rowid=False,
)
CONTENTS = Table("contents", METADATA, Column("digest", Text, primary_key=True), Column("text", Text, nullable=False))
VALUES = Table(
    "values",
    METADATA,
    Column("run_id", Text, ForeignKey("runs.run_id"), primary_key=True),
    Column("call_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("digest", Text, ForeignKey("contents.digest"), nullable=False),
)
META = Table("meta", METADATA, Column("name", Text, primary_key=True), Column("value", Text, nullable=False))
