"""Where usage and key state go, put together from the environment: the file, the databases behind it, who shares it.

`HFS_USAGE_DB` is a path, the URL of a database (rows go there by way of the file at the default path) or `off`.
`HFS_FORWARD_DB` (or by its older name `TIDB_DB_URL`) is another such database. `HFS_REDIS_URL` is where several hosts
share key state; processes of one host share it through the file. What cannot be used is a problem, and the rest goes on
without it.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hfs_providers.core.contract import Event, Problem, ProviderConfig, Wrapper
from hfs_providers.core.errors import HfsProvidersError, StoreError
from hfs_providers.core.pool import KeyPool

if TYPE_CHECKING:
    from hfs_providers.core.forwarding import Forwarder
    from hfs_providers.core.hydrate import StateKeeper
    from hfs_providers.core.retention import Pruner
    from hfs_providers.core.sharing_file import FileLedger
    from hfs_providers.core.sharing_redis import RedisLedger
    from hfs_providers.core.store import Store
    from hfs_providers.core.usage import UsageLog

USAGE = "HFS_USAGE_DB"
FORWARD = "HFS_FORWARD_DB"
TIDB = "TIDB_DB_URL"
REDIS = "HFS_REDIS_URL"

_log = logging.getLogger("hfs_providers")


@dataclass(frozen=True, slots=True)
class Places:
    """What an environment says of where usage goes.

    Args:
        path: of the local file, or None where usage is not kept.
        targets: URLs of databases by the variable that names them. They may hold passwords.
        redis: URL, or None.
        problems: what cannot be used.
    """

    path: Path | None
    targets: Mapping[str, str]
    redis: str | None
    problems: tuple[Problem, ...] = ()

    def __repr__(self) -> str:
        return f"Places(path={self.path}, targets={list(self.targets)}, redis={self.redis is not None})"

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Places:
        """Read them from an environment."""
        said = env.get(USAGE, "").strip()
        targets, problems = {}, []
        urls = {name: env.get(name, "").strip() for name in (USAGE, FORWARD, TIDB)}
        if urls[FORWARD] and urls[TIDB]:
            if urls[FORWARD] != urls[TIDB]:
                message = f"{FORWARD} and {TIDB} name different databases: {TIDB} is not used"
                problems.append(Problem(message, f"Remove {TIDB}"))
            del urls[TIDB]
        for name, url in urls.items():
            if "://" in url:
                targets[name] = url
            elif url and name != USAGE:
                # Not shown: it may hold a password.
                message = f"{name} has no scheme: usage is not forwarded to it"
                problems.append(Problem(message, f"Write {name} as mysql://user:password@host:4000/database"))
        path: Path | None = None
        if said.lower() != "off":
            try:
                path = _path("" if USAGE in targets else said)
            except (OSError, RuntimeError, ValueError) as error:
                message = f"usage is not kept: {error}"
                problems.append(Problem(message, f"Set {USAGE} to an absolute path, or to off"))
        return cls(path, targets, env.get(REDIS, "").strip() or None, tuple(problems))


def _path(said: str) -> Path:
    """The path of the file, by default that in the user's state directory.

    Raises:
        OSError, RuntimeError, ValueError: there is no such path.
    """
    if "\0" in said:
        raise ValueError(f"no file can have the name in {USAGE}")
    if said:
        try:
            return Path(said).expanduser()
        except RuntimeError:
            raise RuntimeError(f"the home directory in {USAGE} is not known") from None
    from hfs_providers.core.usage import default_path

    try:
        path = default_path()
        known = path.is_absolute()
    except RuntimeError:
        known = False
    if not known:
        # Older versions of platformdirs leave the `~` in the path.
        raise RuntimeError("there is no home directory for its file")
    return path


@dataclass(frozen=True, slots=True)
class Target:
    """A database that rows are forwarded to.

    Args:
        name: where it is; it holds no password.
        behind: rows that it does not have yet, or None where that cannot be read.
        oldest: wall-clock time of the oldest of them.
        error: why the last try to send them failed, and how many it refuses for good.
        product: as `TiDB` or `MariaDB`: what it said itself when it was last connected to, else what its URL says.
    """

    name: str
    behind: int | None = None
    oldest: float | None = None
    error: str | None = None
    product: str = ""


def persistence_line(targets: Sequence[Target]) -> str:
    """Whether usage goes to TiDB, and to which databases else."""
    others = [f"{each.product}: {each.name}" for each in targets if each.product != "TiDB"]
    tidb = "Yes" if len(others) < len(targets) else "No"
    return f"TiDB persistence: {tidb}" + (f" ({', '.join(others)})" if others else "")


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where usage goes, looked up without keeping any.

    Args:
        path: of the local file, or None where usage is not kept.
        size: of the file in bytes, or None where there is none yet.
        targets: the databases that rows go to besides.
        sharing: what processes share keys by: `file`, `redis`, or None.
        processes: that are there at the moment, as the file says.
        problems: what cannot be used.
    """

    path: Path | None
    size: int | None
    targets: tuple[Target, ...]
    sharing: str | None
    processes: int
    problems: tuple[Problem, ...]

    @property
    def summary(self) -> str:
        """Whether usage goes to TiDB, and to which databases else."""
        return persistence_line(self.targets)


