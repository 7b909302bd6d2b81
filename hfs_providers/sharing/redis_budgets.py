"""The budgets that several hosts share through Redis.

The server knows what each host has spent and what each process has reserved. What this host has spent is also in its
local ledger, which is used alone while the server is away: then a host may spend its part of what was left.

    invariant: the server counts a cost when the request ends. A host reports all that it has spent when it joins, and
               after counts were lost: what was spent while the server was away is counted then, and nothing twice.
"""

from __future__ import annotations

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import quote

from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.money.budgets import Budget, BudgetLedger, Claim, OverBudget, ProcessBudgets, Use, over_budget
from hfs_providers.sharing.file_budgets import FileBudgets
from hfs_providers.sharing.redis_connection import RedisConnection, ScriptCall
from hfs_providers.sharing.redis_messages import Paid, Spend
from hfs_providers.usage.log import UsageLog

_TAG = "hfs:{budgets}"


class HostBudgets(BudgetLedger, Protocol):
    """The account of one host."""

    def count(self, claim: Claim, cost: int | None, recorded: bool) -> None:
        """Count what a request cost that the server granted; the arguments are those of `end`."""

    def spent(self, budget: Budget) -> int:
        """What this host has spent in the current period, in nano-USD. May block for the time of a transaction."""

    def allot(self, budget: Budget, part: int, hosts: int) -> None:
        """Note what this host may have spent in all at the end of the period if it loses touch with the others.

        Args:
            budget: in its current period.
            part: nano-USD.
            hosts: how many there are; if nothing else is known of a period, each has an equal part.
        """


