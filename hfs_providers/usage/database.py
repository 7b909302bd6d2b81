"""The local SQLite file: usage rows, key state, the processes that share it. Its schema, and what can be wrong with it.

    invariant: ids of `usage` grow in the order of commits and are never used twice, so a forwarder has sent all rows up
               to the last id that it saw.
    invariant: `quarter` holds the sums of all rows ever written, by quarter of an hour; `usage` may be pruned. `total`
               holds the same without keys, for quarters that are over: see the module `totals`.

No key is stored in it: a key is named by its id and fingerprint.
"""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from hfs_providers.contract.errors import StoreError
from hfs_providers.usage.transaction import BUSY, corrupt, patiently, transaction

SCHEMA_VERSION = 4
"""The version of the schema; a file with an older one is migrated when it is opened, a file with a newer one is not
touched."""

QUARTER = 900
"""Seconds that a row of `quarter` sums up."""


_APPLICATION = 0x48465350  # "HFSP"

# Bytes that the write-ahead log keeps on the disk once it has been copied into the file.
_LOG_SIZE = 16 * 1024 * 1024

MIGRATIONS = {
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
    # Nothing here reads or writes rows: calls do not wait for it, however many there are.
    3: f"""
    ALTER TABLE usage ADD COLUMN call_id TEXT NOT NULL DEFAULT '';
    ALTER TABLE usage ADD COLUMN attempt INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE usage ADD COLUMN status INTEGER;
    ALTER TABLE usage ADD COLUMN reason TEXT NOT NULL DEFAULT '';
    ALTER TABLE usage ADD COLUMN cooled_until REAL;
    ALTER TABLE usage ADD COLUMN tokens_cached INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE usage ADD COLUMN tokens_cache_write INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE usage ADD COLUMN cost_nanousd INTEGER;
    ALTER TABLE quarter ADD COLUMN tokens_cached INTEGER NOT NULL DEFAULT 0;
    -- How many of the requests have a price, and the sum of their prices.
    ALTER TABLE quarter ADD COLUMN priced INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE quarter ADD COLUMN cost_nanousd INTEGER NOT NULL DEFAULT 0;
    -- A client is part of the series, so that sums by client need no other table.
    CREATE TABLE series_of_clients (
        id INTEGER PRIMARY KEY,
        provider TEXT NOT NULL, model TEXT NOT NULL, key_id TEXT NOT NULL, fingerprint TEXT NOT NULL,
        client TEXT NOT NULL DEFAULT '',
        UNIQUE (provider, model, key_id, fingerprint, client)
    );
    INSERT INTO series_of_clients (id, provider, model, key_id, fingerprint)
        SELECT id, provider, model, key_id, fingerprint FROM series;
    DROP TABLE series;
    ALTER TABLE series_of_clients RENAME TO series;
    DROP TRIGGER usage_quarter;
    CREATE TRIGGER usage_quarter AFTER INSERT ON usage BEGIN
        INSERT INTO quarter (
            series, start, outcome, requests, tokens_in, tokens_out, tokens, charged, latency,
            tokens_cached, priced, cost_nanousd
        )
        VALUES (
            NEW.series, CAST(NEW.at / {QUARTER} AS INTEGER) * {QUARTER}, NEW.outcome,
            1, NEW.tokens_in, NEW.tokens_out, NEW.tokens, NEW.charged, NEW.latency,
            NEW.tokens_cached, NEW.cost_nanousd IS NOT NULL, coalesce(NEW.cost_nanousd, 0)
        )
        ON CONFLICT (series, start, outcome) DO UPDATE SET
            requests = requests + 1, tokens_in = tokens_in + NEW.tokens_in, tokens_out = tokens_out + NEW.tokens_out,
            tokens = tokens + NEW.tokens, charged = charged + NEW.charged, latency = latency + NEW.latency,
            tokens_cached = tokens_cached + NEW.tokens_cached, priced = priced + excluded.priced,
            cost_nanousd = cost_nanousd + excluded.cost_nanousd;
        UPDATE budget SET spent = spent + NEW.cost_nanousd
            WHERE NEW.cost_nanousd > 0 AND NEW.at >= start AND NEW.at < ends
            AND (provider = '' OR provider = (SELECT provider FROM series WHERE id = NEW.series))
            AND (client = '' OR client = (SELECT client FROM series WHERE id = NEW.series));
    END;
    -- What was spent in the current period of each budget, and what processes have reserved of it.
    CREATE TABLE budget (
        name TEXT NOT NULL, start INTEGER NOT NULL, ends INTEGER NOT NULL,
        provider TEXT NOT NULL, client TEXT NOT NULL, spent INTEGER NOT NULL,
        -- Where several hosts share it: how many, and what this one may have spent if it hears of the others no more.
        hosts INTEGER NOT NULL DEFAULT 1, part INTEGER,
        PRIMARY KEY (name, start, ends)
    ) WITHOUT ROWID;
    CREATE TABLE budget_held (
        name TEXT NOT NULL, holder TEXT NOT NULL,
        pid INTEGER NOT NULL, born REAL NOT NULL, place TEXT NOT NULL, seen REAL NOT NULL, nanousd INTEGER NOT NULL,
        PRIMARY KEY (name, holder)
    ) WITHOUT ROWID;
    -- What happened to keys and models. A key is named by its fingerprint, or by its id if it has no secret.
    CREATE TABLE key_event (
        at REAL NOT NULL, provider TEXT NOT NULL, key TEXT, model TEXT, kind TEXT NOT NULL, reason TEXT, until REAL
    );
    CREATE INDEX key_event_at ON key_event (at);
    """,  # noqa: S608  our own words
    # Nor does this: the background fills the new table. A row is written to it only if its quarter is in it already.
    4: f"""
    CREATE TABLE total (
        start INTEGER NOT NULL,
        provider TEXT NOT NULL, model TEXT NOT NULL, client TEXT NOT NULL, outcome TEXT NOT NULL,
        requests INTEGER NOT NULL, tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, tokens INTEGER NOT NULL,
        latency REAL NOT NULL, tokens_cached INTEGER NOT NULL, priced INTEGER NOT NULL, cost_nanousd INTEGER NOT NULL,
        PRIMARY KEY (start, provider, model, client, outcome)
    ) WITHOUT ROWID;
    -- The instant before which all quarters are in it.
    CREATE TABLE totalled (upto INTEGER NOT NULL);
    INSERT INTO totalled VALUES (0);
    CREATE TRIGGER usage_total AFTER INSERT ON usage WHEN NEW.at < (SELECT upto FROM totalled) BEGIN
        INSERT INTO total
        SELECT
            CAST(NEW.at / {QUARTER} AS INTEGER) * {QUARTER}, provider, model, client, NEW.outcome,
            1, NEW.tokens_in, NEW.tokens_out, NEW.tokens,
            NEW.latency, NEW.tokens_cached, NEW.cost_nanousd IS NOT NULL, coalesce(NEW.cost_nanousd, 0)
        FROM series WHERE id = NEW.series
        ON CONFLICT (start, provider, model, client, outcome) DO UPDATE SET
            requests = requests + 1, tokens_in = tokens_in + NEW.tokens_in, tokens_out = tokens_out + NEW.tokens_out,
            tokens = tokens + NEW.tokens, latency = latency + NEW.latency,
            tokens_cached = tokens_cached + NEW.tokens_cached, priced = priced + excluded.priced,
            cost_nanousd = cost_nanousd + excluded.cost_nanousd;
    END;
    """,  # noqa: S608  our own words
}
"""By version: the statements that make it from the version before."""


