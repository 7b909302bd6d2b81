"""The soak, and the books that it is judged by.

The full one: `python -m tests.gateway.soak --requests 1000000`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.gateway.soak.books import Row, settle
from tests.gateway.soak.provider import FAULTS, Hit
from tests.gateway.soak.run import Plan, run
from tests.gateway.soak.turns import Turns, late
from tests.long import takes_long

OK = Hit(1, "groq", "a", "Ok", True)
LIMITED = Hit(1, "groq", "b", "RateLimited", False)


@takes_long
def test_twenty_thousand_requests() -> None:
    # A busy disk may keep the writer of rows waiting as well.
    report = run(Plan(20_000, seconds=50, at_risk=1.0))
    assert report.wrong == [], report
    # It was one: each kind of ending and of fault is there.
    assert {"answer", "error", "interrupted", "refused", "left", "cut"} == set(report.endings), report
    faults = {type(fault(random.Random(1))).__name__ for _, fault in FAULTS}
    assert set(report.hits) == faults | {"PaymentRequired", "Unauthorized"}, report
    assert len(report.held) == 2


def wrong(
    hits: Sequence[Hit], rows: Sequence[Row], answers: Sequence[int] = (), left: set[int] | None = None
) -> list[str]:
    return settle(7, hits, rows, answers, left or set(), ())


def row(number: int, outcome: str = "ok", key: str = "a") -> Row:
    return Row("groq", key, number, outcome)


def test_books_that_fit() -> None:
    assert wrong([LIMITED, OK], [row(0, "rate_limited", "b"), row(8)], [8]) == []
    assert wrong([OK], [row(0, "abandoned")], left={1}) == []
    # A kill may cost rows of the requests that it cut off, and no others.
    assert settle(7, [OK], [], (), (), {1}) == []
    assert settle(7, [OK], [], [7], (), {2})


def test_what_does_not_fit_is_found() -> None:
    assert wrong([OK], [], [7])
    assert wrong([], [row(7)])
    assert wrong([OK], [row(7, key="b")], [7])
    assert wrong([OK, OK], [row(7), row(7)], [7, 8])
    assert wrong([OK], [row(7)])
    assert wrong([OK], [row(0, "abandoned")], [7], {1})
    assert wrong([LIMITED], [row(7, key="b")])
    assert wrong([LIMITED], [row(0, "dead", "b")])
    assert wrong([OK], [row(0, "abandoned")])


def test_a_row_may_be_late_where_threads_get_no_turn(tmp_path: Path) -> None:
    turns = Turns(tmp_path / "turns")
    turns.note(10.0, 0.0)
    assert late(tmp_path / "turns", now=10.02) == 0.0
    turns.note(10.32, 0.3)
    turns.note(10.36, 0.02)
    assert late(tmp_path / "turns", now=10.38) == pytest.approx(4 * 0.3)
    # It has not come back since.
    assert late(tmp_path / "turns", now=10.88) == pytest.approx(4 * 0.5)