class RedisBudgets:
    """The `BudgetLedger` of processes that use the same Redis server.

    Its methods for callers may be called in any thread; `publish` and `serve` are for the one that speaks with the
    server.

    Args:
        local: the account of this host.
        host: a name that all processes of the host have in common; None if this process is alone.
    """

    blocks = True

    def __init__(
        self, budgets: Sequence[Budget], local: HostBudgets, host: str | None, wall: Callable[[], float]
    ) -> None:
        self._budgets = tuple(budgets)
        self._local = local
        self._given_host = host
        self._wall = wall
        self.ask: Callable[[Spend], object] = lambda _: None
        """Asks the server, if it is there."""
        self.tell: Callable[[Paid], object] = Paid.dismiss
        """Tells the server, if it is there."""
        self._begin()
        at_fork(ForkPhase.LEDGERS, child=self._begin)

    def _begin(self) -> None:
        self._holder = uuid.uuid4().hex
        self._host = self._given_host or self._holder
        # Reentrant: a call that is collected ends at any moment.
        self._lock = threading.RLock()
        # What is in flight: in all, until the server knows of its end; and those that the host granted alone.
        self._held: Counter[Budget] = Counter()
        self._alone: Counter[Claim] = Counter()

    # For callers.

    def reserve(self, claim: Claim) -> OverBudget | None:
        """See `BudgetLedger.reserve`."""
        spend = Spend(claim)
        try:
            self.ask(spend)
        except BaseException:
            if spend.withdraw() is True:
                self.end(claim, None, recorded=True)
            raise
        if spend.answer is not None:
            return None if isinstance(spend.answer, bool) else spend.answer
        over = self._local.reserve(claim)
        if over is None:
            with self._lock:
                self._alone[claim] += 1
            self._hold(claim, 1)
        return over

    def end(self, claim: Claim, cost: int | None, recorded: bool) -> None:
        """See `BudgetLedger.end`."""
        with self._lock:
            alone = self._alone[claim] > 0
            if alone:
                self._alone -= Counter((claim,))
        (self._local.end if alone else self._local.count)(claim, cost, recorded)
        self.tell(self._paid(claim, cost or 0))

    def _paid(self, claim: Claim, cost: int) -> Paid:
        return Paid(claim, cost, lambda ended: self._hold(ended, -1))

    def _hold(self, claim: Claim, sign: int) -> None:
        with self._lock:
            for budget in claim.budgets:
                # In a child, calls of the parent's end that it never counted.
                self._held[budget] = max(0, self._held[budget] + sign * (claim.nanousd or 0))

    def close(self) -> None:
        """See `BudgetLedger.close`."""
        self._local.close()

    # For the thread that speaks with the server.

    def publish(self, server: RedisConnection, generation: str, *, joining: bool) -> None:
        """Report what this process has reserved and that it is alive, and learn the host's part. `joining`: the server
        may not know what the host has spent.
        """
        told: list[str | int] = []
        for budget in self._budgets:
            told += [self._local.spent(budget) if joining else 0, self._held[budget]]
        everything = Claim(self._budgets, 0)
        identity = generation, self._host, self._holder
        calls = [
            ScriptCall("spent", self._keys(everything), [*identity, *told]),
            self._spend_call(generation, everything),
        ]
        word, hosts, *amounts = server.run(calls)[1]
        if word != "new":
            for budget, (spent, own, held) in zip(self._budgets, _in_threes(amounts), strict=True):
                part = own + max(0, budget.nanousd - spent - held) // max(1, int(hosts))
                self._local.allot(budget, part, int(hosts))

    def serve(self, server: RedisConnection, work: Sequence[object], generation: str, *, settled: bool) -> bool:
        """Send all messages about budgets. Returns False if the server has lost counts. Until all hosts have reported
        what they have spent (`settled`), each continues alone.
        """
        paid = [each for each in work if isinstance(each, Paid)]
        spends = [each for each in work if isinstance(each, Spend) and not each.ticket.locked()]
        if not settled:
            for spend in spends:
                spend.dismiss()
            spends = []
        identity = generation, self._host, self._holder
        calls = [ScriptCall("paid", self._keys(e.claim), [*identity, e.claim.nanousd or 0, e.cost]) for e in paid]
        answers = server.run([*calls, *(self._spend_call(generation, each.claim) for each in spends)])
        for each in paid:
            each.dismiss()
        for spend, (word, *amounts) in zip(spends, answers[len(paid) :], strict=True):
            self._answer(spend, word, amounts[1:])
        return not any(answer in ("new", ["new"]) for answer in answers)

    def _answer(self, spend: Spend, word: str, amounts: Sequence[Any]) -> None:
        claim = spend.claim
        if word == "new":
            spend.dismiss()
        elif word == "yes":
            self._hold(claim, 1)
            if not spend.settle(True):
                self.tell(self._paid(claim, 0))
        else:
            used = zip(claim.budgets, _in_threes(amounts), strict=True)
            uses = [Use(spent, held, budget.nanousd) for budget, (spent, _, held) in used]
            spend.settle(over_budget(claim, uses, self._wall()))

    def _spend_call(self, generation: str, claim: Claim) -> ScriptCall:
        limits = [budget.nanousd for budget in claim.budgets]
        return ScriptCall(
            "spend", self._keys(claim), [generation, self._host, self._holder, claim.nanousd or 0, *limits]
        )

    def _keys(self, claim: Claim) -> list[str]:
        keys, wall = [f"{_TAG}:hosts"], self._wall()
        for budget in claim.budgets:
            name = quote(budget.name, safe="")
            keys += [f"{_TAG}:spent:{name}:{budget.period(wall).start}", f"{_TAG}:held:{name}"]
        return keys


def ledger_of(
    budgets: Sequence[Budget], log: UsageLog | None, wall: Callable[[], float], *, shared: bool
) -> BudgetLedger:
    """The ledger of budgets: of this process, of those that share the usage file of `log`, or of those that share a
    server.
    """
    local: HostBudgets = ProcessBudgets(wall) if log is None else FileBudgets(log, wall, alone=shared)
    return RedisBudgets(budgets, local, log.store.source if log is not None else None, wall) if shared else local


def _in_threes(amounts: Sequence[Any]) -> list[tuple[int, int, int]]:
    """What was spent by all, what by this host, what is held; for each budget."""
    numbers = [int(amount) for amount in amounts]
    return list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
