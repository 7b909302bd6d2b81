"""The local SQLite file: usage rows, key state, who shares it. Its schema, and what can be wrong with it.

    invariant: ids of `usage` grow in the order of commits and are never given twice, so that whoever forwards rows
               has forwarded all of them up to the last id that it saw.
    invariant: `quarter` holds the sums of all rows ever written, by quarter of an hour; `usage` may be pruned.

Nothing in it is a key: a key is its id and fingerprint.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hfs_providers.core.errors import StoreError

SCHEMA_VERSION = 2
"""Of the file; an older one is migrated when it is opened, a newer one is left alone."""

QUARTER = 900
"""Seconds that a row of `quarter` sums up."""

BUSY = 5.0
"""Seconds that a connection waits for another process's transaction."""

_APPLICATION = 0x48465350  # "HFSP"

# Bytes that the write-ahead log keeps on the disk once it has been copied into the file.
_LOG_SIZE = 16 * 1024 * 1024

_FIRST_PAUSE, _LONGEST_PAUSE = 0.0001, 0.002

# By version: what makes that version out of the one before.
_MIGRATIONS = {
    1: """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    -- Who was asked with which key. Rows name it by number, because there are millions of them.
    CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        provider TEXT NOT NULL, model TEXT NOT NULL, key_id TEXT NOT NULL, fingerprint TEXT NOT NULL,
        UNIQUE (provider, model, key_id, fingerprint)
    );
    CREATE TABLE usage (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        series INTEGER NOT NULL REFERENCES series (id),
        at REAL NOT NULL,
        tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, tokens INTEGER NOT NULL, charged INTEGER NOT NULL,
        latency REAL NOT NULL, outcome TEXT NOT NULL
    );
    CREATE INDEX usage_window ON usage (series, at, charged);
    CREATE TABLE quarter (
        series INTEGER NOT NULL REFERENCES series (id),
        start INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        requests INTEGER NOT NULL,
        tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, tokens INTEGER NOT NULL, charged INTEGER NOT NULL,
        latency REAL NOT NULL,
        PRIMARY KEY (series, start, outcome)
    ) WITHOUT ROWID;
    CREATE INDEX quarter_start ON quarter (start);
    -- Kinds: key (by fingerprint: dead), rest (by account: cooling), circuit and gone (by model). Bodies are JSON.
    CREATE TABLE state (
        provider TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (provider, kind, name)
    ) WITHOUT ROWID;
    -- Shared: 0 alone, 1 with others, 2 joining them, -1 found dead when last seen.
    CREATE TABLE processes (
        id TEXT PRIMARY KEY, pid INTEGER NOT NULL, born REAL NOT NULL, place TEXT NOT NULL,
        seen REAL NOT NULL, shared INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE in_flight (
        process TEXT NOT NULL, provider TEXT NOT NULL, account TEXT NOT NULL, scope TEXT NOT NULL,
        requests INTEGER NOT NULL, tokens INTEGER NOT NULL,
        PRIMARY KEY (provider, account, scope, process)
    ) WITHOUT ROWID;
    -- How far each database that rows are forwarded to has come, and how many rows it refuses for good.
    CREATE TABLE targets (
        name TEXT PRIMARY KEY, forwarded INTEGER NOT NULL, at REAL NOT NULL, error TEXT,
        refused INTEGER NOT NULL DEFAULT 0, refusal TEXT
    ) WITHOUT ROWID;
    """,
    2: f"""
    CREATE TRIGGER usage_quarter AFTER INSERT ON usage BEGIN
        INSERT INTO quarter (series, start, outcome, requests, tokens_in, tokens_out, tokens, charged, latency)
        VALUES (
            NEW.series, CAST(NEW.at / {QUARTER} AS INTEGER) * {QUARTER}, NEW.outcome,
            1, NEW.tokens_in, NEW.tokens_out, NEW.tokens, NEW.charged, NEW.latency
        )
        ON CONFLICT (series, start, outcome) DO UPDATE SET
            requests = requests + 1, tokens_in = tokens_in + NEW.tokens_in, tokens_out = tokens_out + NEW.tokens_out,
            tokens = tokens + NEW.tokens, charged = charged + NEW.charged, latency = latency + NEW.latency;
    END;
    """,  # noqa: S608  our own words
}


