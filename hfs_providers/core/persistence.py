"""Keeps usage and key state as the environment says: in the local file, in databases behind it, and in Redis.

`HFS_USAGE_DB` is a path, the URL of a database (rows are forwarded there from the file at the default path) or `off`.
`HFS_FORWARD_DB` (or by its older name `TIDB_DB_URL`) is another such database. `HFS_REDIS_URL` is where several hosts
share key state; processes of one host share it through the file. What cannot be used is reported as a problem, and
everything else works without it.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from hfs_providers.contract.errors import HfsProvidersError
from hfs_providers.contract.records import Credential, Event, Problem, Wrapper
from hfs_providers.contract.usage_row import UsageRow
from hfs_providers.core.storage_status import named_target, nothing_to_forward, persistence_line
from hfs_providers.keys.pool import KeyPool
from hfs_providers.usage.location import Places

if TYPE_CHECKING:
    from hfs_providers.keys.snapshot import PoolSnapshot
    from hfs_providers.money.budgets import Budget, BudgetLedger, Budgets
    from hfs_providers.money.prices import PriceList
    from hfs_providers.sharing.file_ledger import FileLedger
    from hfs_providers.sharing.redis_ledger import RedisLedger
    from hfs_providers.usage.database import Store
    from hfs_providers.usage.forwarding.forwarder import Forwarder
    from hfs_providers.usage.log import UsageLog
    from hfs_providers.usage.retention import Pruner


_log = logging.getLogger("hfs_providers")


class Persistence:
    """Keeps what outlives the process, for one manager.

    Args:
        env: see the module's docstring.
        wall: seconds since the epoch.
        price: of a request; see `UsageLog`.

    Nothing is raised if something cannot be used: see `problems`.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        wall: Callable[[], float] = time.time,
        price: Callable[[UsageRow], int | None] = lambda _: None,
    ) -> None:
        self.places = Places.of(env)
        self._wall = wall
        self._random = uuid.uuid4().hex
        self._failed: list[Problem] = list(self.places.problems)
        for problem in self._failed:
            _log.warning("%s", problem.message)
        # What else must know of events: the keeper of key state, and the ledger if it is not the file that has it.
        self._observers: list[Callable[[Event], object]] = []
        self._ledger: FileLedger | RedisLedger | None = None
        self._pruner: Pruner | None = None
        self._spending: BudgetLedger | None = None
        self.log: UsageLog | None = None
        """Takes the rows; None if usage is not kept."""
        self.store: Store | None = None
        if self.places.path is not None:
            from hfs_providers.usage.database import Store

            # A file that cannot be used now may be usable later: the log tries it again and again.
            self.store = Store(self.places.path, at_once=False)
        # With the variable that names its database.
        self._forwarding: list[tuple[str, Forwarder]] = []
        self.forwarders: list[Forwarder] = []
        if self.store is not None:
            from hfs_providers.usage.log import UsageLog
            from hfs_providers.usage.retention import Pruner, Retention

            self.log = UsageLog(self.store, on_commit=self._committed, price=price)
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
            self._failed.append(nothing_to_forward(self.places))

    @property
    def problems(self) -> list[Problem]:
        """Problems: what could not be used, or does not work at the moment."""
        # While the file cannot be written, it cannot be shared either: one problem is enough.
        shared = self.places.redis is not None or self.log is None or not self.log.failing
        users = [self.log, self._pruner, *self.forwarders, self._ledger if shared else None]
        now = [user.problem for user in users if user is not None and user.problem is not None]
        return [*self._failed, *now]

    @property
    def summary(self) -> str:
        """Whether usage goes to TiDB, and to which other databases."""
        store = self.store if self.store is not None and self.store.unusable is None else None
        names = [name for name, _ in self._forwarding]
        return persistence_line([named_target(store, name, self.places.targets[name]) for name in names])

    def start(self, wrappers: Mapping[str, Wrapper], shares: bool = True) -> None:
        """Restore what is known of the keys of built providers that have a pool, and start to share it if wanted."""
        pools = _pools(wrappers)
        wrappers = {name: wrappers[name] for name in pools}
        if self.log is not None and self.store is not None:
            from hfs_providers.sharing.key_state import restore_key_state
            from hfs_providers.sharing.state_log import StateKeeper

            self._observers.append(StateKeeper(self.log.defer, wrappers, self._wall, self._mark).note)
            if self.store.unusable is not None:
                self.log.defer(lambda connection: restore_key_state(connection, wrappers, self._wall()))
            else:
                try:
                    with closing(self.store.connect()) as connection:
                        restore_key_state(connection, wrappers, self._wall())
                except Exception as error:
                    # Whatever it is, the program can do without what was known yesterday.
                    self._failed.append(_problem(f"key state was not read from {self.store.path}: {error}"))
        # Other hosts hear of keys only from those that are registered.
        self._ledger = self._share(pools) if pools and (shares or self.places.redis is not None) else None

    def budgets(self, budgets: Sequence[Budget], prices: PriceList) -> Budgets | None:
        """The budgets with their ledger; None if there are none."""
        if not budgets:
            return None
        from hfs_providers.money.budgets import Budgets
        from hfs_providers.sharing.redis_budgets import ledger_of

        self._spending = ledger_of(budgets, self.log, self._wall, shared=self.places.redis is not None)
        return Budgets(budgets, prices, self._spending, self._wall)

    def known_of(self, provider: str, credentials: Sequence[Credential]) -> PoolSnapshot | None:
        """What the file knows about keys that join a provider; None if it cannot be read."""
        if self.store is None or self.store.unusable is not None:
            return None
        from hfs_providers.sharing.key_state import pool_state, rename_keys

        # They may have been used a moment ago, before they left.
        self.flush(1.0)
        try:
            with closing(self.store.connect()) as connection:
                rename_keys(connection, provider, credentials)
                return pool_state(connection, provider, credentials, self._wall())
        except Exception as error:
            _log.warning("key state was not read from %s: %s", self.store.path, error)
            return None

    def note(self, event: Event) -> None:
        """Store what an event says about keys, circuits and models. Never blocks, never raises."""
        for observe in self._observers:
            observe(event)

    def consult(self, wrappers: Mapping[str, Wrapper], models: Mapping[str, Collection[str]]) -> Problem | None:
        """Load what Redis knows about the keys into the pools, for reports.

        Args:
            models: by provider, the models whose counts are wanted; other providers are left out.

        Returns:
            Why Redis cannot be read, or None. Without Redis nothing is done.
        """
        pools = {name: pool for name, pool in _pools(wrappers).items() if name in models}
        if self.places.redis is None or not pools:
            return None
        from hfs_providers.sharing.redis_view import take_over

        return take_over(self.places.redis, pools, models, self._wall)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait up to `timeout` seconds until everything recorded is in the file. Returns whether it is."""
        return self.log is None or self.log.flush(timeout)

    def close(self) -> None:
        """Write what is left, tell the other processes that this one leaves, stop all threads. Safe to call twice."""
        for user in (self._ledger, self.log, self._spending, self._pruner, *self.forwarders):
            try:
                if user is not None:
                    user.close()
            except Exception as error:
                _log.warning("%r did not close cleanly: %s", user, error)

    def _forwarder(self, store: Store, variable: str) -> Forwarder | None:
        try:
            from hfs_providers.usage.forwarding.forwarder import Forwarder

            return Forwarder(store, self.places.targets[variable])
        except (HfsProvidersError, ImportError) as error:
            self._failed.append(_problem(f"{variable}: {error}", getattr(error, "remedy", None)))
            return None

    def _share(self, pools: Mapping[str, KeyPool]) -> FileLedger | RedisLedger | None:
        ledger: FileLedger | RedisLedger
        try:
            if self.places.redis is not None:
                from hfs_providers.sharing.redis_ledger import RedisLedger

                # What this host has used is not known if the file cannot be read.
                store = self.store if self.store is not None and self.store.unusable is None else None
                ledger = RedisLedger(
                    self.places.redis, store, wall=self._wall, budgets=self._spending, flush=self.flush
                )
                self._observers.append(ledger.observe)
            elif self.log is not None:
                from hfs_providers.sharing.file_ledger import FileLedger

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


def _pools(wrappers: Mapping[str, Wrapper]) -> dict[str, KeyPool]:
    """The pools of providers. A plugin's own wrapper may have another kind, which cannot be shared."""
    return {name: pool for name, wrapper in wrappers.items() if isinstance(pool := wrapper.pool, KeyPool)}


def _problem(message: str, remedy: str | None = None) -> Problem:
    problem = Problem(message, remedy)
    _log.warning("%s", message)
    return problem
