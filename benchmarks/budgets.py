"""What is spent of a budget when many calls of several processes run at once, and what a reservation costs."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.bench import MODELS, environment, question, simulated
from benchmarks.figures import Measured
from benchmarks.rivals import RivalError, RivalProcess
from benchmarks.timing import Effort, per_call

PROCESSES, TASKS = 2, 16
USD = 0.02
# The tokens of each answer and its cost in dollars; then the cost of a million tokens in and out.
TOKENS_IN, TOKENS_OUT, PRICE = 1000, 500, 0.00145
_MILLION_IN, _MILLION_OUT = 0.85, 1.20
_PROVIDER = "cerebras"
_DELAY = 0.05


def budgets(effort: Effort) -> list[Measured]:
    """Spend a budget with all calls at once; the server counts what they cost."""
    with simulated() as server:
        ours = _spent(server, lambda keys: _spend_ours(environment(server, {**_others(server), _PROVIDER: keys})))
        # Without Redis each of its processes has a budget of its own.
        theirs = {"LiteLLM": _their_share(server, PROCESSES), "LiteLLM in one process": _their_share(server, 1)}
    note = f"{PROCESSES} processes with {TASKS} calls at once, ${USD:g}; each call costs ${PRICE:g}"
    return [
        Measured("budget.spent", ours, note=note, alternatives=theirs),
        Measured("budget.reserve", _reservation(effort) * 1e6),
    ]


def _others(server: Any) -> dict[str, list[str]]:
    return {name: [server.new_key(name)] for name in MODELS if name != _PROVIDER}


def _spent(server: Any, spend: Any) -> float:
    """What was spent, as a share of the budget, by the server's own count."""
    from hfs_providers.testing import Ok

    keys = [server.new_key(_PROVIDER) for _ in range(4)]
    for key in keys:
        server.script(_PROVIDER, key, [], then=Ok(usage=(TOKENS_IN, TOKENS_OUT), delay=_DELAY))
    spend(keys)
    hits = server.hits(_PROVIDER)
    spent = sum(hits.get(key, 0) for key in keys) * PRICE / USD
    if not spent:
        raise RuntimeError("nobody was asked")
    return spent


def _spend_ours(env: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "hfs-providers.toml"
        price = f'[prices."{_PROVIDER}/*"]\ninput = {_MILLION_IN}\noutput = {_MILLION_OUT}\n'
        config.write_text(f'[budgets]\nusd = {USD}\nper = "month"\n{price}')
        env |= {"HFS_CONFIG": str(config), "HFS_USAGE_DB": str(Path(directory) / "usage.db")}
        context = multiprocessing.get_context("spawn")
        begin = context.Barrier(PROCESSES)
        processes = [context.Process(target=_spend, args=(env, begin)) for _ in range(PROCESSES)]
        for each in processes:
            each.start()
        for each in processes:
            each.join()


def _spend(env: dict[str, str], begin: Any) -> None:
    from hfs_providers import ProviderManager
    from hfs_providers.errors import BudgetExceededError

    async def calls(model: Any) -> None:
        while True:
            try:
                await model.aresponse(messages=question())
            except BudgetExceededError:
                return

    async def all_calls(model: Any) -> None:
        await asyncio.gather(*(calls(model) for _ in range(TASKS)))

    with ProviderManager(env=env) as manager:
        options = {"estimated_tokens": TOKENS_IN, "max_completion_tokens": TOKENS_OUT}
        model = manager.get_model(_PROVIDER, MODELS[_PROVIDER], **options)
        begin.wait()
        asyncio.run(all_calls(model))


def _their_share(server: Any, processes: int) -> float | str:
    try:
        return _spent(server, lambda keys: _spend_theirs(server, keys, processes))
    except RivalError as error:
        return str(error)


def _spend_theirs(server: Any, keys: list[str], processes: int) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(processes) as threads:
        rivals = [stack.enter_context(RivalProcess("LiteLLM")) for _ in range(processes)]
        # All are imported before any of them begins.
        for rival in rivals:
            rival.ask("prepare", _PROVIDER, server.base_url(_PROVIDER), keys)
        list(threads.map(lambda rival: rival.ask("spend", _PROVIDER, USD, TASKS), rivals))


def _reservation(effort: Effort) -> float:
    """Seconds that a budget adds to a call, over the usage file."""
    from hfs_providers.contract.usage_row import UsageRow
    from hfs_providers.money.budgets import Budget, Claim
    from hfs_providers.sharing.file_budgets import FileBudgets
    from hfs_providers.usage import Store
    from hfs_providers.usage.log import UsageLog

    with tempfile.TemporaryDirectory() as directory:
        log = UsageLog(Store(os.path.join(directory, "usage.db")))
        ledger = FileBudgets(log)
        every, own = (
            Budget(name, 10**15, "month", provider=provider) for name, provider in (("a", ""), ("b", _PROVIDER))
        )
        claim = Claim((every, own), 1000)
        key = SimpleNamespace(id="cerebras#1", fingerprint="0123456789abcdef")

        def call() -> None:
            ledger.reserve(claim)
            log.record(UsageRow.of(_PROVIDER, MODELS[_PROVIDER], key, "ok")._replace(cost_nanousd=900))
            ledger.end(claim, 900, recorded=True)

        try:
            return per_call(call, calls=effort.count(500, 100), repeats=effort.count(9, 3))
        finally:
            log.close()
            ledger.close()
