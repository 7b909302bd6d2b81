"""The budgets of all processes that use the same local file.

The amounts spent are in the rows. The file adds up the current period of each budget as rows are written, so a report
shows the same, and a new process knows what others spent before. The file also has what each process has reserved for
calls in flight.

    invariant: what a request that was granted may cost, or did cost, is reserved until its row is in the file. What a
               process has reserved is true in the file whenever the process reserves more.
"""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from hfs_providers.contract.errors import StoreError
from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.contract.instants import HOUR
from hfs_providers.money.budgets import Budget, Claim, OverBudget, Span, Use, over_budget
from hfs_providers.sharing import presence
from hfs_providers.sharing.presence import Process
from hfs_providers.usage.connection import StoreConnection
from hfs_providers.usage.log import UsageLog
from hfs_providers.usage.transaction import transaction

# Seconds for which a reservation waits for the file. Longer than for the limits of a key: this is about money.
_PATIENCE = 2.0

# Seconds for which the file is not used after an error.
_PAUSE = 1.0

# Seconds after which what a process of another place has reserved is taken to be spent, if it gave no sign of life.
_LOST = HOUR

# Seconds to wait for rows to be in the file before reading what this host has spent.
_FLUSHED = 0.1

_BROKEN = (OSError, sqlite3.Error, StoreError)

_CREATE = """
    INSERT INTO budget (name, start, ends, provider, client, spent, hosts)
    SELECT :name, :start, :ends, :provider, :client, coalesce(sum(cost_nanousd), 0),
        coalesce((SELECT max(hosts) FROM budget WHERE name = :name), 1)
    FROM (
        SELECT provider, client, cost_nanousd FROM total
        WHERE start >= :start AND start < min(:ends, (SELECT upto FROM totalled))
        UNION ALL
        SELECT provider, client, quarter.cost_nanousd FROM quarter JOIN series ON series.id = quarter.series
        WHERE start >= max(:start, (SELECT upto FROM totalled)) AND start < :ends
    )
    WHERE :provider IN ('', provider) AND :client IN ('', client)
"""
_LOOK = "SELECT spent, hosts, part FROM budget WHERE (name, start, ends) = (?, ?, ?)"
_ADD = "UPDATE budget SET spent = spent + ? WHERE (name, start, ends) = (?, ?, ?)"
_ALLOT = "UPDATE budget SET part = ?, hosts = ? WHERE (name, start, ends) = (?, ?, ?)"
_HOLD = """
    INSERT INTO budget_held (name, holder, pid, born, place, seen, nanousd) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (name, holder) DO UPDATE SET nanousd = excluded.nanousd, seen = excluded.seen
"""
_DROP = "DELETE FROM budget_held WHERE (name, holder) = (?, ?)"


class _Ended:
    """A request that has ended, until its row is in the file."""

    __slots__ = ("budgets", "cost", "settled")

    def __init__(self, budgets: Sequence[Budget], cost: int) -> None:
        self.budgets = budgets
        self.cost = cost
        self.settled = False


