"""Judges what a library did: what was right and what was not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.verdicts.bodies import Body
from benchmarks.verdicts.talk import DEAD, Outcome

_BRIEF, _LONG = 60.0, 600.0


@dataclass(frozen=True)
class Judged:
    """The misses of one library with one error.

    Args:
        key, call, model: what it did wrong with each, or empty.
        offered: whether the library is tried with this provider.
    """

    key: str = ""
    call: str = ""
    model: str = ""
    offered: bool = True

    @property
    def misses(self) -> list[str]:
        return [f"{part}: {text}" for part in ("key", "call", "model") if (text := getattr(self, part))]


def judged(
    body: Body, outcome: Outcome, asked: Sequence[tuple[str, str]], models: Sequence[str], *, falls_back: bool = True
) -> Judged:
    """Compare what a library did with the right behaviour.

    Args:
        asked: key and model of each request that the provider saw.
        models: the requested model, and the one to fall back to.
        falls_back: whether the library can fall back to another model at all.
    """
    if not outcome.offered:
        return Judged(offered=False)
    if not asked:
        return Judged(call=f"nothing was sent ({outcome.error or 'no error'})")
    return Judged(
        _key(body, outcome, asked[0][0]),
        _call(body, outcome, asked, models, falls_back),
        _model(body, outcome, asked, models, falls_back),
    )


def _key(body: Body, outcome: Outcome, at_fault: str) -> str:
    rest, elsewhere = outcome.rests.get(at_fault, [0.0, 0.0])
    stated = body.seconds
    right = {
        "keep": rest == 0,
        "brief": rest <= _BRIEF,
        "rest": 0.9 * (stated or 0.0) <= rest <= (stated or 0.0) + _LONG * 6 and rest > 0,
        "spare": rest < _LONG,
        "drop": rest >= _LONG,
        "other": elsewhere == 0,
    }[body.key]
    if right:
        return ""
    if body.key == "rest" and stated is not None and 0 < rest < stated:
        return f"not used for {_time(rest)} instead of {_time(stated)}"
    if rest == 0 and body.key != "other":
        return "used again at once"
    return "never used again" if rest >= DEAD else f"not used for {_time(rest)}"


def _call(
    body: Body, outcome: Outcome, asked: Sequence[tuple[str, str]], models: Sequence[str], falls_back: bool
) -> str:
    counts = Counter(asked)
    at_fault = asked[0][0]
    if body.call == "raise":
        return "" if len(asked) == 1 else f"{len(asked)} requests"
    if body.call == "no repeat":
        times = sum(number for (_, model), number in counts.items() if model == models[0])
        return "" if times == 1 else f"{times} requests for the same model"
    if not outcome.answered and (body.call in ("other key", "again") or (body.call == "fall back" and falls_back)):
        return "raised an error"
    if body.call == "fall back":
        times = max(number for (_, model), number in counts.items() if model == models[0])
        return "" if times == 1 else f"{times} requests with one key"
    if body.call == "other key":
        everywhere = body.fault == "key"
        times = sum(n for (key, model), n in counts.items() if key == at_fault and (everywhere or model == models[0]))
        return "" if times == 1 else f"{times} requests with the refused key"
    return ""


def _model(
    body: Body, outcome: Outcome, asked: Sequence[tuple[str, str]], models: Sequence[str], falls_back: bool
) -> str:
    if not falls_back or body.model == "any":
        return ""
    if body.model == "none":
        return "" if all(model == models[0] for _, model in asked) else "the other model was asked too"
    if not outcome.answered:
        # The error is a miss of the call.
        return ""
    answering = asked[-1][1]
    if body.model == "same" and answering != models[0]:
        return "answered by the other model"
    return ""


def _time(seconds: float) -> str:
    if seconds >= 2 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
