"""A pool that shares its keys: it asks the ledger before each request, and heeds what it says."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable

import pytest

from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Credential, Limits
from hfs_providers.contract.secret import Secret
from hfs_providers.keys.ledger import InFlight, Refusal, Reservation, Spent, reserve_in_thread
from hfs_providers.keys.pool import KeyPool

NOW = 1_000_000.0


class Book:
    """A ledger that says yes until told otherwise, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Reservation] = []
        self.ended: list[tuple[Reservation, int | None]] = []
        self.rule: Callable[[Reservation], Refusal | None] = lambda reservation: None

    def reserve(self, reservation: Reservation) -> Refusal | None:
        self.asked.append(reservation)
        return self.rule(reservation)

    async def reserve_async(self, reservation: Reservation) -> Refusal | None:
        return await reserve_in_thread(self, reservation)

    def end(self, reservation: Reservation, charged: int | None) -> None:
        self.ended.append((reservation, charged))

    def refuse(self, *fingerprints: str, **fields: object) -> None:
        refusal = Refusal(**{"state": "limited", "until": NOW + 30, "reason": "used elsewhere", **fields})  # type: ignore[arg-type]
        self.rule = lambda reservation: refusal if reservation.fingerprint in fingerprints else None


def credentials(count: int, **params: str) -> list[Credential]:
    return [Credential(f"p#{n}", Secret(f"key-number-{n}"), params) for n in range(1, count + 1)]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def pool(count: int = 2, limits: Limits | None = None, clock: Clock | None = None, **params: str) -> KeyPool:
    clock = clock or Clock()
    return KeyPool(
        "p",
        credentials(count, **params),
        limits=lambda model, key: limits,
        clock=clock,
        wall=lambda: NOW + clock.now,
    )


def test_a_pool_that_is_not_joined_asks_nobody() -> None:
    book, keys = Book(), pool()
    assert keys.join(book) == []
    keys.leave()
    keys.acquire("m").commit(5)
    assert book.asked == book.ended == []


def test_a_claim_names_the_account_the_key_the_limits_and_the_estimate() -> None:
    book, keys = Book(), pool(2, Limits(rpm=5, shared=True), account="home")
    keys.join(book)
    lease = keys.acquire("m", 700)
    first, second = (credential.fingerprint for credential in keys.credentials)
    assert book.asked == [
        Reservation("p", "home", tuple(sorted((first, second))), first, "m", Limits(rpm=5, shared=True), 700)
    ]
    assert book.asked[0].scope == ""
    lease.commit(12)
    assert book.ended == [(book.asked[0], 12)]


def test_a_key_without_an_account_is_named_by_its_fingerprint_alone() -> None:
    book, keys = Book(), pool(1)
    keys.join(book)
    keys.acquire("m").release()
    assert book.asked[0].account == keys.credentials[0].fingerprint
    assert book.asked[0].scope == "m"


@pytest.mark.parametrize(
    ("end", "charged"),
    [
        (lambda lease: lease.commit(7), 7),
        (lambda lease: lease.failed(3), 3),
        (lambda lease: lease.rate_limited(1.0), 0),
        (lambda lease: lease.dead("revoked"), 0),
        (lambda lease: lease.release(), None),
    ],
    ids=["commit", "failed", "rate_limited", "dead", "release"],
)
def test_every_end_of_a_lease_ends_its_claim_once(end: Callable[[object], None], charged: int | None) -> None:
    book, keys = Book(), pool()
    keys.join(book)
    lease = keys.acquire("m")
    end(lease)
    end(lease)
    assert [said for _, said in book.ended] == [charged]


def test_a_lease_that_is_dropped_gives_its_claim_back() -> None:
    book, keys = Book(), pool()
    keys.join(book)
    lease = keys.acquire("m")
    del lease
    gc.collect()
    assert [said for _, said in book.ended] == [None]


def test_a_key_that_others_have_used_up_is_passed_over_and_limited_until_they_say() -> None:
    clock = Clock()
    book, keys = Book(), pool(2, clock=clock)
    first, second = (credential.fingerprint for credential in keys.credentials)
    book.refuse(first)
    keys.join(book)
    with keys.acquire("m", timeout=0) as lease:
        assert lease.credential.fingerprint == second
    states = {status.id: (status.state, status.free_in) for status in keys.statuses("m")}
    assert states == {"p#1": ("limited", 30.0), "p#2": ("ready", 0.0)}
    assert keys.counts("m").in_flight == keys.counts("m").reserved_tokens == 0
    clock.now = 30.0
    book.rule = lambda reservation: None
    assert {keys.acquire("m", timeout=0).key_id for _ in range(2)} == {"p#1", "p#2"}


