"""The forecast of what a pool can serve, against the pool itself on a clock that the tests move."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Credential, Limits
from hfs_providers.contract.secret import Secret
from hfs_providers.keys.capacity import Capacity, Left, LimitNeed, capacity_of
from hfs_providers.keys.pool import KeyPool

PACIFIC = "America/Los_Angeles"
NOON = datetime(2026, 3, 2, 12, tzinfo=ZoneInfo(PACIFIC)).timestamp()


class Load:
    """A pool, and a steady load on it."""

    def __init__(
        self, limits: Limits | Callable[[str, str], Limits | None] | None, keys: int = 4, wall: float = NOON
    ) -> None:
        self.now = 1000.0
        credentials = [Credential(f"p#{number}", Secret(f"a-key-{number}")) for number in range(keys)]
        resolver = limits if callable(limits) else lambda *_: limits
        self.pool = KeyPool(
            "p", credentials, limits=resolver, clock=lambda: self.now, wall=lambda: wall + self.now - 1000.0
        )

    def ask(self, **load: float) -> Capacity:
        return capacity_of("p", "m", self.pool.watched().rooms("m"), **load)

    def run(self, rate: float, seconds: float, tokens: int = 100) -> float | None:
        """Send `rate` requests a minute for that long; after how many seconds no key was free, if so."""
        begin = self.now
        count = 0
        while (at := begin + count * 60 / rate) < begin + seconds:
            self.now = max(self.now, at)
            try:
                self.pool.acquire("m", tokens, timeout=0).commit(tokens)
            except PoolExhaustedError:
                return self.now - begin
            count += 1
        self.now = begin + seconds
        return None


MANY = 10**6
"""A limit that is never reached: what is used within an hour is counted for it."""


def mixed(_: str, key_id: str) -> Limits:
    return Limits(rpd=2000, rph=MANY) if key_id in ("p#0", "p#1") else Limits(rpm=2, rpd=9000, rph=MANY)


@pytest.mark.parametrize(
    ("load", "rate", "history"),
    [
        (Load(Limits(rpm=100, rpd=1000, rph=MANY)), 10, 3600),
        (Load(Limits(rpm=100, tpd=60_000, rph=MANY)), 5, 3600),
        (Load(Limits(rph=400)), 30, 600),
        (Load(Limits(rpd=2000, day_zone=PACIFIC, rph=MANY)), 14, 3600),
        (Load(Limits(rpd=1200, day_zone=PACIFIC, rph=MANY), wall=NOON + 9.5 * 3600), 10, 3600),
        (Load(mixed), 12, 3600),
        (Load(Limits(rpm=3, rpd=100, rph=MANY), keys=60), 30, 1800),
    ],
    ids=["day", "tokens", "hour", "calendar day", "next calendar day", "different limits", "many keys"],
)
def test_a_steady_load_runs_dry_when_it_was_forecast(load: Load, rate: float, history: float) -> None:
    assert load.run(rate, history) is None
    found = load.ask()
    assert (found.rate, found.tokens) == (pytest.approx(rate, rel=0.1), 100)
    actual = load.run(rate, 86_400)
    assert actual is not None
    assert found.dry_in == pytest.approx(actual, rel=0.1)


def test_a_load_that_is_asked_about_runs_dry_when_it_was_forecast() -> None:
    load = Load(Limits(rpm=30))
    assert load.run(60, 120) is None
    needs = load.ask(rate=200).needs
    assert needs is not None
    assert needs.dry_in == pytest.approx(load.run(200, 600), rel=0.1)


def test_what_leaves_the_windows_meanwhile_is_counted_on() -> None:
    """A busy day yesterday, whose requests leave the window while a load goes on that would otherwise run dry."""
    load = Load(Limits(rpd=1000, rph=MANY))
    assert load.run(60, 3600) is None
    load.now += 22 * 3600
    assert load.run(1.5, 3600) is None
    assert load.ask().dry_in is None
    assert load.run(1.5, 86_400) is None
    heavy = load.ask(rate=6).needs
    assert heavy is not None
    assert heavy.dry_in == pytest.approx(load.run(6, 86_400), rel=0.1)


def test_dead_and_cooling_keys_are_left_out() -> None:
    load = Load(Limits(rpm=100, rpd=1000, rph=MANY))
    load.run(10, 3600)
    load.pool.retire("p#0", "out")
    load.pool.pause("p#1", "m", 7200, "slow down")
    found = load.ask()
    # Two keys with 850 requests left serve 170 minutes; the one that cools down for 120 of them has 850 more.
    assert (found.keys, found.dry_in, found.limit) == (3, pytest.approx(15_300, rel=0.1), "rpd")
    load.pool.pause("p#2", "m", 600, "slow down")
    load.pool.pause("p#3", "m", 600, "slow down")
    found = load.ask()
    assert (found.dry_in, found.minute) == (0, Left(0, 0))
    for number in range(1, 4):
        load.pool.retire(f"p#{number}", "out")
    found = load.ask(rate=1)
    assert (found.keys, found.dry_in, found.day) == (0, 0, Left(0, 0))
    assert found.needs is not None
    assert found.needs.missing_keys is None


def test_what_is_left() -> None:
    load = Load(Limits(rpm=30, tpm=6000, rpd=1000), keys=2)
    load.run(30, 60)
    found = load.ask()
    # Of the 30 requests, the first has left the minute.
    assert found.minute == Left(31, 9100)
    # What shorter limits allow in an hour, and in a day.
    assert found.hour == Left(1970, 720_000)
    assert found.day == Left(1970, 17_280_000)
    assert Load(None).ask().day == Left(None, None)
    zoned = Load(Limits(rpm=10, rpd=100_000, day_zone=PACIFIC), keys=1, wall=NOON + 11 * 3600)
    assert zoned.ask().day == Left(600, None)


def test_models_that_share_an_allowance_run_dry_together() -> None:
    load = Load(Limits(rpd=1000, rph=MANY, shared=True))
    load.run(10, 3600)
    for _ in range(600):
        load.pool.acquire("other", 100, timeout=0).commit(100)
    assert load.ask().rate == pytest.approx(20, rel=0.1)


def test_what_a_load_needs() -> None:
    load = Load(Limits(rpm=30, tpm=6000, rpd=1000), keys=4)
    needs = load.ask(rate=200, tokens=1500).needs
    assert needs is not None
    assert list(needs.limits) == [
        LimitNeed("rpm", 200, 120),
        LimitNeed("tpm", 300_000, 24_000),
        LimitNeed("rpd", 288_000, 4000),
    ]
    # 288 keys have 288 000 requests a day.
    assert needs.missing_keys == 284
    enough = load.ask(rate=2, tokens=100).needs
    assert enough is not None
    assert (enough.missing_keys, enough.dry_in) == (0, None)
    assert enough.limits[0] == LimitNeed("rpm", 2, 120)
    free = Load(None).ask(rate=200, tokens=1500).needs
    assert free is not None
    assert (list(free.limits), free.missing_keys, free.dry_in) == ([], 0, None)


def test_thousands_of_keys_with_histories_of_their_own() -> None:
    load = Load(Limits(rpm=30, rpd=1000, rph=MANY), keys=2000)
    for number in range(2000):
        load.now += 0.7
        for _ in range(1 + number % 7):
            load.pool.acquire("m", key_id=f"p#{number}").commit(100)
    found = load.ask(rate=30_000).needs
    assert found is not None
    assert found.dry_in == pytest.approx(66 * 60, rel=0.1)