def whereabouts(env: Mapping[str, str]) -> Whereabouts:
    """Where an environment says that usage goes, and what is there. Nothing is made; a corrupt file is put aside."""
    places = Places.of(env)
    store, size, problems, running = None, None, list(places.problems), 0
    if places.path is not None:
        from hfs_providers.core.store import Store

        try:
            if places.path.exists():
                store = Store(places.path)
                size = places.path.stat().st_size
                running = _running(store)
                if store.moved is not None:
                    problems.append(Problem(f"{places.path} was corrupt and is now {store.moved}"))
        except (StoreError, OSError) as error:
            problems.append(Problem(str(error), getattr(error, "remedy", None)))
    targets = []
    for variable, url in places.targets.items() if places.path is not None else ():
        try:
            targets.append(_target(store, variable, url))
        except (HfsProvidersError, ImportError) as error:
            problems.append(Problem(f"{variable}: {error}", getattr(error, "remedy", None)))
    if places.path is None and places.targets:
        problems.append(_nothing_to_forward(places))
    sharing = "redis" if places.redis else "file" if places.path is not None else None
    return Whereabouts(places.path, size, tuple(targets), sharing, running, tuple(problems))


def _running(store: Store) -> int:
    from hfs_providers.core import processes

    try:
        with closing(store.connect()) as connection:
            rows = connection.execute("SELECT pid, born, place, seen FROM processes WHERE shared >= 0").fetchall()
    except (OSError, sqlite3.Error):
        return 0
    return sum(processes.alive(processes.Process(*row[:3]), row[3], time.time()) for row in rows)


def _named(store: Store | None, variable: str, url: str) -> Target:
    """A database by its name, and what it is."""
    from hfs_providers.core.address import Address

    address = Address(url)
    # Whoever names a server of MySQL's protocol so means TiDB.
    product = "TiDB" if variable == TIDB and address.product == "MySQL" else address.product
    if store is not None:
        query = "SELECT value FROM meta WHERE name = ?"
        with suppress(OSError, sqlite3.Error), closing(store.connect()) as connection:
            row = connection.execute(query, (f"product {address.name}",)).fetchone()
            product = str(row[0]) if row is not None else product
    return Target(address.name, 0, product=product)


def _target(store: Store | None, variable: str, url: str) -> Target:
    from hfs_providers.core.forwarding import behind

    target = _named(store, variable, url)
    if store is None:
        return target
    try:
        found = next(each for each in behind(store, target.name) if each.name == target.name)
    except (OSError, sqlite3.Error) as error:
        return replace(target, behind=None, error=str(error))
    return replace(target, behind=found.rows, oldest=found.oldest, error=found.trouble)


