"""The pool under threads, tasks, cancellation, several event loops and fork, in real time that nobody waits for."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Credential, Limits
from hfs_providers.contract.secret import Secret
from hfs_providers.keys.leases import Lease
from hfs_providers.keys.pool import KeyPool

LONG = 20.0
"""Seconds that no test takes unless it fails."""


def make(count: int = 1, limits: Limits | None = None) -> KeyPool:
    # A call in flight takes the whole of a limit of tokens; an ended one of none leaves it whole.
    limits = limits or Limits(tpm=1000)
    credentials = [Credential(f"p#{n}", Secret(f"sk-test-{n}-secret")) for n in range(1, count + 1)]
    return KeyPool("p", credentials, limits=lambda *_: limits)


def until(condition: Callable[[], bool]) -> None:
    """Let other threads run until `condition` holds."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        os.sched_yield()


def waiting(pool: KeyPool, model_id: str = "m") -> int:
    line = pool._dispatcher.wait_queues.get(model_id)
    return len(line) if line is not None else 0


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def start(*functions: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def test_who_gives_up_is_told_the_state_of_the_keys_when_it_wakes() -> None:
    async def scenario() -> PoolExhaustedError:
        pool = make(2)
        one, other = pool.acquire("m"), pool.acquire("m")
        call = asyncio.create_task(pool.aacquire("m", timeout=LONG))
        await settle()
        one.dead("refused")
        other.rate_limited(60)
        # Changed once more, and nobody waits in the queue for whom it would be looked at.
        pool.pause(other.key_id, "m", 90, "still busy")
        with pytest.raises(PoolExhaustedError) as gave_up:
            await call
        return gave_up.value

    told = asyncio.run(scenario())
    assert (told.limited, told.cooling, told.dead) == (0, 1, 1)


def test_threads_are_served_in_the_order_of_their_arrival() -> None:
    pool = make()
    held = pool.acquire("m")
    served: list[int] = []
    threads: list[threading.Thread] = []

    def call(number: int) -> None:
        with pool.acquire("m", timeout=LONG):
            served.append(number)

    for number in range(5):
        threads += start(lambda number=number: call(number))  # type: ignore[misc]
        until(lambda number=number: waiting(pool) == number + 1)  # type: ignore[misc]
    held.release()
    join(threads)
    assert served == [0, 1, 2, 3, 4]


def test_a_nap_is_cut_short_now_and_then_to_look_at_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    from hfs_providers.keys import waiters

    monkeypatch.setattr(waiters, "_LONGEST_NAP", 0.01)
    slept = 0.0
    credentials = [Credential("p#1", Secret("sk-test-1-secret"))]
    pool = KeyPool("p", credentials, wall=lambda: time.monotonic() + slept)
    pool.acquire("m").rate_limited(3600)
    threads = start(lambda: pool.acquire("m", timeout=7200).release())
    until(lambda: bool(pool._dispatcher.wait_queues))
    slept = 3600.0
    join(threads)
    assert not pool._dispatcher.wait_queues
    assert pool.counts("m").ready == 1


def test_a_thread_and_a_task_stand_in_one_line() -> None:
    pool = make()
    held = pool.acquire("m")
    served: list[str] = []

    def thread() -> None:
        with pool.acquire("m", timeout=LONG):
            served.append("thread")

    async def task() -> None:
        call = asyncio.create_task(pool.aacquire("m", timeout=LONG))
        await settle()
        held.release()
        with await call:
            served.append("task")

    threads = start(thread)
    until(lambda: waiting(pool) == 1)
    asyncio.run(task())
    join(threads)
    assert served == ["thread", "task"]


def test_a_model_that_cannot_be_served_does_not_block_another() -> None:
    pool = make()

    async def main() -> None:
        held = pool.acquire("a")
        stuck = asyncio.create_task(pool.aacquire("a", timeout=LONG))
        await settle()
        other = await pool.aacquire("b", timeout=0)
        assert (other.model_id, stuck.done()) == ("b", False)
        other.release()
        held.release()
        (await stuck).release()

    asyncio.run(main())


def test_those_behind_one_who_waits_for_any_key_are_not_looked_at() -> None:
    pool = make()
    looks: list[None] = []

    class Excluded(list[str]):
        def __iter__(self) -> Iterator[str]:
            looks.append(None)
            return super().__iter__()

    async def main() -> None:
        held = pool.acquire("m")
        first = asyncio.create_task(pool.aacquire("m", timeout=LONG))
        await settle()
        second = asyncio.create_task(pool.aacquire("m", timeout=2 * LONG, exclude=Excluded(["p#9"])))
        await settle()
        looks.clear()
        pool.acquire("other").release()
        assert not looks
        held.release()
        (await first).release()
        (await second).release()

    asyncio.run(main())


def test_a_later_arrival_does_not_overtake_a_larger_request_that_waits() -> None:
    pool = make()

    async def main() -> None:
        held = pool.acquire("m", 500)
        large = asyncio.create_task(pool.aacquire("m", 1000, LONG))
        await settle()
        with pytest.raises(PoolExhaustedError):
            await pool.aacquire("m", 100, 0)
        held.release()
        (await large).release()

    asyncio.run(main())


def test_one_that_waits_for_other_keys_is_overtaken() -> None:
    pool = make(2)

    async def main() -> None:
        held = [pool.acquire("m"), pool.acquire("m")]
        picky = asyncio.create_task(pool.aacquire("m", timeout=LONG, exclude={"p#1"}))
        await settle()
        plain = asyncio.create_task(pool.aacquire("m", timeout=LONG))
        await settle()
        held[0].release()
        assert (await plain).key_id == "p#1"
        assert not picky.done()
        held[1].release()
        assert (await picky).key_id == "p#2"

    asyncio.run(main())


def test_a_waiter_that_is_cancelled_leaves_the_line() -> None:
    pool = make()

    async def main() -> None:
        held = pool.acquire("m")
        first = asyncio.create_task(pool.aacquire("m", timeout=LONG))
        second = asyncio.create_task(pool.aacquire("m", timeout=LONG))
        await settle()
        first.cancel()
        await settle()
        held.release()
        (await second).release()
        assert first.cancelled()

    asyncio.run(main())
    assert (waiting(pool), pool.counts("m").in_flight) == (0, 0)


def test_those_behind_a_waiter_that_is_cancelled_get_what_it_kept_from_them() -> None:
    pool = make()

    async def main() -> None:
        held = pool.acquire("m", 500)
        large = asyncio.create_task(pool.aacquire("m", 1000, LONG))
        small = asyncio.create_task(pool.aacquire("m", 100, LONG))
        await settle()
        assert not small.done()
        large.cancel()
        await settle()
        assert small.done()
        small.result().release()
        held.release()

    asyncio.run(main())


def test_a_lease_handed_to_a_task_that_is_cancelled_goes_to_the_next() -> None:
    pool = make()

    async def main() -> None:
        held = pool.acquire("m")
        first = asyncio.create_task(pool.aacquire("m", timeout=LONG))
        second = asyncio.create_task(pool.aacquire("m", timeout=LONG))
        await settle()
        held.release()  # the first has its lease now and does not know it yet
        first.cancel()
        (await asyncio.wait_for(second, LONG)).release()
        assert first.cancelled()

    asyncio.run(main())
    assert pool.counts("m").in_flight == 0


def test_a_waiter_does_not_block_its_event_loop() -> None:
    pool = make()

    async def main() -> int:
        held = pool.acquire("m")
        call = asyncio.create_task(pool.aacquire("m", timeout=LONG))
        steps = 0
        while steps < 1000:
            await asyncio.sleep(0)
            steps += 1
        held.release()
        (await call).release()
        return steps

    assert asyncio.run(main()) == 1000


def test_a_busy_key_is_waited_for_until_the_timeout_in_real_time() -> None:
    pool = make()
    with pool.acquire("m"):
        with pytest.raises(PoolExhaustedError):
            asyncio.run(pool.aacquire("m", timeout=0.02))
        with pytest.raises(PoolExhaustedError):
            pool.acquire("m", timeout=0.02)
    assert waiting(pool) == 0


def test_a_cooldown_is_waited_out_in_real_time() -> None:
    pool = make()
    pool.acquire("m").rate_limited(0.02)
    asyncio.run(pool.aacquire("m", timeout=LONG)).rate_limited(0.02)
    pool.acquire("m", timeout=LONG).release()
    assert pool.counts("m").ready == 1


def test_one_pool_serves_two_event_loops_in_turn() -> None:
    pool = make()

    async def main() -> None:
        held = pool.acquire("m")
        call = asyncio.create_task(pool.aacquire("m", timeout=LONG))
        await settle()
        held.release()
        (await call).release()

    asyncio.run(main())
    asyncio.run(main())
    assert pool.counts("m").in_flight == 0


def test_a_waiter_whose_loop_was_closed_does_not_hold_up_the_others() -> None:
    pool = make()
    held = pool.acquire("m")
    loop = asyncio.new_event_loop()
    call = pool.aacquire("m", timeout=LONG)
    task = loop.create_task(call)
    loop.run_until_complete(settle())
    loop.close()  # without cancelling its task
    threads = start(lambda: pool.acquire("m", timeout=LONG).release())
    until(lambda: waiting(pool) == 2)
    held.release()
    join(threads)
    assert pool.counts("m").in_flight == 0
    call.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_lease_ends_once_whoever_ends_it() -> None:
    pool = make(limits=Limits(rpm=100))
    for _ in range(20):
        lease = pool.acquire("m")
        barrier = threading.Barrier(4)

        def end(lease: Lease = lease, barrier: threading.Barrier = barrier) -> None:
            barrier.wait(LONG)
            lease.commit(1)

        join(start(end, end, end, end))
    counts = pool.counts("m")
    assert (counts.in_flight, counts.reserved_tokens) == (0, 0)
    assert pool._keyring.accounts[0].meters["m"].windows["minute"].requests == 20


def test_a_dropped_lease_wakes_a_waiter() -> None:
    pool = make()
    held = [pool.acquire("m")]
    threads = start(lambda: pool.acquire("m", timeout=LONG).release())
    until(lambda: waiting(pool) == 1)
    held.clear()
    gc.collect()
    join(threads)
    assert pool.counts("m").in_flight == 0


def test_collecting_at_every_moment_does_not_deadlock() -> None:
    pool = make(4, Limits(rpm=1_000_000))
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:

        def drop() -> None:
            for _ in range(300):
                cycle: list[object] = [pool.acquire("m", timeout=LONG)]
                cycle.append(cycle)

        join(start(drop, drop, drop))
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert pool.counts("m").in_flight == 0


def test_many_threads_and_tasks_never_pass_the_limit_and_leave_nothing() -> None:
    pool = make(4)
    flying: Counter[str] = Counter()
    guard = threading.Lock()
    worst = [0]
    done = [0]

    def use(lease: Lease, chance: random.Random) -> None:
        with guard:
            flying[lease.key_id] += 1
            worst[0] = max(worst[0], flying[lease.key_id])
        os.sched_yield()
        with guard:
            flying[lease.key_id] -= 1
            done[0] += 1
        outcome = chance.random()
        if outcome < 0.1:
            lease.rate_limited(0.001)
        elif outcome < 0.2:
            lease.failed()
        elif outcome < 0.9:
            lease.commit(0)
        else:
            lease.release()

    def thread(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(100):
            use(pool.acquire("m", timeout=LONG), chance)

    async def task(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(5):
            lease = await pool.aacquire("m", timeout=LONG)
            await asyncio.sleep(0)
            use(lease, chance)

    async def tasks() -> None:
        await asyncio.gather(*(task(seed) for seed in range(100)))

    workers = [lambda seed=seed: thread(seed) for seed in range(8)]
    join(start(*workers, lambda: asyncio.run(tasks()), lambda: asyncio.run(tasks())))
    counts = pool.counts("m")
    assert done[0] == 8 * 100 + 2 * 500
    assert worst[0] == 1
    assert (counts.in_flight, counts.reserved_tokens, waiting(pool)) == (0, 0, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_starts_without_its_parents_calls() -> None:
    pool = make(1, Limits(rpm=1))
    held = pool.acquire("m")
    threads = start(lambda: pool.acquire("m", timeout=LONG).release())
    until(lambda: waiting(pool) == 1)
    child = os.fork()
    if child == 0:
        try:
            fresh = pool.counts("m").in_flight == 0 and waiting(pool) == 0
            lease = pool.acquire("m", timeout=0)
            held.commit(1)
            os._exit(0 if fresh and pool.counts("m").in_flight == 1 and not lease.ended else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    held.release()
    join(threads)
    assert pool.counts("m").in_flight == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_amid_other_threads_leaves_the_child_a_pool_that_works() -> None:
    pool = make(4, Limits(rpm=1_000_000))
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            pool.acquire("m", timeout=LONG).commit(0)

    threads = start(work, work)
    codes = []
    for _ in range(20):
        child = os.fork()
        if child == 0:
            try:
                pool.acquire("m", timeout=0).commit(1)
                os._exit(0 if pool.counts("m").in_flight == 0 else 1)
            except BaseException:
                os._exit(2)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stop.set()
    join(threads)
    assert codes == [0] * 20


@pytest.mark.skipif(sys.platform == "win32", reason="no interrupt to send")
def test_an_error_while_a_thread_sleeps_leaves_the_line() -> None:
    class Broken:
        def wait(self, event: threading.Event, seconds: float) -> None:
            raise KeyboardInterrupt

        async def wait_async(self, future: asyncio.Future[None], seconds: float) -> None:
            raise KeyboardInterrupt

    pool = make()
    pool._waits = Broken()
    held = pool.acquire("m")
    with pytest.raises(KeyboardInterrupt):
        pool.acquire("m")
    assert waiting(pool) == 0
    held.release()