def test_a_key_that_another_process_saw_cooling_or_dead_is_so_here() -> None:
    book, keys = Book(), pool(2)
    keys.join(book)
    first, second = (credential.fingerprint for credential in keys.credentials)
    book.refuse(first, state="cooling", scope="key", reason="429 elsewhere")
    keys.acquire("m", timeout=0).release()
    book.refuse(second, state="dead", until=NOW + 3600, reason="revoked")
    with pytest.raises(PoolExhaustedError) as caught:
        keys.acquire("m", timeout=0)
    assert (caught.value.cooling, caught.value.dead) == (1, 1)
    assert {status.id: status.reason for status in keys.statuses()} == {"p#1": "429 elsewhere", "p#2": "revoked"}


def test_a_trial_that_comes_a_little_early_does_not_bury_the_key_for_another_probation() -> None:
    clock = Clock()
    book, keys = Book(), pool(1, clock=clock)
    keys.join(book)
    keys.acquire("m").dead("revoked")
    clock.now = 3600.0
    book.refuse(keys.credentials[0].fingerprint, state="dead", until=NOW + 3600.5, reason="revoked")
    with pytest.raises(PoolExhaustedError) as caught:
        keys.acquire("m", timeout=0)
    assert caught.value.free_in == pytest.approx(0.5)


def test_what_others_used_up_is_not_kept_as_a_cooldown_of_our_own() -> None:
    book, keys = Book(), pool(1)
    book.refuse(keys.credentials[0].fingerprint)
    keys.join(book)
    with pytest.raises(PoolExhaustedError):
        keys.acquire("m", timeout=0)
    again = pool(1)
    again.load(keys.dump())
    assert again.counts("m").ready == 1


def test_who_does_not_wait_asks_for_each_key_once_even_if_told_to_come_back_at_once() -> None:
    book, keys = Book(), pool(3)
    book.refuse(*(credential.fingerprint for credential in keys.credentials), until=NOW)
    keys.join(book)
    with pytest.raises(PoolExhaustedError):
        keys.acquire("m", timeout=0)
    assert len(book.asked) == 3


def test_who_waits_gives_up_in_time_though_each_key_is_free_again_by_the_time_it_is_its_turn() -> None:
    clock = Clock()
    book, keys = Book(), pool(3, clock=clock)

    def slow(reservation: Reservation) -> Refusal:
        assert len(book.asked) < 200, "it goes round in a circle"
        clock.now += 0.01
        return Refusal("limited", 0.0, "used elsewhere")

    book.rule = slow
    keys.join(book)
    with pytest.raises(PoolExhaustedError):
        keys.acquire("m", timeout=1.0)
    assert clock.now < 1.1


def test_who_waits_asks_again_when_the_instant_has_come() -> None:
    keys = KeyPool("p", credentials(1))
    book = Book()
    answers = iter([Refusal("limited", 0.0, "used elsewhere"), None])
    book.rule = lambda reservation: next(answers)
    keys.join(book)
    keys.acquire("m", timeout=5).commit()
    assert len(book.asked) == 2


def test_who_waits_while_the_pool_is_joined_gets_no_more_time() -> None:
    clock, book = Clock(), Book()

    class Joins:
        """A nap in which the pool is joined and the key is released."""

        def wait(self, event: threading.Event, seconds: float) -> None:
            if not book.asked:
                keys.join(book)
                held.release()
            elif not event.is_set():
                clock.now += seconds

        async def wait_async(self, future: asyncio.Future[None], seconds: float) -> None:
            raise NotImplementedError

    keys = KeyPool(
        "p", credentials(1), limits=lambda *_: Limits(tpm=10), clock=clock, wall=lambda: NOW + clock.now, waits=Joins()
    )
    book.refuse(keys.credentials[0].fingerprint, until=NOW + 0.5)
    held = keys.acquire("m", 10)
    with pytest.raises(PoolExhaustedError):
        keys.acquire("m", 10, timeout=5)
    assert (len(book.asked), clock.now) == (1, 0.0)


def test_what_was_in_flight_before_is_reported_once_and_not_asked_for() -> None:
    book, keys = Book(), pool(1)
    before = keys.acquire("m", 300)
    held = keys.join(book)
    assert held == [(keys.credentials[0].fingerprint, "m", 1, 300)]
    before.commit(9)
    assert book.asked == []
    assert [(reservation.account, reservation.scope, charged) for reservation, charged in book.ended] == [
        (held[0].account, "m", 9)
    ]


