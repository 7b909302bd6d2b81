"""Where usage is stored and forwarded to, found without writing any."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hfs_providers.contract.environment import TIDB, USAGE
from hfs_providers.contract.errors import HfsProvidersError, StoreError
from hfs_providers.contract.records import Problem
from hfs_providers.usage.location import Places

if TYPE_CHECKING:
    from hfs_providers.usage.database import Store


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """A database that rows are forwarded to.

    Args:
        name: where it is; it holds no password.
        behind: rows that it does not have yet, or None if that cannot be read.
        oldest: wall-clock time of the oldest of them, in seconds since the epoch.
        error: why the last try to send them failed, and how many it refuses for good.
        lacking: the columns that its table does not have, with commas.
        product: such as `TiDB` or `MariaDB`: as the database itself said at the last connection, else as its URL says.
    """

    name: str
    behind: int | None = None
    oldest: float | None = None
    error: str | None = None
    lacking: str = ""
    product: str = ""


def persistence_line(targets: Sequence[TargetStatus]) -> str:
    """Whether usage goes to TiDB, and to which other databases."""
    others = [f"{each.product}: {each.name}" for each in targets if each.product != "TiDB"]
    tidb = "Yes" if len(others) < len(targets) else "No"
    return f"TiDB persistence: {tidb}" + (f" ({', '.join(others)})" if others else "")


@dataclass(frozen=True, slots=True)
class StorageStatus:
    """Where usage goes.

    Args:
        path: of the local file, or None if usage is not kept.
        size: of the file in bytes, or None if there is no file yet.
        targets: the databases that rows are forwarded to.
        sharing: how processes share keys: by `file`, by `redis`, or None.
        processes: number of processes that use the file at the moment.
        problems: what cannot be used.
    """

    path: Path | None
    size: int | None
    targets: tuple[TargetStatus, ...]
    sharing: str | None
    processes: int
    problems: tuple[Problem, ...]

    @property
    def summary(self) -> str:
        """Whether usage goes to TiDB, and to which other databases."""
        return persistence_line(self.targets)


def storage_status(env: Mapping[str, str]) -> StorageStatus:
    """Where an environment stores and forwards usage, and its state. Creates no file; moves a corrupt one aside."""
    places = Places.of(env)
    store, size, problems, running = None, None, list(places.problems), 0
    if places.path is not None:
        from hfs_providers.usage.database import Store

        try:
            # Which errors `exists` hides depends on the version of Python.
            places.path.stat()
            store = Store(places.path)
            size = places.path.stat().st_size
            running = _running(store)
            if store.moved is not None:
                problems.append(Problem(f"{places.path} was corrupt and is now {store.moved}"))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (StoreError, OSError) as error:
            problems.append(Problem(str(error), getattr(error, "remedy", None)))
    targets = []
    for variable, url in places.targets.items() if places.path is not None else ():
        try:
            target = _target(store, variable, url)
            targets.append(target)
            if target.lacking:
                message = f"{target.name}: its table has no columns {target.lacking}, and may not be altered"
                remedy = "Let the user of the URL alter it, or add them by hand (docs/databases.md has the statement)"
                problems.append(Problem(f"{message}: they are not sent", remedy))
        except (HfsProvidersError, ImportError) as error:
            problems.append(Problem(f"{variable}: {error}", getattr(error, "remedy", None)))
    if places.path is None and places.targets:
        problems.append(nothing_to_forward(places))
    sharing = "redis" if places.redis else "file" if places.path is not None else None
    return StorageStatus(places.path, size, tuple(targets), sharing, running, tuple(problems))


def _running(store: Store) -> int:
    from hfs_providers.sharing import presence

    try:
        with closing(store.connect()) as connection:
            return presence.running_processes(connection, time.time())
    except (OSError, sqlite3.Error):
        return 0


def named_target(store: Store | None, variable: str, url: str) -> TargetStatus:
    """A database with its name and product.

    Args:
        store: the local file, or None if there is none.
        variable: that names the database.

    Raises:
        ForwardingError: the URL cannot be read.
        MissingDriverError: SQLAlchemy or the driver is not installed.
    """
    from hfs_providers.usage.forwarding.url import DatabaseUrl

    address = DatabaseUrl(url)
    # A database of MySQL's protocol in the variable of TiDB is TiDB.
    product = "TiDB" if variable == TIDB and address.product == "MySQL" else address.product
    if store is not None:
        query = "SELECT value FROM meta WHERE name = ?"
        with suppress(OSError, sqlite3.Error), closing(store.connect()) as connection:
            row = connection.execute(query, (f"product {address.name}",)).fetchone()
            product = str(row[0]) if row is not None else product
    return TargetStatus(address.name, 0, product=product)


def _target(store: Store | None, variable: str, url: str) -> TargetStatus:
    from hfs_providers.usage.forwarding.forwarder import behind

    target = named_target(store, variable, url)
    if store is None:
        return target
    try:
        found = next(each for each in behind(store, target.name) if each.name == target.name)
    except (OSError, sqlite3.Error) as error:
        return replace(target, behind=None, error=str(error))
    return replace(target, behind=found.rows, oldest=found.oldest, error=found.trouble, lacking=found.lacking)


def nothing_to_forward(places: Places) -> Problem:
    """The problem that rows cannot be forwarded because there is no local file."""
    names = " and ".join(places.targets)
    return Problem(
        f"nothing is forwarded to {names}: there is no local file to forward from", f"Set {USAGE} to an absolute path"
    )
