"""Four failing providers, 16 threads and 500 tasks on one model each: every call ends, and the books balance.

The full fire: `python -m tests.fire.fire --calls 100000`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from hfs_providers.authoring import Credential, Secret
from hfs_providers.keys import KeyPool, fingerprint
from hfs_providers.usage import UsageRow
from tests.fire.faults import Served
from tests.fire.fire import Fire, Plan, Report
from tests.fire.ledger import Call, settle
from tests.fire.watch import WatchedPool
from tests.long import LONGEST

CALLS = 2_000 if LONGEST else 800


@pytest.fixture(scope="module")
def report() -> Report:
    """One fire for all the tests below."""
    # Long enough that it is the server that is late, not this machine.
    return Fire(Plan(calls=CALLS, request_timeout=4.0)).run()


class TestUnderFire:
    def test_the_fire_was_one(self, report: Report) -> None:
        assert report.unmet() == []
        assert report.leases_told > CALLS / 2

    def test_each_call_ends_once_with_an_answer_or_a_typed_error(self, report: Report) -> None:
        assert report.wrong == [], report
        assert report.endings.total() == CALLS
        assert "none" not in report.endings

    def test_some_calls_end_in_each_way(self, report: Report) -> None:
        endings = {"answer", "dropped", "cancelled", "error ModelCallError", "error StreamInterruptedError"}
        endings |= {"error ModelNotFoundError", "error ContextOverflowError"}
        assert endings <= set(report.endings)

    def test_each_request_is_written_down_as_what_it_was(self, report: Report) -> None:
        assert report.ledger.wrong == [], report

    def test_the_requests_written_down_are_those_that_the_server_counted(self, report: Report) -> None:
        assert report.hits == report.sent

    def test_the_answers_written_down_are_those_that_the_server_gave(self, report: Report) -> None:
        assert report.answered == report.explained
        assert report.ledger.answered.total() == report.rows["ok"]

    def test_unexplained_answers_are_few(self, report: Report) -> None:
        # Else the equality above would be a matter of words.
        assert report.ledger.left.total() <= report.endings["dropped"] + report.endings["cancelled"]
        # The first 500 requests come at once: a machine that is busy besides is late with some of them.
        assert report.ledger.late.total() < CALLS / 20

    def test_nothing_is_held_at_the_end(self, report: Report) -> None:
        assert set(report.held.values()) == {(0, 0)}
        assert report.leases_open == 0
        assert report.reserved == 0

    def test_what_a_budget_says_was_spent_is_what_was_written_down(self, report: Report) -> None:
        assert report.spent == report.costs > 0


class TestTheWatch:
    """What the fire relies on does find what it is there to find."""

    @pytest.fixture
    def watch(self) -> WatchedPool:
        keys = [Credential(f"acme#{number}", Secret(f"acme-key-number-{number}")) for number in (1, 2)]
        return WatchedPool(KeyPool("acme", keys))

    @pytest.mark.parametrize(
        "bar",
        [
            lambda lease: lease.rate_limited(60),
            lambda lease: lease.rate_limited(60, "key"),
            lambda lease: lease.rate_limited(),
            lambda lease: lease.dead("refused"),
        ],
    )
    def test_a_lease_on_a_barred_key_is_found(self, watch: WatchedPool, bar: Callable[[Any], None]) -> None:
        bar(watch.acquire("large"))
        barred = watch.leases[0].key_id
        watch.hand_out(fake_lease(barred), "large", began=time.monotonic())
        assert [line for line in watch.wrong if line.startswith(f"{barred} was leased while")]

    def test_a_lease_on_another_key_or_for_another_model_is_right(self, watch: WatchedPool) -> None:
        watch.acquire("large").rate_limited(60)
        watch.acquire("large").commit()
        watch.hand_out(fake_lease(watch.leases[0].key_id), "small", began=time.monotonic())
        assert watch.wrong == []
        assert watch.told == 2

    def test_a_lease_after_the_key_was_put_back_is_right(self, watch: WatchedPool) -> None:
        watch.acquire("large").dead("refused")
        watch.revive(watch.leases[0].key_id)
        watch.hand_out(fake_lease(watch.leases[0].key_id), "large", began=time.monotonic())
        assert watch.wrong == []

    def test_a_lease_that_may_have_been_granted_before_is_right(self, watch: WatchedPool) -> None:
        began = time.monotonic()
        watch.acquire("large").dead("refused")
        watch.hand_out(fake_lease(watch.leases[0].key_id), "large", began=began)
        assert watch.wrong == []


class TestTheLedger:
    """The same of the books."""

    def wrong(self, entries: Sequence[Served], rows: Sequence[UsageRow], left: bool = False) -> list[str]:
        call = Call("call-1", "groq", list(rows), left)
        return settle([call], {"call-1": entries}, {"groq": "large"}, timeout=2.0).wrong

    def test_what_fits_is_right(self) -> None:
        entries = [served("key-1", "RateLimited"), served("key-2", "Ok", answered=True)]
        assert self.wrong(entries, [row("key-1", "rate_limited"), row("key-2", "ok")]) == []

    def test_a_request_without_a_row_is_found(self) -> None:
        assert self.wrong([served("key-1", "ServerError"), served("key-2", "Ok")], [row("key-1", "server_error")])

    def test_a_row_without_a_request_is_found(self) -> None:
        assert self.wrong([], [row("key-1", "ok")])

    def test_a_row_of_another_key_is_found(self) -> None:
        assert self.wrong([served("key-1", "Ok", answered=True)], [row("key-2", "ok")])

    def test_half_an_answer_that_is_called_whole_is_found(self) -> None:
        assert self.wrong([served("key-1", "HalfStream")], [row("key-1", "ok")])

    def test_an_answer_that_is_called_a_failure_is_found(self) -> None:
        assert self.wrong([served("key-1", "Ok", answered=True)], [row("key-1", "server_error")])

    def test_an_answer_that_nobody_left_and_is_called_abandoned_is_found(self) -> None:
        answered = [served("key-1", "Ok", answered=True)]
        assert self.wrong(answered, [row("key-1", "abandoned")])
        assert self.wrong(answered, [row("key-1", "abandoned")], left=True) == []

    def test_an_answer_is_only_late_after_the_timeout(self) -> None:
        answered = [served("key-1", "Ok", answered=True)]
        assert self.wrong(answered, [row("key-1", "transport", latency=1.0)])
        assert self.wrong(answered, [row("key-1", "transport", latency=2.1)]) == []

    def test_a_request_that_broke_on_its_way_is_not_taken_for_the_next_with_its_key(self) -> None:
        answered = [served("key-1", "Ok", answered=True)]
        broke = row("key-1", "transport", latency=2.1)
        assert self.wrong(answered, [broke, row("key-1", "ok")]) == []
        assert self.wrong(answered, [broke, row("key-1", "ok"), row("key-1", "ok")])
        assert self.wrong([*answered, *answered], [broke, row("key-1", "ok")]) == []
        assert self.wrong(answered, [broke, row("key-1", "transport", latency=0.1)]) == []
        assert self.wrong([served("key-1", "HalfStream")], [broke, row("key-1", "server_error")]) == []

    def test_wrong_tokens_are_found(self) -> None:
        assert self.wrong([served("key-1", "Ok", answered=True, tokens=7)], [row("key-1", "ok", tokens=8)])


def fake_lease(key_id: str) -> Any:
    """A lease as a pool without a memory would grant it."""
    return SimpleNamespace(key_id=key_id, probe=False)


def served(key: str, step: str, answered: bool = False, tokens: int = 0) -> Served:
    return Served("groq", key, "large", step, answered, tokens)


def row(key: str, outcome: str, latency: float = 0.1, tokens: int = 0) -> UsageRow:
    return UsageRow(0.0, "groq", "large", "groq#1", fingerprint(key), 0, 0, tokens, latency, outcome)
