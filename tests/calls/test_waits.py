"""Waiting times and limits, as the providers write them and as nobody should."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfs_providers.calls import retry_pauses
from hfs_providers.calls.retry_after import (
    MAX_WAIT,
    NOT_A_WAIT,
    limits_from_headers,
    lower_headers,
    parse_duration,
    parse_reset,
    parse_retry_after,
    wait_from_headers,
    wait_in,
)
from hfs_providers.contract.records import Limits

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC).timestamp()

GROQ = {"x-ratelimit-limit-requests": "rpd", "x-ratelimit-limit-tokens": "tpm"}

GARBAGE = ["", " ", "-1", "-0.5", "nan", "NaN", "inf", "-inf", "1e3", "0x10", "1_000", "soon", "s", "5 s", "٣", "1.2.3"]


def at(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(NOW + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("3", 3.0),
        ("0.25", 0.25),
        (" 7 ", 7.0),
        ("120ms", 0.12),
        ("500ns", 5e-7),
        ("7.66s", 7.66),
        ("1m2.5s", 62.5),
        ("7m12s", 432.0),
        ("2m59.56s", 179.56),
        ("1h2m", 3720.0),
        ("1h0m0.5s", 3600.5),
        ("1d", 86_400.0),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("34.074824224s", 34.074824224),
        (5, 5.0),
        (1.5, 1.5),
        (b"2", 2.0),
    ],
)
def test_a_duration_is_a_number_or_as_go_writes_it(text: Any, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [*GARBAGE, None, True, [], {}, object(), float("nan"), float("inf"), -1, 10**400])
def test_what_is_no_duration_is_no_evidence(text: object) -> None:
    assert parse_duration(text) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("86400", 86_400.0),
        ("86401", 86_400.0),
        ("720h", 86_400.0),
        ("2678399", 86_400.0),
        ("2678400", None),
        (str(int(NOT_A_WAIT)), None),
        (str(int(NOW)), None),
        ("9" * 300, None),
    ],
)
def test_a_long_wait_is_a_day_and_one_of_a_month_is_garbage(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds
    assert parse_retry_after(text, NOW) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2", 2.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (at(90), 90.0),
        (at(-90), 0.0),
        (at(2 * 86_400), 86_400.0),
        (at(60 * 86_400), None),
        ("Saturday, 21-Nov-26 12:01:00 GMT", 60.0),
        ("Sat Nov 21 12:01:00 2026", 60.0),
        ("Sat, 21 Nov 2026 13:01:00 +0100", 60.0),
        ("3, 10", 10.0),
        ("3, soon", 3.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds


@pytest.mark.parametrize(
    "text", [*GARBAGE, None, "Sat, 99 Nov 2026 12:00:00 GMT", ":", "12:00", "Sat, 21 Nov 999999 1:1:1"]
)
def test_a_retry_after_that_cannot_be_read_is_no_evidence(text: object) -> None:
    assert parse_retry_after(text, NOW) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (str(int(NOW) + 60), 60.0),
        (str((int(NOW) + 60) * 1000), 60.0),
        (str(int(NOW) - 60), 0.0),
        (str((int(NOW) + 90_000) * 1000), 86_400.0),
        ("999999999", None),
        ("1000000000", 0.0),
        ("99999999999", None),
        ("100000000000", 0.0),
        ("33011.382867", 33011.382867),
        ("1m26.4s", 86.4),
        ("12", 12.0),
        ("soon", None),
        ("-5", None),
    ],
)
def test_a_reset_is_a_duration_seconds_or_an_epoch_of_seconds_or_milliseconds(text: str, seconds: float | None) -> None:
    assert parse_reset(text, NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "2", "x-ratelimit-reset-requests": "1h"}, 2.0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after": "soon", "x-ratelimit-reset-tokens": "3s"}, 3.0),
        ({"x-ratelimit-reset-requests": "1m", "x-ratelimit-reset-tokens": "2m"}, 120.0),
        (
            {
                "x-ratelimit-reset-requests": "1h",
                "x-ratelimit-remaining-requests": "12",
                "x-ratelimit-reset-tokens": "7.66s",
                "x-ratelimit-remaining-tokens": "0",
            },
            7.66,
        ),
        ({"x-ratelimit-reset-requests": "1h", "x-ratelimit-remaining-requests": "12"}, None),
        ({"x-ratelimit-reset-tokens-minute": "11.38", "x-ratelimit-remaining-tokens-minute": "0"}, 11.38),
        ({"X-RateLimit-Reset": str((int(NOW) + 30) * 1000), "X-RateLimit-Remaining": "0"}, 30.0),
        ({"X-RateLimit-Reset": str((int(NOW) + 30) * 1000), "X-RateLimit-Remaining": "3"}, None),
        ({"x-ratelimit-reset-requests": "-1s"}, None),
        ({"x-ratelimit-reset": "9s", "x-ratelimit-remaining": ["3", "0"]}, 9.0),
        ({"x-ratelimit-reset": "9s", "x-ratelimit-remaining": ["3", "0.5"]}, None),
        ({"x-ratelimit-reset": ["9s", "soon", "7s"]}, 9.0),
        ({"llm_provider-retry-after-ms": "1500", "llm_provider-retry-after": "9"}, 1.5),
        ({"retry-after": "3", "llm_provider-retry-after-ms": "9000"}, 3.0),
        ({"llm_provider-retry-after": "3", "x-ratelimit-reset": "9s"}, 3.0),
        ({"retry-after": "0", "x-ratelimit-reset": "9s"}, 0.0),
        ({b"Retry-After": b"4"}, 4.0),
        ({"retry-after": ["4", "5"]}, 5.0),
    ],
)
def test_the_wait_of_an_answers_headers(headers: dict[Any, Any], seconds: float | None) -> None:
    assert wait_from_headers(headers, NOW) == pytest.approx(seconds)


def test_every_value_of_a_repeated_header_is_seen() -> None:
    headers = httpx.Headers([("Retry-After", "3"), ("retry-after", "8")])
    assert wait_from_headers(headers, NOW) == 8.0


def test_no_more_than_five_hundred_headers_are_read() -> None:
    headers = {f"x-{number}": "1" for number in range(499)} | {"retry-after": "3"}
    assert wait_from_headers(headers, NOW) == 3.0
    assert wait_from_headers({"x-first": "1"} | headers, NOW) is None


def test_no_more_than_256_characters_of_a_value_are_read() -> None:
    assert lower_headers({"x": "1" * 257, "y": b"1" * 257}) == {"x": ["1" * 256], "y": ["1" * 256]}


def test_headers_without_a_text_are_left_out() -> None:
    assert lower_headers({"": "3", "a": None, "b": [None, "4"], "c": 5, "d": True}) == {"b": ["4"], "c": ["5"]}


class Broken:
    def items(self) -> Any:
        yield "retry-after", "3"
        raise RuntimeError("gone")


@pytest.mark.parametrize("headers", [None, 3, "text", [], [("a", "b")], object(), {None: 1, 3: "x"}])
def test_what_are_no_headers_are_no_evidence(headers: object) -> None:
    assert wait_from_headers(headers, NOW) is None
    assert limits_from_headers(headers) is None


def test_headers_that_break_while_they_are_read_give_what_came_before() -> None:
    assert lower_headers(Broken()) == {"retry-after": ["3"]}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("34.074824224s", 34.074824224),
        ("0s", 0.0),
        (20, 20.0),
        ({"seconds": 34, "nanos": 500_000_000}, 34.5),
        ({"seconds": "34"}, 34.0),
        ({"nanos": 5}, 5e-9),
        ({"seconds": "x", "nanos": 5}, None),
        ({"seconds": 3, "nanos": None}, None),
        ("-3s", None),
        (None, None),
        ([], None),
    ],
)
def test_a_wait_in_a_body(value: object, seconds: float | None) -> None:
    assert wait_in(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        (
            {"x-ratelimit-limit-requests": "14400", "x-ratelimit-limit-tokens": "6000"},
            Limits(rpd=14_400, tpm=6000),
        ),
        (
            {"X-RateLimit-Limit-Requests-Day": "14400", "X-RateLimit-Limit-Tokens-Minute": "60000"},
            Limits(rpd=14_400, tpm=60_000),
        ),
        (
            {"x-ratelimit-limit-requests-minute": "30", "x-ratelimit-limit-tokens-day": "1000000"},
            Limits(rpm=30, tpd=10**6),
        ),
        ({"x-ratelimit-limit-tokens": "6000"}, Limits(tpm=6000)),
        ({"X-RateLimit-Limit": "50"}, None),
        ({"x-ratelimit-limit-requests": "many", "x-ratelimit-limit-tokens": "-1"}, None),
        ({"x-ratelimit-limit-requests": "0"}, None),
        ({"x-ratelimit-limit-requests": "1"}, Limits(rpd=1)),
        ({}, None),
    ],
)
def test_the_limits_that_an_answer_shows(headers: dict[str, str], limits: Limits | None) -> None:
    assert limits_from_headers(headers, GROQ) == limits
    assert limits_from_headers(httpx.Headers(headers), GROQ) == limits


def test_a_header_that_names_its_period_counts_before_one_that_the_plugin_explains() -> None:
    headers = {"x-ratelimit-limit-requests": "7", "x-ratelimit-limit-requests-day": "500"}
    assert limits_from_headers(headers, GROQ) == Limits(rpd=500)
    assert limits_from_headers({"x-ratelimit-limit-tokens": ["5", "9"]}, GROQ) == Limits(tpm=9)


def test_a_name_without_a_period_means_nothing_by_itself() -> None:
    assert limits_from_headers({"x-ratelimit-limit-requests": "60"}) is None


NAMES = st.sampled_from(
    ["retry-after", "Retry-After-Ms", "x-ratelimit-reset", "x-ratelimit-reset-tokens", "x-ratelimit-remaining", "x"]
)


TEXT = st.text("0123456789.:,-+ msheGMTnaif\x00é", max_size=30)


@settings(database=None, deadline=None)
@given(st.dictionaries(NAMES, st.one_of(TEXT, st.binary(max_size=20), st.integers(), st.floats(), st.lists(TEXT))))
def test_no_header_can_make_it_raise_or_wait_for_more_than_a_day(headers: dict[str, Any]) -> None:
    wait = wait_from_headers(headers, NOW)
    assert wait is None or 0 <= wait <= MAX_WAIT
    limits_from_headers(headers)


def test_a_number_that_is_no_header_s_is_no_text() -> None:
    assert lower_headers({"a": 10**18 - 1, "b": 10**18, "c": -(10**18), "d": 1 - 10**18}) == {
        "a": ["9" * 18],
        "b": [""],
        "c": [""],
        "d": ["-" + "9" * 18],
    }


@pytest.mark.parametrize(
    ("retry", "retry_after", "longest"),
    [(1, None, 0.5), (2, None, 1.0), (3, None, 2.0), (5, None, 8.0), (9, None, 8.0), (1, 3.0, 3.0), (9, 60.0, 8.0)],
)
def test_a_retry_waits_twice_as_long_each_time_and_at_least_as_the_provider_says(
    retry: int, retry_after: float | None, longest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[tuple[float, float]] = []
    monkeypatch.setattr(retry_pauses.random, "uniform", lambda *share: shares.append(share) or share[1])
    assert retry_pauses.retry_pause(retry, retry_after) == longest
    assert shares == [(0.5, 1.0)]


@pytest.mark.parametrize(
    ("refusals", "retry_after", "seconds"),
    [
        (0, None, 30.0),
        (5, None, 30.0),
        (0, 0.0, 0.1),
        (1, 0.0, 0.2),
        (3, 0.0, 0.8),
        (9, 0.0, 8.0),
        (1, 5.0, 5.0),
        (9, 60.0, 60.0),
    ],
)
def test_a_key_that_refuses_again_cools_down_for_longer(
    refusals: int, retry_after: float | None, seconds: float
) -> None:
    assert retry_pauses.key_cooldown(refusals, retry_after) == pytest.approx(seconds)
