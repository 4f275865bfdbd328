"""The tables as they are now; `migrations` says how a store gets there."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, MetaData, Table, Text, UniqueConstraint

METADATA = MetaData()


def _text(name: str, default: str | None = None) -> Column[str]:
    return Column(name, Text, nullable=False, server_default=default)


def _key(name: str, refers_to: str | None = None) -> Column[str]:
    return Column(name, Text, *([ForeignKey(refers_to)] if refers_to else []), primary_key=True)


SESSIONS = Table(
    "sessions",
    METADATA,
    _key("session_id"),
    Column("created_at", Float, nullable=False),
    _text("owner", "local"),
    _text("title", ""),
    Column("updated_at", Float, nullable=False, server_default="0"),
    Column("archived_at", Float),
    Index("ix_sessions_owner_updated_at", "owner", "updated_at"),
)
RUNS = Table(
    "runs",
    METADATA,
    _key("run_id"),
    Column("session_id", Text, ForeignKey("sessions.session_id"), nullable=False, index=True),
    _text("question"),
    _text("process"),
    Column("started_at", Float, nullable=False, index=True),
    Column("ended_at", Float),
    Column("status", Text),
    _text("owner", "local"),
)
EVENTS = Table(
    "events",
    METADATA,
    _key("run_id", "runs.run_id"),
    Column("seq", Integer, primary_key=True),
    _text("line"),
    sqlite_with_rowid=False,
)
CONTENTS = Table("contents", METADATA, _key("digest"), _text("text"))
VALUES = Table(
    "values",
    METADATA,
    _key("run_id", "runs.run_id"),
    _key("call_id"),
    _key("name"),
    Column("digest", Text, ForeignKey("contents.digest"), nullable=False),
)
META = Table("meta", METADATA, _key("name"), _text("value"))
TURNS = Table(
    "turns",
    METADATA,
    _key("turn_id"),
    Column("session_id", Text, ForeignKey("sessions.session_id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("run_id", Text, nullable=False, index=True),
    _text("message"),
    _text("run"),
    Column("at", Float, nullable=False),
    UniqueConstraint("session_id", "number", name="uq_turns_session_id_number"),
)
KEYS = Table("keys", METADATA, _key("owner"), _key("session_id"), _key("key"), _text("digest"), _text("run_id"))
FEEDBACK = Table(
    "feedback",
    METADATA,
    _key("turn_id", "turns.turn_id"),
    Column("rating", Integer, nullable=False),
    _text("expected"),
    _text("comment"),
    Column("at", Float, nullable=False),
)
ARTIFACTS = Table(
    "artifacts",
    METADATA,
    _key("run_id", "runs.run_id"),
    Column("seq", Integer, primary_key=True),
    Column("session_id", Text, nullable=False, index=True),
    Column("call_id", Text),
    _text("path"),
    Column("bytes", BigInteger, nullable=False),
    _text("sha256"),
    Column("at", Float, nullable=False),
)
ALLOCATIONS = Table(
    "allocations",
    METADATA,
    _key("allocation_id"),
    Column("sandbox_id", Text, nullable=False, index=True),
    _text("labels"),
    _text("state"),
    _text("process"),
    Column("created_at", Float, nullable=False),
)
DATASETS = Table(
    "datasets",
    METADATA,
    _key("owner"),
    _key("name"),
    Column("created_at", Float, nullable=False),
    _text("fields"),
    _text("left_out"),
)
DATASET_ROWS = Table(
    "dataset_rows",
    METADATA,
    _key("owner"),
    _key("dataset"),
    _key("row_id"),
    _text("split"),
    _text("fields"),
    _text("origin"),
)
MEMORY = Table(
    "memory",
    METADATA,
    _key("memory_id"),
    _text("owner"),
    Column("session_id", Text, index=True),
    _text("kind"),
    _text("state"),
    _text("text"),
    _text("run_id"),
    Column("created_at", Float, nullable=False),
    Column("reviewed_at", Float),
    Index("ix_memory_owner_state", "owner", "state"),
)
SNAPSHOTS = Table(
    "snapshots",
    METADATA,
    _key("run_id"),
    Column("owner", Text, nullable=False, index=True),
    Column("sha256", Text, nullable=False, index=True),
    _text("snapshot"),
    Column("created_at", Float, nullable=False),
)
PROGRAMS = Table(
    "programs",
    METADATA,
    _key("owner"),
    _key("name"),
    Column("version", Integer, primary_key=True),
    Column("parent", Integer),
    _text("definition"),
    _text("scores"),
    _text("dataset"),
    _text("run_id"),
    Column("created_at", Float, nullable=False),
    Column("approved_at", Float),
    _text("candidate", ""),
)
OPTIMIZATIONS = Table("optimizations", METADATA, _key("run_id", "runs.run_id"), _text("program"), _text("dataset"))
FINDINGS = Table(
    "findings",
    METADATA,
    _key("run_id", "runs.run_id"),
    Column("seq", Integer, primary_key=True),
    _text("candidate"),
    _text("split"),
    _text("row_id"),
    Column("score", Float),
)
"""Which events of an optimization say what it found; only those about a row have a `row_id`."""
