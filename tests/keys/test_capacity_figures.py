"""Exact figures of the forecast, for accounts whose windows are written down by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hfs_providers.contract.instants import DAY, HOUR, NEVER
from hfs_providers.contract.records import Limits
from hfs_providers.keys.capacity import (
    Capacity,
    Left,
    LimitNeed,
    Needs,
    Room,
    WindowRoom,
    capacity_of,
)
from hfs_providers.keys.limits import counting_hours

Used = tuple[float, int, int]
"""Seconds until it leaves the window, requests and tokens."""


def minute(requests: float, tokens: float = NEVER, *used: Used) -> WindowRoom:
    return WindowRoom("minute", requests, tokens, used)


def hour(requests: float, tokens: float = NEVER, *used: Used) -> WindowRoom:
    return WindowRoom("hour", requests, tokens, used)


def day(requests: float, tokens: float = NEVER, *used: Used) -> WindowRoom:
    return WindowRoom("day", requests, tokens, used)


def today(requests: float, tokens: float, resets: float, used: int = 0, used_tokens: int = 0) -> WindowRoom:
    return WindowRoom("day", requests, tokens, ((resets, used, used_tokens),), resets)


def account(*windows: WindowRoom, keys: int = 1, closed: float = 0.0) -> Room:
    return Room(keys, closed, windows)


def lately(rate: int, tokens: int = 100) -> Room:
    """What dead keys have used: so many requests a minute in the last hour, each of so many tokens."""
    return account(hour(NEVER, NEVER, (1.0, rate * 60, rate * 60 * tokens)), keys=0)


def after(seconds: float) -> Any:
    """To the second, and not before."""
    return pytest.approx(seconds + 0.5, abs=0.5)


def ask(*rooms: Room, **load: float) -> Capacity:
    return capacity_of("p", "m", rooms, **load)


@pytest.mark.parametrize(
    ("rooms", "rate", "dry_in", "limit"),
    [
        ([account(day(100))], 6, 1000, "rpd"),
        ([account(day(100, NEVER, (900.0, 40, 0)))], 6, 600, "rpd"),
        # 40 more from 300 s on, in time.
        ([account(day(100, NEVER, (300.0, 40, 0)))], 6, 1000, "rpd"),
        ([account(day(100, NEVER, (599.0, 40, 0)))], 6, 1000, "rpd"),
        ([account(day(100, NEVER, (300.0, 20, 0), (500.0, 20, 0)))], 6, 1000, "rpd"),
        ([account(day(NEVER, 10_000))], 6, 1000, "tpd"),
        ([account(day(NEVER, 10_000, (900.0, 0, 4000)))], 6, 600, "tpd"),
        ([account(hour(100))], 3, 2000, "rph"),
        ([account(hour(NEVER, 10_000))], 3, 2000, "tph"),
        # What a window lets through for longer than its time is its limit again and again.
        ([account(hour(60))], 1, None, None),
        ([account(hour(60), day(1440))], 1, None, None),
        ([account(hour(60), day(900))], 1, 54_000, "rpd"),
        ([account(minute(10))], 10, None, None),
        ([account(minute(10))], 12, 50, "rpm"),
        ([account(minute(10, NEVER, (50.0, 8, 800)))], 9, 13.3, "rpm"),
        ([account(minute(NEVER, 1000, (50.0, 8, 800)))], 9, 13.3, "tpm"),
        ([account(minute(10, NEVER, (16.0, 8, 800)))], 9, 13.3, "rpm"),
        ([account(minute(10, NEVER, (12.0, 8, 800)))], 9, None, None),
        ([account(minute(30, NEVER, (6.0, 29, 0)))], 27, 2.2, "rpm"),
        # What was just used is still in the window when the window is over.
        ([account(minute(100, NEVER, (60.0, 42, 0)))], 60, 58, "rpm"),
        # All that is used leaves the window before the load is short.
        ([account(day(100, NEVER, (400.0, 100, 0))), account(day(50))], 6, 1500, "rpd"),
        ([account(day(100, NEVER, (501.0, 100, 0))), account(day(50))], 6, 500, "rpd"),
        # An account that opens later.
        ([account(day(100)), account(day(100), closed=500.0)], 6, 2000, "rpd"),
        ([account(day(100)), account(day(100), closed=1000.0)], 6, 2000, "rpd"),
        ([account(day(100)), account(day(100), closed=1001.0)], 6, 1000, "rpd"),
        ([account(minute(10)), account(minute(10), closed=30.0)], 15, None, None),
        ([account(minute(10)), account(minute(10), closed=120.0)], 15, 40, "rpm"),
        ([account(day(1000)), account(minute(10), closed=3600.0)], 12, 12_000, "rpd"),
        # Nothing is free now.
        ([account(day(100, NEVER, (0.5, 100, 0)))], 6, 0, "rpd"),
        ([account(minute(10, NEVER, (0.5, 10, 0)), day(5, NEVER, (900.0, 5, 0)))], 6, 0, "rpm"),
        ([account(day(100), closed=5.0)], 6, 0, None),
        ([account(day(100), keys=0)], 6, 0, None),
        ([account(day(100, NEVER, (900.0, 100, 0)))], 6, 0, "rpd"),
        ([account(day(100, NEVER, (900.0, 120, 0)))], 6, 0, "rpd"),
        ([account(day(NEVER, 10_000, (900.0, 0, 9901)))], 6, 0, "tpd"),
        ([account(day(NEVER, 10_000, (900.0, 0, 9900)))], 6, 10, "tpd"),
        ([], 6, 0, None),
        # Calendar days.
        ([account(today(100, NEVER, 3600.0, 40))], 6, 600, "rpd"),
        ([account(today(1000, NEVER, 3600.0, 600))], 6, 13_600, "rpd"),
        ([account(today(NEVER, 100_000, 3600.0, 0, 60_000))], 6, 13_600, "tpd"),
        ([account(today(8290, NEVER, 3600.0, 600))], 6, None, None),
        ([account(today(8280, NEVER, 3600.0, 600))], 6, None, None),
        ([account(today(8270, NEVER, 3600.0, 600))], 6, 86_300, "rpd"),
        ([account(today(1000, NEVER, 3600.0)), account(today(1000, NEVER, 1800.0))], 6, 21_800, "rpd"),
        # A key that is still closed when the day begins.
        ([account(today(100, NEVER, 100.0)), account(day(100), closed=900.0)], 6, 2100, "rpd"),
        # What is used of other windows goes on.
        ([account(today(1000, NEVER, 100.0), day(20, NEVER, (400.0, 5, 0)))], 6, 250, "rpd"),
        ([account(today(1000, NEVER, 100.0), day(20, NEVER, (200.0, 5, 0)))], 6, 300, "rpd"),
        # The limit that stops most of the accounts.
        ([account(day(100)), account(day(NEVER, 10_000)), account(day(NEVER, 10_000))], 6, 3000, "tpd"),
        ([account(day(100), minute(30)), account(day(100), minute(30)), account(hour(100))], 6, 3000, "rpd"),
        ([account(minute(NEVER, 2000), day(100))], 6, 1000, "rpd"),
        # No limits.
        ([account()], 6, None, None),
        ([account(), account(day(100))], 6, None, None),
    ],
)  # fmt: skip
def test_when_a_load_runs_dry(rooms: Sequence[Room], rate: int, dry_in: float | None, limit: str | None) -> None:
    found = ask(*rooms, lately(rate))
    assert (found.rate, found.tokens, found.limit) == (rate, 100, limit)
    assert found.dry_in == (after(dry_in) if dry_in else dry_in)


@pytest.mark.parametrize(
    ("rooms", "rate", "tokens"),
    [
        # An entry of the hour stands for a minute, on average half a minute more than it says.
        ([account(hour(100, NEVER, (HOUR - 600, 21, 4200)))], 2, 200),
        ([account(hour(100, NEVER, (HOUR - 600, 11, 1000), (HOUR - 5, 10, 3200)))], 2, 200),
        ([account(hour(100, NEVER, (HOUR - 600, 11, 1000))), account(hour(NEVER, 9, (HOUR - 5, 10, 3200)))], 2, 200),
        ([account(hour(100, NEVER, (10.0, 120, 1200)))], 2, 10),
        ([account(hour(100, NEVER, (HOUR, 5, 50)))], 5, 10),
        # The hour comes first.
        ([account(minute(9, 9, (50.0, 7, 70)), hour(9, 9, (HOUR, 5, 100)), day(9, 9, (DAY, 9, 90)))], 5, 20),
        # An entry of the day stands for a quarter of an hour.
        ([account(minute(9, 9, (50.0, 7, 70)), day(9, 9, (DAY - 1350, 60, 600)))], 2, 10),
        ([account(day(9, 9, (1000.0, 500, 1), (DAY - HOUR, 500, 1), (DAY - 1350, 60, 600)))], 2, 10),
        ([account(minute(9, 9, (5.0, 4, 70), (50.0, 3, 70)))], 7, 20),
        # A calendar day does not say when.
        ([account(today(100, 1000, 3600.0, 50, 500))], 0, 0),
        ([account(hour(100))], 0, 0),
        ([], 0, 0),
    ],
)
def test_the_load_of_the_last_hour(rooms: Sequence[Room], rate: float, tokens: float) -> None:
    found = ask(*rooms)
    assert (found.rate, found.tokens) == (pytest.approx(rate), pytest.approx(tokens))


@pytest.mark.parametrize(
    ("rooms", "within_minute", "within_hour", "within_day"),
    [
        (
            [account(minute(10, 1000, (50.0, 4, 300)))],
            Left(6, 700),
            Left(600, 60_000),
            Left(14_400, 1_440_000),
        ),
        ([account(minute(10, 1000, (50.0, 2, 700)))], Left(3, 300), Left(600, 60_000), Left(14_400, 1_440_000)),
        (
            [account(minute(10, 1000, (9.0, 9, 1), (50.0, 3, 1300)))],
            Left(0, 0),
            Left(600, 60_000),
            Left(14_400, 1_440_000),
        ),
        (
            [account(hour(50, 3000, (9.0, 10, 1000)), day(200, 30_000))],
            Left(20, 2000),
            Left(20, 2000),
            Left(200, 30_000),
        ),
        # Those that are alike, and those that are not.
        ([account(day(7))] * 3 + [account(day(5), closed=1.0)], Left(26, None), Left(26, None), Left(26, None)),
        ([account(day(7)), account(day(5), keys=0)], Left(7, None), Left(7, None), Left(7, None)),
        ([account(day(7)), account(minute(5), keys=2)], Left(12, None), Left(307, None), Left(7207, None)),
        # What an account is closed for.
        ([account(minute(10), closed=59.0)], Left(10, None), Left(590, None), Left(14_390, None)),
        ([account(minute(10), closed=60.0)], Left(0, 0), Left(590, None), Left(14_390, None)),
        # Until the day ends.
        ([account(minute(10), today(9000, NEVER, 1800.0))], Left(10, None), Left(300, None), Left(300, None)),
        ([account(minute(10), today(90, NEVER, 1800.0, 40))], Left(10, None), Left(50, None), Left(50, None)),
        ([account(minute(600), today(90, NEVER, 1800.0), closed=1900.0)], Left(0, 0), Left(0, None), Left(0, None)),
        ([account()], Left(None, None), Left(None, None), Left(None, None)),
    ],
)  # fmt: skip
def test_what_is_left_of_limits(
    rooms: Sequence[Room], within_minute: Left, within_hour: Left, within_day: Left
) -> None:
    found = ask(*rooms, lately(1))
    assert (found.minute, found.hour, found.day) == (within_minute, within_hour, within_day)


def test_without_a_mean_tokens_limit_no_requests() -> None:
    found = ask(account(minute(10, 1000)), rate=12)
    assert found.minute == Left(10, 1000)
    assert found.needs is not None
    assert found.needs.dry_in == after(50)


@pytest.mark.parametrize(
    ("rooms", "load", "needs"),
    [
        (
            [account(minute(10, 4000), hour(100)), account(minute(20, 2000), hour(300))],
            {"rate": 8.5, "tokens": 150},
            Needs(
                8.5,
                150,
                [LimitNeed("rpm", 9, 30), LimitNeed("tpm", 1275, 6000), LimitNeed("rph", 510, 400)],
                1,
                after(2823.5),
            ),
        ),
        ([account(day(100))] * 2, {"rate": 1}, Needs(1, 100, [LimitNeed("rpd", 1440, 200)], 13, after(12_000))),
        # Half a key more is one.
        ([account(day(100))] * 2, {"rate": 0.2}, Needs(0.2, 100, [LimitNeed("rpd", 288, 200)], 1, after(60_000))),
        ([account(day(144))] * 2, {"rate": 0.2}, Needs(0.2, 100, [LimitNeed("rpd", 288, 288)], 0, None)),
        ([account(day(NEVER, 1000))], {"tokens": 1}, Needs(3, 1, [LimitNeed("tpd", 4320, 1000)], 4, after(20_000))),
        # Dead keys have nothing; one without a limit has enough.
        (
            [account(day(100)), account(day(100), hour(7), keys=0)],
            {"rate": 0.2},
            Needs(0.2, 100, [LimitNeed("rpd", 288, 100)], 2, after(30_000)),
        ),
        ([account(minute(9)), account(minute(NEVER))], {"rate": 50}, Needs(50, 100, [], 0, None)),
        ([account(minute(9)), account(day(9))], {"rate": 50}, Needs(50, 100, [], 0, after(21.6))),
        ([account(minute(9), keys=0)], {"rate": 50}, Needs(50, 100, [LimitNeed("rpm", 50, 0)], None, 0)),
        (
            [account(minute(0), day(9))],
            {"rate": 0},
            Needs(0, 100, [LimitNeed("rpm", 0, 0), LimitNeed("rpd", 0, 9)], 0, None),
        ),
    ],
)  # fmt: skip
def test_what_a_load_needs_of_limits(rooms: Sequence[Room], load: dict[str, float], needs: Needs) -> None:
    assert ask(*rooms, lately(3), **load).needs == needs


def test_nothing_is_needed_of_nobody() -> None:
    assert ask(account(minute(9))).needs is None


def test_an_hour_that_no_limit_counts_is_counted() -> None:
    for limits in (Limits(rph=5), Limits(tph=5), Limits(tph=0, rpd=3)):
        assert counting_hours(limits) == limits
    for limits in (None, Limits(), Limits(rpm=3, tpd=9)):
        assert counting_hours(limits).rph