class FileBudgets:
    """The `BudgetLedger` of processes that use the same local file.

    While the file cannot be used, the process continues with what it knows.

    Args:
        alone: whether other hosts share the budgets, but cannot be reached when this ledger is asked.
    """

    blocks = True

    def __init__(self, log: UsageLog, wall: Callable[[], float] = time.time, *, alone: bool = False) -> None:
        self._log = log
        self._wall = wall
        self._is_alone = alone
        self._connection = StoreConnection(log.store, durable=False, patience=0.0)
        self._begin()
        at_fork(ForkPhase.LEDGERS, child=self._begin)

    def _begin(self) -> None:
        self._holder = uuid.uuid4().hex
        self._process = presence.this()
        # Reentrant: a call that is collected ends at any moment.
        self._lock = threading.RLock()
        # What this process holds: the estimates of calls in flight, and the cost of those whose rows are not written.
        self._held: Counter[Budget] = Counter()
        self._unsettled = 0
        # By the last read of the file: the period, what all others used of it, and the limit.
        self._known: dict[Budget, tuple[Span, int, int]] = {}
        self._allotted: dict[Budget, tuple[int, int]] = {}
        self._paused_until = 0.0

    def reserve(self, claim: Claim) -> OverBudget | None:
        """See `BudgetLedger.reserve`."""
        if time.monotonic() >= self._paused_until:
            held = False
            try:
                with self._connection.use(_PATIENCE) as connection, transaction(connection, _PATIENCE):
                    over = self._over(connection, claim)
                    if over is None:
                        self._hold(claim.budgets, claim.nanousd or 0)
                        held = True
                        self._tell(connection, claim.budgets)
                return over
            except BaseException as error:
                if held:
                    self._hold(claim.budgets, -(claim.nanousd or 0))
                if not isinstance(error, _BROKEN):
                    raise
                # The usage log, which writes to the file, says what is wrong with it.
                self._paused_until = time.monotonic() + _PAUSE
        return self._reserve_alone(claim)

    def end(self, claim: Claim, cost: int | None, recorded: bool) -> None:
        """See `BudgetLedger.end`."""
        ended = _Ended(claim.budgets, cost or 0)
        with self._lock:
            self._unsettled += 1
            self._hold(claim.budgets, ended.cost - (claim.nanousd or 0))
        self._log.defer(partial(self._settle, ended, recorded))

    # For `RedisBudgets`.

    def count(self, claim: Claim, cost: int | None, recorded: bool) -> None:
        """See `HostBudgets.count`."""
        if not recorded:
            self._log.defer(partial(self._add, claim.budgets, cost or 0))

    def spent(self, budget: Budget) -> int:
        """See `HostBudgets.spent`."""
        self._log.flush(_FLUSHED)
        try:
            with self._connection.use(_PATIENCE) as connection, transaction(connection, _PATIENCE):
                return self._row(connection, budget)[0]
        except _BROKEN:
            period, known, _ = self._known.get(budget, (None, 0, 0))
            return known if period == budget.period(self._wall()) else 0

    def allot(self, budget: Budget, part: int, hosts: int) -> None:
        """See `HostBudgets.allot`."""
        if self._allotted.get(budget) != (part, hosts):
            self._allotted[budget] = (part, hosts)
            self._log.defer(partial(self._allot, budget, part, hosts))

    def _allot(self, budget: Budget, part: int, hosts: int, connection: sqlite3.Connection) -> None:
        self._row(connection, budget)
        connection.execute(_ALLOT, (part, hosts, budget.name, *budget.period(self._wall())))

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self._connection.close()

    def _hold(self, budgets: Sequence[Budget], nanousd: int) -> None:
        with self._lock:
            for budget in budgets:
                # In a child, calls of the parent end that it never counted.
                self._held[budget] = max(0, self._held[budget] + nanousd)

    def _over(self, connection: sqlite3.Connection, claim: Claim) -> OverBudget | None:
        """Why the claim is refused, if it is."""
        wall = self._wall()
        over = over_budget(claim, [self._use(connection, each) for each in claim.budgets], wall)
        if over is not None and self._bury(connection, claim.budgets, wall):
            over = over_budget(claim, [self._use(connection, each) for each in claim.budgets], wall)
        return over

    def _reserve_alone(self, claim: Claim) -> OverBudget | None:
        wall = self._wall()
        uses = []
        with self._lock:
            for budget in claim.budgets:
                period, known, limit = self._known.get(budget, (None, 0, budget.nanousd))
                known = known if period == budget.period(wall) else 0
                uses.append(Use(known, self._held[budget], limit))
            over = over_budget(claim, uses, wall)
            if over is None:
                self._hold(claim.budgets, claim.nanousd or 0)
        return over

    def _use(self, connection: sqlite3.Connection, budget: Budget) -> Use:
        (others,) = connection.execute(
            "SELECT coalesce(sum(nanousd), 0) FROM budget_held WHERE name = ? AND holder <> ?",
            (budget.name, self._holder),
        ).fetchone()
        spent, hosts, part = self._row(connection, budget)
        limit = budget.nanousd
        if self._is_alone:
            limit = min(limit, limit // hosts if part is None else part)
        self._known[budget] = (budget.period(self._wall()), spent + others, limit)
        return Use(spent, others + self._held[budget], limit)

    def _row(self, connection: sqlite3.Connection, budget: Budget) -> tuple[int, int, int | None]:
        """What was spent in the current period, the number of hosts, and the part of this one."""
        start, ends = period = budget.period(self._wall())
        row = connection.execute(_LOOK, (budget.name, *period)).fetchone()
        if row is None:
            about = {"name": budget.name, "start": start, "ends": ends}
            connection.execute(_CREATE, {**about, "provider": budget.provider, "client": budget.client})
            connection.execute("DELETE FROM budget WHERE name = :name AND (start, ends) <> (:start, :ends)", about)
            row = connection.execute(_LOOK, (budget.name, *period)).fetchone()
        found: tuple[int, int, int | None] = row
        return found

    def _tell(self, connection: sqlite3.Connection, budgets: Sequence[Budget]) -> None:
        """Write to the file what this process has reserved."""
        wall = self._wall()
        for budget in budgets:
            held = self._held[budget]
            if held > 0:
                connection.execute(_HOLD, (budget.name, self._holder, *self._process, wall, held))
            else:
                connection.execute(_DROP, (budget.name, self._holder))

    def _settle(self, ended: _Ended, recorded: bool, connection: sqlite3.Connection) -> None:
        """End the reservation of a request whose row is in the file now. A cost without a row is added to what is
        spent."""
        with self._lock:
            if not ended.settled:
                ended.settled = True
                self._unsettled -= 1
                self._hold(ended.budgets, -ended.cost)
        if not self._unsettled:
            # The last of many writes it for all.
            self._tell(connection, list(self._held))
        if not recorded:
            self._add(ended.budgets, ended.cost, connection)

    def _add(self, budgets: Sequence[Budget], nanousd: int, connection: sqlite3.Connection) -> None:
        for budget in budgets:
            self._row(connection, budget)
            connection.execute(_ADD, (nanousd, budget.name, *budget.period(self._wall())))

    def _bury(self, connection: sqlite3.Connection, budgets: Sequence[Budget], wall: float) -> bool:
        """Count as spent what dead processes had reserved, because their calls may have been sent. Returns whether
        there was any."""
        buried = False
        for budget in budgets:
            for holder, nanousd, seen, *process in connection.execute(
                "SELECT holder, nanousd, seen, pid, born, place FROM budget_held WHERE name = ?", (budget.name,)
            ).fetchall():
                if holder != self._holder and self._lost(Process(*process), seen, wall):
                    connection.execute(_DROP, (budget.name, holder))
                    self._add([budget], nanousd, connection)
                    buried = True
        return buried

    def _lost(self, process: Process, seen: float, wall: float) -> bool:
        if process.place != self._process.place:
            return abs(wall - seen) > _LOST
        return not presence.alive(process, wall, wall)