def test_what_is_being_asked_for_is_not_reported_as_in_flight() -> None:
    """Else it would be counted twice: by the report, and by the answer."""
    book, keys = Book(), pool(1)
    reports: list[object] = []

    def joins_again(reservation: Reservation) -> None:
        keys.leave()
        reports.append(keys.join(book))

    book.rule = joins_again
    keys.join(book)
    lease = keys.acquire("m")
    assert reports == [[]]
    lease.release()
    assert len(book.ended) == 1


def test_nor_are_its_tokens_beside_those_that_are_in_flight() -> None:
    book, keys = Book(), pool(1)
    before = keys.acquire("m", 300)
    reports: list[list[InFlight]] = []

    def joins_again(reservation: Reservation) -> None:
        keys.leave()
        reports.append(keys.join(book))

    book.rule = joins_again
    keys.join(book)
    keys.acquire("m", 70).release()
    assert reports == [[InFlight(keys.credentials[0].fingerprint, "m", 1, 300)]]
    before.release()


def test_what_was_spent_is_told_by_the_wall_clock() -> None:
    clock = Clock()
    keys = pool(1, Limits(rpm=5), clock)
    keys.acquire("m").commit(7)
    clock.now = 2.0
    assert keys.spent() == [Spent(keys.credentials[0].fingerprint, "m", "minute", [(NOW, 1, 7)])]


def test_a_child_forgets_what_its_parent_was_asking_for() -> None:
    book, keys = Book(), pool(1)
    keys.join(book)
    asking = keys.aacquire("m", 300)

    class Fork(BaseException):
        """Ends the question, as the child does when it drops the parent's tasks."""

    def forked(reservation: Reservation) -> None:
        keys._lending._after_fork_in_child()
        raise Fork

    book.reserve_async = forked  # type: ignore[assignment]
    with pytest.raises(Fork):
        asyncio.run(asking)
    assert (keys.counts("m").in_flight, keys.counts("m").reserved_tokens) == (0, 0)


def test_a_lease_for_a_task_whose_loop_was_closed_is_not_being_asked_for() -> None:
    book, keys = Book(), pool(1, Limits(tpm=1000))
    keys.join(book)
    held = keys.acquire("m", 1000)
    loop = asyncio.new_event_loop()
    call = keys.aacquire("m", 1000)
    task = loop.create_task(call)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()  # without cancelling its task
    held.release()
    held = keys.acquire("m", 200)
    keys.leave()
    assert keys.join(book) == [(keys.credentials[0].fingerprint, "m", 1, 200)]
    call.close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_ledger_that_is_interrupted_leaves_nothing_open() -> None:
    book, keys = Book(), pool(1)

    def interrupted(reservation: Reservation) -> None:
        raise KeyboardInterrupt

    book.rule = interrupted
    keys.join(book)
    with pytest.raises(KeyboardInterrupt):
        keys.acquire("m")
    assert keys.counts("m").in_flight == 0
    assert book.ended == []


def test_the_event_loop_runs_on_while_a_task_asks() -> None:
    book, keys = Book(), pool(1)
    answer = threading.Event()

    def slow(reservation: Reservation) -> None:
        assert answer.wait(10), "the loop let us go on"

    book.rule = slow
    keys.join(book)

    async def main() -> None:
        task = asyncio.create_task(keys.aacquire("m"))
        while not book.asked:
            await asyncio.sleep(0)
        answer.set()
        (await task).commit(4)

    asyncio.run(main())
    assert [charged for _, charged in book.ended] == [4]


def test_a_task_that_is_cancelled_while_it_asks_gives_back_what_is_granted_after_all() -> None:
    book, keys = Book(), pool(1)
    answer, given_back = threading.Event(), threading.Event()
    book.rule = lambda reservation: None if answer.wait(10) else Refusal("limited", 0.0, "nobody answered")

    def end(reservation: Reservation, charged: int | None) -> None:
        book.ended.append((reservation, charged))
        given_back.set()

    book.end = end  # type: ignore[method-assign]
    keys.join(book)

    async def main() -> None:
        task = asyncio.create_task(keys.aacquire("m"))
        while not book.asked:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert keys.counts("m").in_flight == 0
        answer.set()

    asyncio.run(main())
    assert given_back.wait(10)
    assert [charged for _, charged in book.ended] == [None]