class Store:
    """A file that is there and has the schema of this version.

    Args:
        path: of the file; it is made where it is missing, readable by its owner alone.
        at_once: False where it may be used later: then `unusable` says why it cannot be yet.

    Raises:
        StoreError: it cannot be used, and why.
    """

    def __init__(self, path: str | os.PathLike[str], *, at_once: bool = True) -> None:
        self.path = Path(path)
        self.moved: Path | None = None
        """Where a corrupt file was put that stood in the way."""
        self.source = ""
        """A random name of this file, by which the databases that rows are forwarded to tell them apart."""
        self.unusable: StoreError | None = None
        """Why it could not be used when it was made."""
        try:
            self.prepare()
        except StoreError as error:
            if at_once:
                raise
            self.unusable = error

    def prepare(self) -> None:
        """Make the file and its schema where they are missing; a corrupt file is put aside for a new one.

        Raises:
            StoreError: the file cannot be used.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            identity = self.identity()
            try:
                patiently(self._open, BUSY)
            except sqlite3.DatabaseError as error:
                if not corrupt(error):
                    raise
                self.set_aside(identity)
                patiently(self._open, BUSY)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(self.path, str(error)) from error

    def _open(self) -> None:
        connection = self.connect()
        try:
            self._migrate(connection)
            (self.source,) = connection.execute("SELECT value FROM meta WHERE name = 'source'").fetchone()
        finally:
            connection.close()

    def identity(self) -> tuple[int, int] | None:
        """What tells the file from another one of that name; None where there is none."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def set_aside(self, identity: tuple[int, int] | None) -> None:
        """Rename a file that is corrupt, unless another process was faster.

        Args:
            identity: of the file that was found corrupt.
        """
        if identity is None or self.identity() != identity:
            return
        target = self.path.with_name(f"{self.path.name}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}")
        # The log first: it must not be taken for that of the next file.
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                os.replace(f"{self.path}{suffix}", f"{target}{suffix}")
        self.moved = target

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def connect(self, *, durable: bool = True, patience: float = BUSY) -> sqlite3.Connection:
        """A new connection in autocommit mode. It must not outlive a fork: see `StoreConnection`.

        Args:
            durable: False never waits for the disk: a power cut may lose what it wrote last, a crash of the process
                does not.
            patience: seconds for which SQLite waits for another's transaction; 0 for those who wait by `begin`.

        Raises:
            OSError, sqlite3.Error: the file cannot be used.
        """
        if not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.path, timeout=patience, isolation_level=None, check_same_thread=False)
        try:
            # Changing the mode of a new file may meet another process that does the same.
            connection.execute(f"PRAGMA busy_timeout = {int(BUSY * 1000)}")
            # SQLite itself does not wait where two processes would wait for each other.
            patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), BUSY)
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_SIZE}")
            connection.execute(f"PRAGMA synchronous = {'NORMAL' if durable else 'OFF'}")
            if not durable:
                # What is copied into the file must be on the disk before: left to the connections that see to it.
                connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
        except BaseException:
            connection.close()
            raise
        return connection

    def check(self, connection: sqlite3.Connection) -> int:
        """The schema of the file, which another process may have changed.

        Raises:
            StoreError: it is a newer one than this version knows.
        """
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StoreError(
                self.path,
                f"it has schema {version}, of a later version of hfs-providers than this (schema {SCHEMA_VERSION})",
                "Run: pip install -U hfs-providers",
            )
        return int(version)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        if self.check(connection) == SCHEMA_VERSION:
            return
        with transaction(connection):
            # Another process may have been faster.
            for step in range(self.check(connection) + 1, SCHEMA_VERSION + 1):
                for statement in _statements(_MIGRATIONS[step]):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('source', ?)", (uuid.uuid4().hex,))


