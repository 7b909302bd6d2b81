"""What happened to keys and models, as the table `key_event` stores it. It is only shown; nothing depends on it."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from hfs_providers.contract.instants import DAY

KEY_EVENTS_FOR = 7 * DAY
"""Seconds for which they are kept."""

MOST_KEY_EVENTS = 1_000_000
"""How many are kept at most."""


class KeyEvent(NamedTuple):
    """A row of `key_event`.

    Args:
        at: seconds since the epoch.
        key: the key's fingerprint, or its id if it has no secret or is no longer known; None if it concerns no key.
        model: the one that it concerns; None if it concerns all.
        until: when it is over, in seconds since the epoch, if that is known.
    """

    at: float
    provider: str
    key: str | None
    model: str | None
    kind: str
    reason: str | None
    until: float | None

    def write(self, connection: sqlite3.Connection) -> None:
        """Add it to the table.

        Raises:
            sqlite3.Error: the file cannot be written.
        """
        connection.execute(_INSERT, self)


_INSERT = (
    f"INSERT INTO key_event ({', '.join(KeyEvent._fields)})"  # noqa: S608  our own words
    f" VALUES ({', '.join('?' * len(KeyEvent._fields))})"
)


def forget_key_events(connection: sqlite3.Connection, wall: float, step: int) -> int:
    """Delete those that are too old, at most `step`. Returns how many were deleted."""
    return connection.execute(
        "DELETE FROM key_event WHERE rowid IN (SELECT rowid FROM key_event"
        " WHERE at < ? OR rowid <= (SELECT max(rowid) FROM key_event) - ? LIMIT ?)",
        (wall - KEY_EVENTS_FOR, MOST_KEY_EVENTS, step),
    ).rowcount
