"""Correctness under fire: many calls at once over four failing providers, and the books have to balance.

python -m tests.fire.fire --calls 100000
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import logging
import random
import re
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agno.exceptions import ModelProviderError
from agno.models.message import Message

from hfs_providers import Event, ProviderManager
from hfs_providers.keys import fingerprint
from tests.fire.faults import FireServer, every_label, fire_server
from tests.fire.ledger import Call, Ledger, settle
from tests.fire.watch import WatchedPool

PROVIDERS = ("cerebras", "groq", "gemini", "openrouter")
DROPPED = 0.1
"""Share of the streams that are left after a few deltas."""

CANCELLED = 0.05
"""Share of the async calls that are cancelled."""

# Never spent: what is tried is that the account of it is right.
_MONEY = '[budgets]\nusd = 1_000_000\nper = "month"\n[prices."*"]\ninput = 1\noutput = 2\n'

_current: ContextVar[Call | None] = ContextVar("fire_call", default=None)


@dataclass(frozen=True)
class Plan:
    """How much fire.

    Args:
        calls: of all kinds together.
        seed: of every draw.
        threads: for sync calls and streams.
        tasks: for async calls and streams.
        keys: of each provider; one of them is dead from the start.
        request_timeout: seconds, for each request.
        deadline: seconds after which whatever still runs hangs.
        progress: told of the number of calls begun, now and then.
    """

    calls: int = 2_000
    seed: int = 1
    threads: int = 16
    tasks: int = 500
    keys: int = 8
    request_timeout: float = 2.0
    deadline: float = 120.0
    progress: Callable[[int], object] | None = None


@dataclass
class Report:
    """What came of it."""

    plan: Plan
    calls: list[Call]
    seconds: float = 0.0
    ledger: Ledger = field(default_factory=Ledger)
    wrong: list[str] = field(default_factory=list)
    """Endings, answers, leases and texts that are not as they should be."""

    steps: Counter[str] = field(default_factory=Counter)
    """What the server did, by kind."""

    hits: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By provider and key fingerprint: requests that the server counted."""

    answered: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By provider, key and model: requests that the server counted as answered."""

    held: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By provider: calls in flight and tokens reserved at the end."""

    reserved: int = -1
    spent: int = -1
    """What the budget says, in nano-USD: reserved at the end, and spent."""

    leases: int = 0
    leases_open: int = 0
    leases_told: int = 0
    """Leases granted while another key of the pool was cooling or dead."""

    @property
    def endings(self) -> Counter[str]:
        return Counter(call.ending or "none" for call in self.calls)

    @property
    def rows(self) -> Counter[str]:
        """What was written down, by outcome."""
        return Counter(row.outcome for call in self.calls for row in call.rows)

    @property
    def sent(self) -> Counter[tuple[str, str]]:
        """By provider and key fingerprint: the rows of requests that arrived at the server."""
        rows = Counter((row.provider, row.fingerprint) for call in self.calls for row in call.rows)
        return rows - self.ledger.never_arrived

    @property
    def explained(self) -> Counter[tuple[str, str, str]]:
        """By provider, key and model: answers that the books know of."""
        return self.ledger.answered + self.ledger.left + self.ledger.late

    @property
    def costs(self) -> int:
        """What was written down that requests cost, in nano-USD."""
        return sum(row.cost_nanousd or 0 for call in self.calls for row in call.rows)

    @property
    def good(self) -> bool:
        """Whether everything holds."""
        nothing_held = set(self.held.values()) == {(0, 0)} and not self.leases_open and not self.reserved
        return (
            nothing_held
            and not (self.wrong or self.ledger.wrong)
            and self.answered == self.explained
            and self.hits == self.sent
            and self.spent == self.costs
        )

    def unmet(self) -> list[str]:
        """What the server should have done at least once, and did not."""
        return [label for label in every_label() if not self.steps[label]]

    def __str__(self) -> str:
        ledger = self.ledger
        lines = [
            f"{len(self.calls)} calls in {self.seconds:.1f} s ({len(self.calls) / max(self.seconds, 1e-9):.0f}/s), "
            f"{self.plan.threads} threads and {self.plan.tasks} tasks, seed {self.plan.seed}",
            f"  endings: {_counts(self.endings)}",
            f"  requests at the server: {self.hits.total()} ({_counts(self.steps)})",
            f"  rows: {self.rows.total()} ({_counts(self.rows)})",
            f"  answered by the server: {self.answered.total()} = {ledger.answered.total()} rows"
            f" + {ledger.left.total()} whose caller left + {ledger.late.total()} after the timeout",
            f"  rows of requests that never arrived: {ledger.never_arrived.total()}; "
            f"given up without a cause: {ledger.given_up}",
            f"  leases: {self.leases}, of them {self.leases_told} beside a cooling or dead key; "
            f"open at the end: {self.leases_open}; held at the end: {self.held}",
            f"  spent: {self.spent} nano-USD, written down: {self.costs}, reserved at the end: {self.reserved}",
            f"  wrong: {len(self.wrong) + len(ledger.wrong)}",
            *(f"    {count} like: {line}" for line, count in _kinds(self.wrong + ledger.wrong)),
        ]
        return "\n".join(lines)


