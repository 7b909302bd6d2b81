"""The communication between the bench and a library in its own process: one line of JSON each way.

It imports only the standard library.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

DEAD = 1e9
"""Stands for the rest of a key that is never used again, in seconds."""


@dataclass(frozen=True)
class Setup:
    """One trial: a provider with two keys and two models, and an error that it answers with.

    Args:
        provider: its name.
        base_url: the simulated provider's, in the form that its SDK accepts.
        keys: two.
        models: the requested model, then the one to fall back to, with a larger window.
    """

    provider: str
    base_url: str
    keys: list[str]
    models: list[str]


@dataclass
class Outcome:
    """The outcome of one trial.

    Args:
        answered: whether the call returned an answer.
        error: the class of the error that it raised.
        rests: by key, the seconds for which the library will not use it, for each model.
        offered: whether the library is tried with this provider.
    """

    answered: bool = False
    error: str = ""
    rests: dict[str, list[float]] = field(default_factory=dict)
    offered: bool = True


def serve(trial: Callable[[Setup], Outcome]) -> None:
    """Answer each line on stdin until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    # Libraries log to the console.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for line in sys.stdin:
        print(json.dumps(asdict(trial(Setup(**json.loads(line))))), file=answers, flush=True)