class Store:
    """The usage file, with the schema of this version.

    Args:
        path: of the file; it is created if it is missing, and only its owner can read it.
        at_once: False if it need not be usable yet: then `unusable` says why it is not.

    Raises:
        StoreError: it cannot be used; the error says why.
    """

    def __init__(self, path: str | os.PathLike[str], *, at_once: bool = True) -> None:
        self.path = Path(path)
        self.moved: Path | None = None
        """Where a corrupt file was moved to."""
        self.source = ""
        """A random name of this file, which says in other databases where rows come from."""
        self.unusable: StoreError | None = None
        """Why it could not be used when it was made."""
        try:
            self.prepare()
        except StoreError as error:
            if at_once:
                raise
            self.unusable = error

    def prepare(self) -> None:
        """Create the file and its schema if they are missing; a corrupt file is put aside for a new one.

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
        with closing(self.connect()) as connection:
            self._migrate(connection)
            (self.source,) = connection.execute("SELECT value FROM meta WHERE name = 'source'").fetchone()

    def identity(self) -> tuple[int, int] | None:
        """The identity of the file, as opposed to another file of that name; None if there is no file."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def set_aside(self, identity: tuple[int, int] | None) -> None:
        """Rename a corrupt file, unless another process was faster. `identity` is that of the file that was found."""
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
            patience: seconds for which SQLite waits for another transaction; 0 for callers that wait by `begin`.

        Raises:
            OSError, sqlite3.Error: the file cannot be used.
        """
        if not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.path, timeout=patience, isolation_level=None, check_same_thread=False)
        try:
            # Changing the mode of a new file may meet another process that does the same.
            connection.execute(f"PRAGMA busy_timeout = {int(BUSY * 1000)}")
            # SQLite itself does not wait if two processes would wait for each other.
            patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), BUSY)
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_SIZE}")
            connection.execute(f"PRAGMA synchronous = {'NORMAL' if durable else 'OFF'}")
            if not durable:
                # Copying the log into the file needs the log on the disk: only durable connections do it.
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
                for statement in _statements(MIGRATIONS[step]):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('source', ?)", (uuid.uuid4().hex,))


@contextmanager
def opened(store: Store) -> Iterator[sqlite3.Connection]:
    """A connection that is closed at the end of the block.

    Raises:
        StoreError: the file cannot be used.
    """
    try:
        with closing(store.connect()) as connection:
            yield connection
    except (OSError, sqlite3.Error) as error:
        raise StoreError(store.path, str(error)) from error


def _statements(script: str) -> Iterator[str]:
    # `executescript` would end the transaction.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