class Fire:
    """One run.

    Args:
        plan: how much of it.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.report = Report(plan, [])
        # Each side has its own share: otherwise the faster would do the slower one's work. Among busy threads the event
        # loop is the slower one.
        self._sync_numbers = (number for number in range(plan.calls) if number % 3)
        self._async_numbers = (number for number in range(plan.calls) if not number % 3)
        self._drawing = threading.Lock()
        self._secrets = re.compile("(?!)")
        self._models: dict[str, Any] = {}
        self._pools: dict[str, WatchedPool] = {}

    def run(self) -> Report:
        """Light it; returns when every call has ended and the books are compared."""
        faulthandler.dump_traceback_later(self.plan.deadline, file=sys.__stderr__)
        # Else the event loop, which lets go of the interpreter often, gets no turn among busy threads.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(0.0005)
        try:
            with fire_server(self.plan.seed) as server, tempfile.TemporaryDirectory() as directory:
                server.light()
                config = Path(directory) / "hfs-providers.toml"
                config.write_text(_MONEY)
                env = self._environment(server) | {"HFS_CONFIG": str(config)}
                with self._quiet(), ProviderManager(env=env) as manager:
                    self._prepare(manager)
                    self._burn()
                    self._count_money(manager)
                # Stopped before it is read: what it did not do by now it never did.
                server.stop()
                self._balance(server)
        finally:
            sys.setswitchinterval(interval)
            faulthandler.cancel_dump_traceback_later()
        return self.report

    def _environment(self, server: FireServer) -> dict[str, str]:
        env = server.env(dict.fromkeys(PROVIDERS, self.plan.keys))
        keys = [value for name, value in env.items() if "_API_KEY_" in name]
        self._secrets = re.compile("|".join(part for key in keys for part in (re.escape(key[:16]), key[-8:])))
        for name in PROVIDERS:
            server.bury(name, env[f"{name.upper()}_API_KEY_{self.plan.keys}"])
        return {**env, **{f"{name.upper()}_LIMITS": "none" for name in PROVIDERS}, "HFS_USAGE_DB": "off"}

    def _prepare(self, manager: ProviderManager) -> None:
        manager.observe(_write_down)
        for name in PROVIDERS:
            backend: Any = manager.wrapper(name).backend
            backend.pool = self._pools[name] = WatchedPool(backend.pool)
            backend.sleep, backend.async_sleep = _short_sleep, _short_asleep
            # A named one, so that an id that is gone is an error and not replaced.
            self._models[name] = manager.get_model(
                name,
                manager.default_model(name),
                timeout=1.0,
                max_retries=2,
                request_timeout=self.plan.request_timeout,
            )

    def _count_money(self, manager: ProviderManager) -> None:
        ledger: Any = manager.budgets and manager.budgets._ledger
        self.report.reserved = sum(ledger._held.values())
        ((_, self.report.spent),) = ledger._spent.values()

    def _burn(self) -> None:
        began = time.monotonic()
        over = threading.Event()
        janitor = threading.Thread(target=self._tidy, args=(over,), name="fire-janitor", daemon=True)
        janitor.start()
        threads = [
            threading.Thread(target=self._sync_worker, name=f"fire-{number}", daemon=True)
            for number in range(self.plan.threads)
        ]
        threads.append(threading.Thread(target=asyncio.run, args=(self._async_side(),), name="fire-loop", daemon=True))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.1, began + self.plan.deadline - time.monotonic()))
        over.set()
        janitor.join(5)
        self.report.seconds = time.monotonic() - began
        hanging = [thread.name for thread in threads if thread.is_alive()]
        if hanging:
            self.report.wrong.append(f"{', '.join(hanging)} had not ended after {self.plan.deadline} s")

    def _tidy(self, over: threading.Event) -> None:
        """An operator who puts keys with a long cooldown back, so that the run does not run out of keys."""
        while not over.wait(0.05):
            for pool in self._pools.values():
                for status in pool.statuses():
                    if status.state == "cooling" and (status.free_in is None or status.free_in > 2):
                        pool.revive(status.id)

    # Calls

    def _next(self, numbers: Iterator[int]) -> tuple[Call, random.Random] | None:
        with self._drawing:
            number = next(numbers, None)
        if number is None:
            return None
        call = Call(f"call-{number}", PROVIDERS[number // 3 % len(PROVIDERS)])
        self.report.calls.append(call)
        begun = len(self.report.calls)
        if self.plan.progress is not None and begun % 1_000 == 0:
            self.plan.progress(begun)
        return call, random.Random(f"{self.plan.seed}/{number}")

    def _sync_worker(self) -> None:
        while (found := self._next(self._sync_numbers)) is not None:
            call, draw = found
            _current.set(call)
            model, messages = self._models[call.provider], [Message(role="user", content=call.prompt)]
            try:
                if draw.random() < 0.5:
                    self._judge_answer(call, model.response(messages=messages).content)
                else:
                    self._read(call, draw, model.response_stream(messages=messages))
            except BaseException as error:
                self._judge_error(call, error)

    def _read(self, call: Call, draw: random.Random, deltas: Iterator[Any]) -> None:
        leave_after = draw.randint(0, 5) if draw.random() < DROPPED else None
        text = ""
        for number, delta in enumerate(deltas):
            text += delta.content or ""
            if number == leave_after:
                call.left, call.ending = True, "dropped"
                deltas.close()  # type: ignore[attr-defined]
                return
        self._judge_answer(call, text)

    async def _async_side(self) -> None:
        await asyncio.gather(*(self._async_worker() for _ in range(self.plan.tasks)))

    async def _async_worker(self) -> None:
        while (found := self._next(self._async_numbers)) is not None:
            call, draw = found
            _current.set(call)
            running = asyncio.ensure_future(self._async_call(call, draw))
            if draw.random() < CANCELLED:
                await asyncio.wait([running], timeout=draw.uniform(0.0, 0.5))
                call.left = running.cancel() or call.left
            try:
                await running
            except asyncio.CancelledError:
                call.ending = "cancelled"
                if not call.left:
                    self.report.wrong.append(f"{call.prompt} was cancelled by nobody")
            except BaseException as error:
                self._judge_error(call, error)

    async def _async_call(self, call: Call, draw: random.Random) -> None:
        model, messages = self._models[call.provider], [Message(role="user", content=call.prompt)]
        if draw.random() < 0.5:
            self._judge_answer(call, (await model.aresponse(messages=messages)).content)
        else:
            await self._aread(call, draw, model.aresponse_stream(messages=messages))

    async def _aread(self, call: Call, draw: random.Random, deltas: AsyncIterator[Any]) -> None:
        leave_after = draw.randint(0, 5) if draw.random() < DROPPED else None
        text, number = "", 0
        async for delta in deltas:
            text += delta.content or ""
            if number == leave_after:
                call.left, call.ending = True, "dropped"
                await deltas.aclose()  # type: ignore[attr-defined]
                return
            number += 1
        self._judge_answer(call, text)

    # Judgement

    def _judge_answer(self, call: Call, text: object) -> None:
        expected = f"[{call.provider}/{self._models[call.provider].id}] You said: {call.prompt}"
        if text != expected:
            self.report.wrong.append(f"{call.prompt} was answered with {text!r}")
        self._end(call, "answer")

    def _judge_error(self, call: Call, error: BaseException) -> None:
        kind = type(error)
        self._end(call, f"error {kind.__name__}")
        shown = "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))
        self._look_for_keys(shown)
        if not isinstance(error, ModelProviderError) or kind.__module__.partition(".")[0] != "hfs_providers":
            self.report.wrong.append(f"{call.prompt} ended in {kind.__module__}.{kind.__name__}: {error}")

    def _end(self, call: Call, ending: str) -> None:
        if call.ending:
            self.report.wrong.append(f"{call.prompt} ended twice: {call.ending}, {ending}")
        call.ending = ending

    def _look_for_keys(self, text: str) -> None:
        if self._secrets.search(text):
            self.report.wrong.append(f"a key is shown: {self._secrets.sub('<KEY>', text)[-400:]}")

    def _balance(self, server: FireServer) -> None:
        report = self.report
        served, report.steps = server.books()
        model_ids = {name: model.id for name, model in self._models.items()}
        report.ledger = settle(report.calls, served, model_ids, self.plan.request_timeout)
        for name, pool in self._pools.items():
            report.hits.update({(name, fingerprint(key)): count for key, count in server.hits(name).items()})
            report.answered.update({(name, *who): count for who, count in server.answered(name).items()})
            counts = pool.counts(model_ids[name])
            report.held[name] = (counts.in_flight, counts.reserved_tokens)
            report.leases += len(pool.leases)
            report.leases_open += sum(not lease.ended for lease in pool.leases)
            report.leases_told += pool.told
            report.wrong += pool.wrong

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Read what is logged instead of printing it."""
        reader = _Reader(self._look_for_keys)
        loggers = [logging.getLogger(name) for name in ("agno", "hfs_providers")]
        before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.handlers, logger.propagate = [reader], False
        try:
            yield
        finally:
            for logger, handlers, propagate in before:
                logger.handlers, logger.propagate = handlers, propagate