def _statements(script: str) -> Iterator[str]:
    # `executescript` would end the transaction.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def corrupt(error: BaseException) -> bool:
    """Whether SQLite says that the file is no database, or a broken one."""
    return isinstance(error, sqlite3.DatabaseError) and _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: sqlite3.Error) -> int:
    # The low byte is the primary code; errors that Python's module raises by itself have none.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def begin(connection: sqlite3.Connection, seconds: float = BUSY) -> None:
    """Begin a transaction that writes. Waits for others in steps of a tenth of a millisecond.

    SQLite's own waiting sleeps for up to 100 ms at a time, during which the file is given to others many times over.

    Args:
        connection: of patience 0.
        seconds: to wait at most.

    Raises:
        sqlite3.OperationalError: it is locked for longer than that.
    """
    patiently(lambda: connection.execute("BEGIN IMMEDIATE"), seconds)


def patiently(action: Callable[[], object], seconds: float) -> None:
    """Do it as soon as others let it be done.

    Args:
        action: a statement that writes, on a connection of patience 0.
        seconds: to wait at most.

    Raises:
        sqlite3.OperationalError: the file is locked for longer than that.
    """
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while True:
        try:
            action()
            return
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  so that those who wait do not march in step
        pause = min(pause * 1.5, _LONGEST_PAUSE)


@contextmanager
def transaction(connection: sqlite3.Connection, seconds: float = BUSY) -> Iterator[None]:
    """All or nothing; part of the transaction that is under way, if one is.

    Args:
        connection: of the store.
        seconds: to wait for other writers at most.
    """
    if connection.in_transaction:
        yield
        return
    begin(connection, seconds)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


class StoreConnection:
    """One connection for whoever needs one again and again: opened when needed, for one thread at a time.

    It follows the file: where that was deleted or put aside, the next use makes and opens a new one. And it is closed
    while the process forks, because what SQLite knows of a file's locks is wrong in a child.

    Args:
        store: whose.
        durable, patience: as for `Store.connect`.
    """

    def __init__(self, store: Store, *, durable: bool = True, patience: float = BUSY) -> None:
        self._store = store
        self._durable = durable
        self._patience = patience
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self.opened = 0
        """How often it was opened: what is remembered of the file is only right while this stays the same."""
        _connections.add(self)

    @contextmanager
    def use(self, wait: float = BUSY) -> Iterator[sqlite3.Connection]:
        """The connection, for the thread that asks, until the block ends.

        Args:
            wait: seconds to wait for other threads at most.

        Raises:
            StoreError, OSError, sqlite3.Error: the file cannot be used.
        """
        if not self._lock.acquire(timeout=wait):
            raise sqlite3.OperationalError("the connection is in use")
        lock = self._lock
        try:
            yield self._current()
        except sqlite3.DatabaseError as error:
            if corrupt(error):
                self._close()
                self._store.set_aside(self._identity)
            raise
        finally:
            lock.release()

    def close(self) -> None:
        """Close it until it is used again."""
        with self._lock:
            self._close()

    def _current(self) -> sqlite3.Connection:
        identity = self._store.identity()
        if self._connection is not None and identity is not None and identity == self._identity:
            return self._connection
        self._close()
        if identity is None or identity != self._identity:
            self._store.prepare()
        self._connection = self._store.connect(durable=self._durable, patience=self._patience)
        self._identity = self._store.identity()
        self.opened += 1
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


_connections: weakref.WeakSet[StoreConnection] = weakref.WeakSet()
_quiet: list[StoreConnection] = []

# Seconds for which a fork waits for a connection in use. A child leaves one that was not closed alone for good.
_FORK_PATIENCE = 1.0
_left_alone: list[sqlite3.Connection] = []


def _before_fork() -> None:
    for each in list(_connections):
        if each._lock.acquire(timeout=_FORK_PATIENCE):
            _quiet.append(each)
            with suppress(sqlite3.Error):
                each._close()


def _after_fork_in_parent() -> None:
    for each in _quiet:
        each._lock.release()
    _quiet.clear()


def _after_fork_in_child() -> None:
    for each in list(_connections):
        each._lock = threading.Lock()
        if each._connection is not None:
            _left_alone.append(each._connection)
            each._connection = None
    _quiet.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
