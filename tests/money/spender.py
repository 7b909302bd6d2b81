"""Processes that spend until their budget refuses: `python spender.py URL PATH...`, one for each usage file.

They share the budget through the Redis server at `URL`, or if that is empty through the files. Each claim is estimated
at `ESTIMATE`; what it costs is up to twice as much. Prints what each has spent.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from types import SimpleNamespace

from hfs_providers.contract.usage_row import UsageRow
from hfs_providers.money.budgets import Budget, BudgetLedger, Claim
from hfs_providers.sharing.redis_budgets import ledger_of
from hfs_providers.sharing.redis_ledger import RedisLedger
from hfs_providers.usage.database import Store
from hfs_providers.usage.log import UsageLog

ESTIMATE = 1_000_000
BUDGET = Budget("budgets", 400 * ESTIMATE, "month")
CLAIM = Claim((BUDGET,), ESTIMATE)
KEY = SimpleNamespace(id="acme#1", fingerprint="0123abcd")


def spent_row(cost: int, client: str = "") -> UsageRow:
    """Of a request that ends now."""
    return UsageRow.of("acme", "large", KEY, "ok")._replace(cost_nanousd=cost, client=client)


def spend(ledger: BudgetLedger, log: UsageLog, seed: int, begin: Barrier, timeout: float = 60.0) -> int:
    """Reserve and spend until nothing is left, from the second time on once all have spent; returns what was spent."""
    chosen, total, deadline = random.Random(seed), 0, time.monotonic() + timeout
    while time.monotonic() < deadline:
        over = ledger.reserve(CLAIM)
        if over is None:
            cost = chosen.randrange(ESTIMATE // 2, 2 * ESTIMATE)
            total += cost
            log.record(spent_row(cost))
            ledger.end(CLAIM, cost, recorded=True)
            if total == cost:
                begin.wait()
        elif over.until > time.time() + 1 and over.use.limit == BUDGET.nanousd:
            return total
        else:
            # Others may give some back, or the server may return.
            time.sleep(0.002)
    raise TimeoutError("the budget was never spent")


def run(path: str, url: str | None, seed: int, begin: Barrier, spent: SimpleQueue[int]) -> None:
    log = UsageLog(Store(path))
    ledger = ledger_of([BUDGET], log, time.time, shared=url is not None)
    link = RedisLedger(url, log.store, budgets=ledger) if url is not None else None
    if link is not None:
        link.start({})
    begin.wait()
    spent.put(spend(ledger, log, seed, begin))
    begin.wait()
    if link is not None:
        link.close()
    log.close()


def main(url: str | None, *paths: str) -> list[int]:
    """What processes have spent that began at the same time, one for each path."""
    if url is not None:
        import redis  # noqa: F401  once, and not in each process
    context = multiprocessing.get_context("fork")
    begin, spent = context.Barrier(len(paths)), context.SimpleQueue()
    about = [(path, url, seed, begin, spent) for seed, path in enumerate(paths)]
    processes = [context.Process(target=run, args=args) for args in about]
    for each in processes:
        each.start()
    found = [spent.get() for _ in processes]
    for each in processes:
        each.join()
    return found


if __name__ == "__main__":
    print(*main(sys.argv[1] or None, *sys.argv[2:]))