class _Reader(logging.Handler):
    def __init__(self, read: Callable[[str], None]) -> None:
        super().__init__()
        self._read = read

    def emit(self, record: logging.LogRecord) -> None:
        self._read(self.format(record))


def _write_down(event: Event) -> None:
    """The observer: events come in the context of the call that they belong to."""
    call = _current.get()
    if event.usage is not None and call is not None:
        call.rows.append(event.usage)


def _short_sleep(seconds: float) -> None:
    time.sleep(min(seconds, 0.01))


async def _short_asleep(seconds: float) -> None:
    await asyncio.sleep(min(seconds, 0.01))


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))


def _kinds(lines: Sequence[str]) -> list[tuple[str, int]]:
    """The commonest lines, where lines that differ in numbers only are one: an example and how many."""
    examples: dict[str, str] = {}
    kinds = Counter(re.sub(r"\d+", "", line) for line in lines)
    for line in lines:
        examples.setdefault(re.sub(r"\d+", "", line), line)
    return [(examples[kind], count) for kind, count in kinds.most_common(20)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from the command line; the status is 1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fire.fire", description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=1_800.0, help="seconds after which a call counts as hanging")
    given = parser.parse_args(arguments)
    began = time.monotonic()

    def progress(number: int) -> None:
        print(f"\r{number:>7} of {given.calls} calls, {time.monotonic() - began:5.0f} s", end="", file=sys.stderr)

    report = Fire(Plan(calls=given.calls, seed=given.seed, deadline=given.deadline, progress=progress)).run()
    print(file=sys.stderr)
    print(report)
    print("everything holds" if report.good else "SOMETHING DOES NOT HOLD")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
