"""A store: opened, brought to today's version, and its errors in one word of ours. SQLite or PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from fleet_rlm_jupyter.domain.errors import StoreFailed

HEAD = "0007"
BUSY_SECONDS = 2.0

_MIGRATIONS = str(Path(__file__).with_name("migrations"))
_MIGRATION_LOCK = 0x666C6565  # of PostgreSQL's advisory locks, one of our own
_MIGRATING = threading.Lock()


class _Kind(Protocol):
    """What differs between the two."""

    def engine(self) -> sa.Engine: ...
    def check(self) -> None: ...
    def durability(self, connection: sa.Connection, full: bool) -> None: ...
    def lock_for_migration(self, connection: sa.Connection) -> None: ...


class Database:
    """One store. Thread-safe; whoever opens closes. Every method raises StoreFailed, nothing else of a database."""

    def __init__(self, url: str) -> None:
        """Open what `url` names, made if need be, and migrate it."""
        parsed = sa.make_url(url)
        self.name = parsed.render_as_string(hide_password=True)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self._kind: _Kind = _Sqlite(Path(parsed.database or "")) if self.is_sqlite else _Postgres(parsed)
        with told(self.name):
            self.engine = self._kind.engine()
            try:
                self._migrate()
            except BaseException:
                self.engine.dispose()
                raise
            self._kind.check()

    @contextmanager
    def writing(self, *, full: bool = False) -> Generator[sa.Connection]:
        """One transaction; with `full` it also survives a power cut."""
        with told(self.name):
            self._kind.check()
            with self.engine.connect() as connection:
                self._kind.durability(connection, full)
                with connection.begin():
                    yield connection

    @contextmanager
    def reading(self) -> Generator[sa.Connection]:
        with told(self.name):
            self._kind.check()
            with self.engine.connect().execution_options(fleet_reads=True) as connection:
                yield connection

    def check(self) -> None:
        """Raise StoreFailed if what was opened is not there any more."""
        with told(self.name):
            self._kind.check()

    def insert(self, table: sa.Table) -> Any:
        """An insert that knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
        return sqlite.insert(table) if self.is_sqlite else postgresql.insert(table)

    def close(self) -> None:
        self.engine.dispose()

    def _migrate(self) -> None:
        with self.engine.connect() as connection:
            found = None
            if sa.inspect(connection).has_table("alembic_version"):
                found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        if found == HEAD:
            return
        if found is not None and found > HEAD:
            raise StoreFailed(
                f"{self.name} was written by a newer version of this package", "upgrade the package, or move the store"
            )
        from alembic.config import Config
        from alembic.runtime.environment import EnvironmentContext
        from alembic.script import ScriptDirectory

        script = ScriptDirectory(_MIGRATIONS, version_locations=[_MIGRATIONS])

        def steps(revision: Any, context: Any) -> Any:
            return script._upgrade_revs("head", revision)  # pyright: ignore[reportPrivateUsage]

        # alembic 1.x keeps the context in globals of its modules, whichever thread it is of.
        with (
            _MIGRATING,
            EnvironmentContext(Config(), script, fn=steps) as environment,
            self.engine.begin() as connection,
        ):
            # Inside the write lock: of two processes that come at once, the second finds it done.
            self._kind.lock_for_migration(connection)
            environment.configure(connection=connection, transactional_ddl=True)
            environment.run_migrations()


class Kept:
    """What is kept of one owner in a database; that of others looks as if it were not there."""

    def __init__(self, database: Database, owner: str) -> None:
        self._database = database
        self._owner = owner


class _Sqlite:
    """A file in WAL mode, for its owner only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode: int | None = None

    def engine(self) -> sa.Engine:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite's own files beside it get the same mode
        engine = sa.create_engine(f"sqlite:///{self._path}", connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
        self._inode = self._path.stat().st_ino
        return engine

    def check(self) -> None:
        # A deleted file could still be written to, and what is in it would be lost without a word.
        if self._path.stat().st_ino != self._inode:
            raise StoreFailed(f"{self._path} was replaced while it was in use", "start again to use the new one")

    def durability(self, connection: sa.Connection, full: bool) -> None:
        raw: Any = connection.connection.dbapi_connection
        raw.execute(f"PRAGMA synchronous={'FULL' if full else 'NORMAL'}")

    def lock_for_migration(self, connection: sa.Connection) -> None:
        """`_begin` took the write lock."""


class _Postgres:
    """A server, through psycopg."""

    def __init__(self, url: sa.URL) -> None:
        self._url = url.set(drivername="postgresql+psycopg")

    def engine(self) -> sa.Engine:
        try:
            return sa.create_engine(self._url, pool_pre_ping=True, connect_args={"connect_timeout": 5})
        except ModuleNotFoundError as err:
            raise StoreFailed(
                "PostgreSQL needs a driver that is not installed", "pip install 'fleet-rlm-jupyter[postgres]'"
            ) from err

    def check(self) -> None:
        """The server says so itself when it is gone."""

    def durability(self, connection: sa.Connection, full: bool) -> None:
        with connection.begin():
            connection.exec_driver_sql(f"SET SESSION synchronous_commit TO {'on' if full else 'off'}")

    def lock_for_migration(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")


@contextmanager
def told(name: str) -> Generator[None]:
    """SQLAlchemy's, SQLite's and the system's errors as StoreFailed."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as err:
        why = str(getattr(err, "orig", None) or err).strip()
        raise StoreFailed(
            f"the store {name} cannot be used: {why}", "check that it is there and has room, or set store.url"
        ) from err


def _prepare(connection: Any, record: Any) -> None:
    # sqlite3 begins transactions by itself, too late for a lock: `_begin` does it.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")


def _begin(connection: sa.Connection) -> None:
    is_reading = connection.get_execution_options().get("fleet_reads")
    connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")
