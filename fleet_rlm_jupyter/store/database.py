"""A store file: opened, brought to today's version, and its errors in one word of ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from fleet_rlm_jupyter.domain.errors import FleetError

HEAD = "0001"
BUSY_SECONDS = 2.0

_MIGRATIONS = str(Path(__file__).with_name("migrations"))


class StoreFailed(FleetError):
    """The store cannot be opened, read or written."""

    code = "store_failed"


class Database:
    """One SQLite file in WAL mode. Thread-safe; whoever opens closes. Every method raises StoreFailed, nothing else."""

    def __init__(self, path: Path) -> None:
        """Open `path`, made if need be, and migrate it."""
        self.path = path
        with told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_SECONDS})
            event.listen(self.engine, "connect", _prepare)
            event.listen(self.engine, "begin", _begin)
            try:
                self._migrate()
            except BaseException:
                self.engine.dispose()
                raise
            self._inode = path.stat().st_ino

    @contextmanager
    def writing(self, *, full: bool = False) -> Generator[sa.Connection]:
        """One transaction; with `full` it also survives a power cut."""
        with told(self.path):
            # A deleted file could still be written to, and what is in it would be lost without a word.
            if self.path.stat().st_ino != self._inode:
                raise StoreFailed(f"{self.path} was replaced while it was in use", "start again to use the new one")
            with self.engine.connect() as connection:
                _synchronous(connection, "FULL" if full else "NORMAL")
                with connection.begin():
                    yield connection

    @contextmanager
    def reading(self) -> Generator[sa.Connection]:
        with told(self.path), self.engine.connect().execution_options(fleet_reads=True) as connection:
            yield connection

    def close(self) -> None:
        self.engine.dispose()

    def _migrate(self) -> None:
        with self.engine.connect() as connection:
            tables = set(sa.inspect(connection).get_table_names())
            found = None
            if "alembic_version" in tables:
                found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        if found == HEAD:
            return
        if found is not None and found > HEAD:
            raise StoreFailed(
                f"{self.path} was written by a newer version of this package", "upgrade the package, or move the file"
            )
        from alembic.config import Config
        from alembic.runtime.environment import EnvironmentContext
        from alembic.script import ScriptDirectory

        script = ScriptDirectory(_MIGRATIONS, version_locations=[_MIGRATIONS])

        def steps(revision: Any, context: Any) -> Any:
            return script._upgrade_revs("head", revision)  # pyright: ignore[reportPrivateUsage]

        with EnvironmentContext(Config(), script, fn=steps) as environment, self.engine.begin() as connection:
            # Inside the write lock: of two processes that come at once, the second finds it done.
            environment.configure(connection=connection, transactional_ddl=True)
            environment.run_migrations()


@contextmanager
def told(path: Path) -> Generator[None]:
    """SQLAlchemy's, SQLite's and the system's errors as StoreFailed."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError) as err:
        why = str(getattr(err, "orig", None) or err)
        raise StoreFailed(f"the store {path} cannot be used: {why}", "check the file and its disk, or move it") from err


def _prepare(connection: Any, record: Any) -> None:
    # sqlite3 begins transactions by itself, too late for a lock: `_begin` does it.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")


def _begin(connection: sa.Connection) -> None:
    is_reading = connection.get_execution_options().get("fleet_reads")
    connection.exec_driver_sql("BEGIN" if is_reading else "BEGIN IMMEDIATE")


def _synchronous(connection: sa.Connection, level: str) -> None:
    raw: Any = connection.connection.dbapi_connection
    raw.execute(f"PRAGMA synchronous={level}")
