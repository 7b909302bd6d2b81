"""Timing that survives a busy machine: contenders take turns, rounds are paired, medians are taken."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

Samples = dict[str, list[list[float]]]
"""Seconds of each call, by contender and round."""


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Args:
        quick: rough figures rather than a measurement.
    """

    quick: bool = False

    def of(self, full: float, quick: float) -> float:
        """One or the other."""
        return quick if self.quick else full

    def count(self, full: int, quick: int) -> int:
        """One or the other."""
        return quick if self.quick else full


def rounds(seconds: float, least: int) -> Iterator[int]:
    """Number rounds until `seconds` have passed and `least` rounds are done; three times as long at the very most."""
    begin = time.perf_counter()
    number = 0
    while True:
        spent = time.perf_counter() - begin
        if (spent >= seconds and number >= least) or spent >= 3 * seconds:
            return
        yield number
        number += 1


def take_turns(
    contenders: Mapping[str, Callable[[], float]], seconds: float, *, least: int = 8, calls: int = 20
) -> Samples:
    """Let contenders call in turn, so that a disturbance of the machine affects all of them.

    Args:
        contenders: by name; each makes one call and returns its seconds.
        seconds: how long to continue.
        least: the fewest rounds.
        calls: of each contender in a round.
    """
    samples: Samples = {name: [] for name in contenders}
    for number in rounds(seconds, least):
        # The one that always came first would find the caches as the last one left them.
        order = rotated(list(contenders), number)
        for name in order:
            samples[name].append([])
        for _ in range(calls):
            for name in order:
                samples[name][-1].append(contenders[name]())
    return samples


def rotated(names: Sequence[str], by: int) -> list[str]:
    """The names, beginning with another one each time."""
    start = by % len(names)
    return [*names[start:], *names[:start]]


def middle(samples: Sequence[Sequence[float]]) -> float:
    """The median of all samples."""
    return statistics.median([seconds for one in samples for seconds in one])


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def ratio(samples: Samples, name: str, to: str) -> tuple[float, float, float]:
    """The time of `name` relative to that of `to`: the ratio of medians, and the quartiles of the rounds' ratios."""
    pairs = zip(samples[name], samples[to], strict=True)
    each = [statistics.median(mine) / statistics.median(theirs) for mine, theirs in pairs]
    return (middle(samples[name]) / middle(samples[to]), *quartiles(each))


def per_call(call: Callable[[], object], *, calls: int, repeats: int) -> float:
    """Seconds of one call of something fast: the median of several loops, short enough that few are interrupted."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        found.append((time.perf_counter() - begin) / calls)
    return statistics.median(found)


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of this one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
