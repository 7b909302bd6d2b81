"""The local SQLite file: usage rows, key state, who shares it. Its schema, and what can be wrong with it.

    invariant: ids of `usage` grow in the order of commits and are never given twice, so that whoever forwards rows
               has forwarded all of them up to the last id that it saw.
    invariant: `quarter` holds the sums of all rows ever written, by quarter of an hour; `usage` may be pruned.

Nothing in it is a key: a key is its id and fingerprint.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from pathlib import Path

from hfs_providers.core.errors import StoreError

SCHEMA_VERSION = 1
"""Of the file; an older one is migrated when it is opened, a newer one is left alone."""

QUARTER = 900
"""Seconds that a row of `quarter` sums up."""

BUSY = 5.0
"""Seconds that a connection waits for another process's transaction."""

_APPLICATION = 0x48465350  # "HFSP"

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
    CREATE TABLE processes (
        id TEXT PRIMARY KEY, pid INTEGER NOT NULL, born REAL NOT NULL, seen REAL NOT NULL, shared INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE in_flight (
        process TEXT NOT NULL, provider TEXT NOT NULL, account TEXT NOT NULL, scope TEXT NOT NULL,
        requests INTEGER NOT NULL, tokens INTEGER NOT NULL,
        PRIMARY KEY (provider, account, scope, process)
    ) WITHOUT ROWID;
    -- How far each database that rows are forwarded to has come.
    CREATE TABLE targets (
        name TEXT PRIMARY KEY, forwarded INTEGER NOT NULL, at REAL NOT NULL, error TEXT
    ) WITHOUT ROWID;
    """,
}


class Store:
    """A file that is there and has the schema of this version.

    Args:
        path: of the file; it is made where it is missing, readable by its owner alone.

    Raises:
        StoreError: it cannot be used, and why.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            connection = self.connect()
            try:
                self._migrate(connection)
                row = connection.execute("SELECT value FROM meta WHERE name = 'source'").fetchone()
            finally:
                connection.close()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(self.path, str(error)) from error
        self.source: str = row[0]
        """A random name of this file, by which the databases that rows are forwarded to tell them apart."""

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def connect(self, *, durable: bool = True) -> sqlite3.Connection:
        """A new connection in autocommit mode, for the thread that asks.

        Args:
            durable: False never waits for the disk: a power cut may lose what it wrote last, a crash of the process
                does not.

        Raises:
            OSError, sqlite3.Error: the file cannot be used.
        """
        if not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {'NORMAL' if durable else 'OFF'}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StoreError(
                self.path,
                f"it has schema {version}, of a later version of hfs-providers than this (schema {SCHEMA_VERSION})",
                "Run: pip install -U hfs-providers",
            )
        if version == SCHEMA_VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have been faster.
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            for step in range(version + 1, SCHEMA_VERSION + 1):
                for statement in _MIGRATIONS[step].split(";"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('source', ?)", (uuid.uuid4().hex,))
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
