"""Sends the rows that no process has sent yet to the databases that the environment names, and waits for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from hfs_providers.contract.errors import HfsProvidersError, StoreError
from hfs_providers.usage.database import Store
from hfs_providers.usage.forwarding.forwarder import Forwarder, behind
from hfs_providers.usage.location import Places


@dataclass(frozen=True, slots=True)
class Sent:
    """The result of sending rows to one database.

    Args:
        name: of the database, or of the variable whose URL cannot be used; it holds no password.
        rows: how many were sent to it.
        left: how many it does not have yet, or None if that is not known.
        error: why, or None.
    """

    name: str
    rows: int
    left: int | None
    error: str | None = None


def send(env: Mapping[str, str], timeout: float) -> list[Sent]:
    """Send what is in the local file to each database that the environment names, for up to `timeout` seconds each.

    Raises:
        StoreError: the local file cannot be used.
    """
    places = Places.of(env)
    if places.path is None or not places.path.exists():
        return []
    store = Store(places.path)
    try:
        return [_send(store, variable, url, timeout) for variable, url in places.targets.items()]
    except (OSError, sqlite3.Error) as error:
        raise StoreError(store.path, str(error)) from error


def _send(store: Store, variable: str, url: str, timeout: float) -> Sent:
    try:
        forwarder = Forwarder(store, url)
    except (HfsProvidersError, ImportError) as error:
        return Sent(variable, 0, None, str(error))

    def left() -> int:
        return next(each.rows for each in behind(store, forwarder.name) if each.name == forwarder.name)

    before = left()
    try:
        done = forwarder.flush(timeout)
        problem = forwarder.problem
    finally:
        forwarder.close(0.0)
    after = left()
    late = None if done or not after else f"it has not taken them within {timeout:g} s"
    return Sent(forwarder.name, max(0, before - after), after, problem.message if problem is not None else late)