def _nothing_to_forward(places: Places) -> Problem:
    names = " and ".join(places.targets)
    return Problem(
        f"nothing is forwarded to {names}: there is no local file to forward from", f"Set {USAGE} to an absolute path"
    )


class Persistence:
    """Keeps what outlives the process, for one manager.

    Args:
        env: see the module's docstring.
        wall: seconds since the epoch.

    Nothing is raised for what cannot be used: see `problems`.
    """

    def __init__(self, env: Mapping[str, str], wall: Callable[[], float] = time.time) -> None:
        self.places = Places.of(env)
        self._wall = wall
        self._random = uuid.uuid4().hex
        self._failed: list[Problem] = list(self.places.problems)
        for problem in self._failed:
            _log.warning("%s", problem.message)
        self._keeper: StateKeeper | None = None
        self._ledger: FileLedger | RedisLedger | None = None
        self._pruner: Pruner | None = None
        self.log: UsageLog | None = None
        """Takes the rows; None where usage is not kept."""
        self.store: Store | None = None
        if self.places.path is not None:
            from hfs_providers.core.store import Store

            # What cannot be used now may be later: the log tries it again and again.
            self.store = Store(self.places.path, at_once=False)
        # With the variable that names its database.
        self._forwarding: list[tuple[str, Forwarder]] = []
        self.forwarders: list[Forwarder] = []
        if self.store is not None:
            from hfs_providers.core.retention import Pruner, Retention
            from hfs_providers.core.usage import UsageLog

            self.log = UsageLog(self.store, on_commit=self._committed)
            self._forwarding = [
                (name, each) for name in self.places.targets if (each := self._forwarder(self.store, name))
            ]
            self.forwarders = [forwarder for _, forwarder in self._forwarding]
            keep, problems = Retention.of(env)
            self._failed += problems
            self._pruner = Pruner(self.store, keep, [each.name for each in self.forwarders], wall)
            if self.store.unusable is None:
                # What an earlier process could not send.
                self._committed()
        elif self.places.targets:
            self._failed.append(_nothing_to_forward(self.places))

    @property
    def problems(self) -> list[Problem]:
        """What could not be used, or does not work at the moment."""
        # The file cannot be shared either while it cannot be written: that is said once.
        shared = self.places.redis is not None or self.log is None or not self.log.failing
        users = [self.log, self._pruner, *self.forwarders, self._ledger if shared else None]
        now = [user.problem for user in users if user is not None and user.problem is not None]
        return [*self._failed, *now]

    @property
    def summary(self) -> str:
        """Whether usage goes to TiDB, and to which databases else."""
        store = self.store if self.store is not None and self.store.unusable is None else None
        names = [name for name, _ in self._forwarding]
        return persistence_line([_named(store, name, self.places.targets[name]) for name in names])

    def start(self, wrappers: Mapping[str, Wrapper]) -> None:
        """Give providers that were built what is known of their keys, and begin to share it.

        Args:
            wrappers: by provider. One that has no pool is left out.
        """
        if self.log is not None and self.store is not None:
            from hfs_providers.core.hydrate import StateKeeper, hydrate

            wrappers = {name: wrapper for name, wrapper in wrappers.items() if _pool(wrapper) is not None}
            self._keeper = StateKeeper(self.log.defer, wrappers, self._wall, self._mark)
            if self.store.unusable is not None:
                self.log.defer(lambda connection: hydrate(connection, wrappers, self._wall()))
        if self.log is not None and self.store is not None and self.store.unusable is None:
            try:
                connection = self.store.connect()
                try:
                    hydrate(connection, wrappers, self._wall())
                finally:
                    connection.close()
            except Exception as error:
                # Whatever it is, the program can do without what was known yesterday.
                self._failed.append(_problem(f"key state was not read from {self.store.path}: {error}"))
        self._ledger = self._share(wrappers)

    def note(self, event: Event) -> None:
        """Keep of an event what outlives the process. Never blocks, never raises."""
        if self._keeper is not None:
            self._keeper.note(event)
        observe = getattr(self._ledger, "observe", None)
        if observe is not None:
            # What the file's ledger has to know stands in the file.
            observe(event)

    def consult(self, wrappers: Mapping[str, Wrapper], models: Mapping[str, Collection[str]]) -> Problem | None:
        """Put what Redis holds of the keys into the pools, for somebody who looks at them.

        Args:
            wrappers: by provider.
            models: by provider, the models whose counts are wanted; providers that are not named are left out.

        Returns:
            Why Redis cannot be read, or None. Without Redis nothing is done.
        """
        pools = {name: pool for name in models if (pool := _pool(wrappers.get(name))) is not None}
        if self.places.redis is None or not pools:
            return None
        from hfs_providers.core.sharing_view import take_over
        from hfs_providers.core.standing import limits_of

        def shared(provider: str, model: str, key_id: str) -> bool:
            config = getattr(wrappers[provider], "config", None)
            limits = limits_of(config, model, key_id) if isinstance(config, ProviderConfig) else None
            return limits is not None and limits.shared

        return take_over(self.places.redis, pools, models, shared, self._wall)

    def flush(self, timeout: float = 5.0) -> bool:
        """Whether everything recorded is in the file, within `timeout` seconds."""
        return self.log is None or self.log.flush(timeout)

    def close(self) -> None:
        """Write what is left, tell those who share that this process leaves, and stop all threads. Safe twice."""
        for user in (self._ledger, self.log, self._pruner, *self.forwarders):
            try:
                if user is not None:
                    user.close()
            except Exception as error:
                _log.warning("%r did not close cleanly: %s", user, error)

    def _forwarder(self, store: Store, variable: str) -> Forwarder | None:
        try:
            from hfs_providers.core.forwarding import Forwarder

            return Forwarder(store, self.places.targets[variable])
        except (HfsProvidersError, ImportError) as error:
            self._failed.append(_problem(f"{variable}: {error}", getattr(error, "remedy", None)))
            return None

    def _share(self, wrappers: Mapping[str, Wrapper]) -> FileLedger | RedisLedger | None:
        pools = {name: pool for name, wrapper in wrappers.items() if (pool := _pool(wrapper)) is not None}
        if not pools:
            return None
        ledger: FileLedger | RedisLedger
        try:
            if self.places.redis is not None:
                from hfs_providers.core.sharing_redis import RedisLedger

                # What this host has used is not known before the file can be read.
                store = self.store if self.store is not None and self.store.unusable is None else None
                ledger = RedisLedger(self.places.redis, store, wall=self._wall, flush=self.flush)
            elif self.log is not None:
                from hfs_providers.core.sharing_file import FileLedger

                ledger = FileLedger(self.log, wall=self._wall, mark=self._mark)
            else:
                return None
            ledger.start(pools)
        except (HfsProvidersError, ImportError) as error:
            self._failed.append(_problem(f"keys are not shared: {error}", getattr(error, "remedy", None)))
            return None
        return ledger

    def _mark(self) -> str:
        return f"{self._random}.{os.getpid()}"

    def _committed(self) -> None:
        for forwarder in self.forwarders:
            forwarder.wake()
        if self._pruner is not None:
            self._pruner.step()


def _pool(wrapper: Wrapper | None) -> KeyPool | None:
    pool = getattr(wrapper, "pool", None)
    return pool if isinstance(pool, KeyPool) else None


def _problem(message: str, remedy: str | None = None) -> Problem:
    problem = Problem(message, remedy)
    _log.warning("%s", message)
    return problem
