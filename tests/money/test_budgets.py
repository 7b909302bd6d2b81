"""Budgets of one process: what a call reserves, what it costs in the end, and what happens where nothing is left."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest

from hfs_providers.calls.call import Call
from hfs_providers.contract.usage_row import asking
from hfs_providers.errors import BudgetExceededError, KeysExhaustedError
from hfs_providers.money.budgets import Budget, Claim, ProcessBudgets
from hfs_providers.testing import RateLimited, ServerError
from tests.money.spending import EXPECTED, MODEL, Shop, question
from tests.money.spending import shop as shop

CENT = 10_000_000
DAY = 'per = "day"\n'
Make = Callable[..., Shop]


def ask(model: Any) -> Any:
    return model.response(messages=question())


class TestPeriods:
    @pytest.mark.parametrize(
        ("per", "at", "start", "end"),
        [
            ("hour", "2026-03-29T01:59:59", "2026-03-29T01:00", "2026-03-29T02:00"),
            ("day", "2026-02-28T23:59:59", "2026-02-28", "2026-03-01"),
            ("month", "2026-02-28T23:59:59", "2026-02-01", "2026-03-01"),
            ("month", "2026-12-31T00:00:00", "2026-12-01", "2027-01-01"),
        ],
    )
    def test_are_those_of_the_calendar_of_utc(self, per: Any, at: str, start: str, end: str) -> None:
        def seconds(text: str) -> float:
            return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()

        assert Budget("budgets", 1, per).period(seconds(at)) == (seconds(start), seconds(end))

    def test_each_begins_with_nothing_spent_but_what_is_in_flight(self) -> None:
        now = [86_399.0]
        ledger = ProcessBudgets(lambda: now[0])
        claim = Claim((Budget("budgets", 10, "day"),), 4)
        assert [ledger.reserve(claim) for _ in range(2)] == [None, None]
        ledger.end(claim, 10, recorded=True)
        over = ledger.reserve(claim)
        assert over is not None
        assert (over.use.spent, over.use.held, over.until) == (10, 4, 86_400.0)
        now[0] = 86_400.0
        assert ledger.reserve(claim) is None
        # The one of yesterday is still in flight.
        over = ledger.reserve(claim)
        assert over is not None
        assert (over.use.spent, over.use.held) == (0, 8)
        assert over.until < 86_401.0


class TestSpending:
    def test_ends_at_the_budget_and_says_which_and_until_when(self, shop: Make) -> None:
        here = shop(f"[budgets]\nusd = 0.05\n{DAY}")
        model = here.model()
        for _ in range(2):
            ask(model)
        with pytest.raises(BudgetExceededError) as caught:
            ask(model)
        error = caught.value
        assert (here.asked(), here.costs()) == (2, [2 * CENT, 2 * CENT])
        assert (error.budget, error.limit_usd, error.spent_usd, error.status_code) == ("budgets", 0.05, 0.04, 429)
        assert not error.verdict.sent
        assert error.free_in is not None
        assert 0 < error.free_in <= 86_400
        assert "[budgets] allows $0.050000 per day: $0.040000 spent" in str(error)
        assert (here.events[-1].kind, here.events[-1].provider) == ("budget_exceeded", "groq")
        assert str(pickle.loads(pickle.dumps(error))) == str(error)

    def test_counts_for_the_budgets_that_cover_it(self, shop: Make) -> None:
        here = shop(f"[providers.groq.budget]\nusd = 0.02\n{DAY}[clients.web.budget]\nusd = 0.003\n{DAY}")
        cheap = here.model("cerebras", "cheap")
        token = asking.set("web")
        try:
            ask(cheap)
            with pytest.raises(BudgetExceededError, match=r"clients\.web\.budget"):
                ask(cheap)
        finally:
            asking.reset(token)
        ask(cheap)
        ask(here.model())
        with pytest.raises(BudgetExceededError, match=r"providers\.groq\.budget"):
            ask(here.model())

    def test_reserves_a_long_answer_if_its_length_is_not_limited(self, shop: Make) -> None:
        here = shop(f"[budgets]\nusd = 2.05\n{DAY}")
        with pytest.raises(BudgetExceededError, match=r"\$2.058000 expected"):
            ask(here.manager.get_model("groq", MODEL, estimated_tokens=10))
        with pytest.raises(BudgetExceededError, match=r"\$3.010000 expected"):
            ask(here.model(estimated_tokens=3000))
        with pytest.raises(BudgetExceededError, match=r"\$3.010000 expected"):
            here.model().response(messages=[question()[0].model_copy(update={"content": "x" * 9002})])

    @pytest.mark.parametrize(
        "odd", [{"max_tokens": -(10**9)}, {"max_tokens": 0}, {"max_tokens": "many"}, {"max_tokens": True}, {}]
    )
    def test_takes_no_odd_limit_for_an_answer_that_costs_less(self, shop: Make, odd: dict[str, Any]) -> None:
        here = shop(f"[budgets]\nusd = 2\n{DAY}")
        body = {"messages": [{"role": "user", "content": [[{"type": "text", "text": "Hi"}]]}], **odd}
        exchange = here.manager.wrapper("groq").exchange(MODEL, estimated_tokens=10, body=body)
        with pytest.raises(BudgetExceededError, match=r"\$2\.058000 expected"):
            asyncio.run(exchange.run(lambda _: pytest.fail("it was sent")))

    def test_reserves_each_of_several_answers(self, shop: Make) -> None:
        here = shop(f"[budgets]\nusd = 0.05\n{DAY}")
        nested: Any = []
        for _ in range(5000):
            nested = [nested]
        body = {"messages": nested, "n": 5, "max_completion_tokens": 10}
        exchange = here.manager.wrapper("groq").exchange(MODEL, estimated_tokens=10, body=body)
        with pytest.raises(BudgetExceededError, match=r"\$0\.060000 expected"):
            asyncio.run(exchange.run(lambda _: pytest.fail("it was sent")))

    def test_is_as_careful_with_the_clients_of_others(self, shop: Make) -> None:
        here = shop(f"[budgets]\nusd = 0.03\n{DAY}")
        client = here.manager.wrapper("groq").get_openai_client(estimated_tokens=10)

        def complete(limit: int) -> Any:
            messages = [{"role": "user", "content": "What is left?"}]
            return client.chat.completions.create(model=MODEL, messages=messages, max_tokens=limit)

        with pytest.raises(BudgetExceededError):
            complete(2000)
        complete(10)
        with pytest.raises(BudgetExceededError):
            complete(10)
        assert here.costs() == [2 * CENT]

    def test_of_sixteen_threads_together_is_never_more_than_the_budget(self, shop: Make) -> None:
        here = shop(f"[budgets]\nusd = 0.50\n{DAY}")
        model = here.model(wait=False)

        def spend(_: int) -> None:
            for _ in range(4):
                with suppress(BudgetExceededError):
                    ask(model)

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(spend, range(16)))
        assert here.asked() == 25

    def test_without_budgets_is_not_looked_at(self, shop: Make) -> None:
        here = shop("")
        assert here.manager.budgets is None
        model: Any = here.model()
        assert type(model._begin(None, question(), {})) is Call


class TestInFlight:
    def test_a_call_waits_for_what_others_may_give_back(self, shop: Make) -> None:
        here = shop(f"[budgets]\nusd = 0.07\n{DAY}")
        model = here.model(max_tokens=30)
        wrapper = here.manager.wrapper("groq")
        slept = threading.Event()

        def sleep(seconds: float) -> None:
            slept.set()
            time.sleep(seconds)

        wrapper.backend.sleep = sleep
        with ThreadPoolExecutor(2) as threads, here.server.hold() as gate:
            first = threads.submit(ask, model)
            assert gate.wait_for(1)
            with pytest.raises(BudgetExceededError) as caught:
                ask(here.model(max_tokens=30, wait=False))
            assert caught.value.free_in is not None
            assert caught.value.free_in < 1
            assert wrapper.pool.counts(MODEL).in_flight == 1
            second = threads.submit(ask, model)
            assert slept.wait(10)
            assert not gate.wait_for(2, timeout=0.1)
        first.result(10)
        second.result(10)
        assert here.costs() == [2 * CENT, 2 * CENT]

    @pytest.mark.parametrize("step", [RateLimited(retry_after=0), ServerError()], ids=["refused", "failed"])
    def test_what_failed_costs_nothing(self, shop: Make, step: Any) -> None:
        here = shop(f"[budgets]\nusd = 0.02\n{DAY}")
        here.server.script("groq", here.env["GROQ_API_KEY_1"], [step] * 3)
        here.server.script("groq", here.env["GROQ_API_KEY_2"], [step] * 3)
        here.manager.wrapper("groq").backend.sleep = lambda _: None
        ask(here.model(max_retries=9))
        assert [*filter(None, here.costs())] == [2 * CENT]
        with pytest.raises(BudgetExceededError, match=r"\$0.000000 reserved"):
            ask(here.model())

    def test_a_stream_that_nobody_counted_keeps_its_estimate(self, shop: Make) -> None:
        here = shop(f"[budgets]\nusd = 1\n{DAY}")
        stream = here.model(max_tokens=500).response_stream(messages=question())
        next(step for step in stream if getattr(step, "content", None))
        stream.close()  # type: ignore[attr-defined]
        assert here.costs() == [51 * CENT]
        with pytest.raises(BudgetExceededError, match=r"\$0.510000 spent, \$0.000000 reserved"):
            ask(here.model(max_tokens=500))

    def test_a_call_that_is_cancelled_before_it_is_sent_gives_back_what_it_reserved(self, shop: Make) -> None:
        here = shop(f"[budgets]\nusd = 0.02\n{DAY}")
        backend = here.manager.wrapper("groq").backend
        model: Any = here.model()
        call = model._begin(None, question(), {})
        lease = call.acquire()
        with pytest.raises(BudgetExceededError):
            ask(here.model(wait=False))
        assert call.settle(lease, KeyboardInterrupt()) is None
        dropped = model._begin(None, question(), {})
        dropped.acquire()
        del dropped
        ask(model)
        assert backend.pool.counts(MODEL).in_flight == 0

    def test_tasks_do_not_block_their_loop(self, shop: Make) -> None:
        here = shop(f"[budgets]\nusd = 0.10\n{DAY}")
        model = here.model(max_tokens=30, timeout=20)

        async def run() -> list[Any]:
            calls = [model.aresponse(messages=question()) for _ in range(7)]
            return await asyncio.gather(*calls, return_exceptions=True)

        found = asyncio.run(run())
        # At four cents expected for each, 8 of the 10 cents can be spent before the next does not fit.
        assert sum(isinstance(each, BudgetExceededError) for each in found) == 3
        assert sum(filter(None, here.costs())) == 8 * CENT


class TestWithoutPrice:
    def test_a_model_is_refused_with_what_mends_it(self, shop: Make) -> None:
        here = shop(f"[budgets]\nusd = 1\n{DAY}")
        with pytest.raises(BudgetExceededError) as caught:
            ask(here.model("cerebras", "nobody-knows"))
        assert caught.value.free_in is None
        assert 'Set [prices."cerebras/nobody-knows"], or unpriced = "allow" in [budgets]' in str(caught.value)
        assert here.asked("cerebras") == 0

    def test_it_is_used_where_that_is_allowed_and_does_not_count(self, shop: Make) -> None:
        here = shop(f'[budgets]\nusd = 0.02\nunpriced = "allow"\n{DAY}')
        for _ in range(2):
            ask(here.model("cerebras", "nobody-knows"))
        ask(here.model())
        assert here.costs() == [None, None, 2 * CENT]

    def test_one_strict_budget_is_enough_to_refuse_it(self, shop: Make) -> None:
        here = shop(f'[budgets]\nusd = 1\nunpriced = "allow"\n{DAY}[providers.cerebras.budget]\nusd = 1\n{DAY}')
        with pytest.raises(BudgetExceededError, match=r"providers\.cerebras\.budget"):
            ask(here.model("cerebras", "nobody-knows"))


class TestWhatIsFree:
    def test_a_chain_falls_back_to_what_costs_less_and_then_to_what_costs_nothing(self, shop: Make) -> None:
        here = shop(f"[budgets]\nusd = 0.022\n{DAY}")
        entry = {"provider": "groq", **EXPECTED}
        less = {"provider": "cerebras", "estimated_tokens": 10, "max_completion_tokens": 10}
        chain = here.manager.get_chain(
            {**entry, "model": MODEL}, {**less, "model": "cheap"}, {**less, "model": "large:free"}
        )
        served = []
        for _ in range(3):
            ask(chain)
            assert chain.served_by is not None
            served.append(chain.served_by.model)
        assert served == [MODEL, "cheap", "large:free"]
        assert here.costs() == [2 * CENT, CENT // 5, 0]

    def test_a_free_key_is_used_when_the_others_cost_too_much(self, shop: Make) -> None:
        here = shop(f"[budgets]\nusd = 0.02\n{DAY}[providers.groq.keys.2]\nfree = true")
        model = here.model(wait=False, affinity=None)
        for _ in range(6):
            ask(model)
        assert here.costs().count(2 * CENT) == 1
        assert here.costs().count(0) == 5
        with ThreadPoolExecutor(1) as threads, here.server.hold() as gate:
            threads.submit(ask, model)
            assert gate.wait_for(1)
            with pytest.raises(BudgetExceededError):
                ask(here.model(wait=False, key_id="groq#1"))

    def test_any_model_is_one_that_the_budgets_allow(self, shop: Make) -> None:
        here = shop(f"[providers.cerebras.budget]\nusd = 0.207\n{DAY}[providers.groq.budget]\nusd = 2.07\n{DAY}")

        def chosen() -> str:
            provider, model = here.manager.get_any_model(model_id="cheap", estimated_tokens=10, wait=False)
            ask(model)
            return provider

        assert [chosen(), chosen()] == ["cerebras", "groq"]
        with pytest.raises(KeysExhaustedError) as caught:
            chosen()
        assert "[providers.cerebras.budget] allows $0.207000 per day" in str(caught.value)
        assert "[providers.groq.budget] allows $2.070000 per day" in str(caught.value)
        assert (here.asked("cerebras"), here.asked("groq")) == (1, 1)

    def test_where_only_paid_keys_are_left_it_is_the_budget_that_is_named(self, shop: Make) -> None:
        here = shop(f"[budgets]\nusd = 0.02\n{DAY}[providers.groq.keys.2]\nfree = true")
        here.manager.wrapper("groq").pool.retire("groq#2", "leaked")
        ask(here.model())
        with pytest.raises(BudgetExceededError):
            ask(here.model(wait=False))
