"""How the bench talks with a library in a process of its own: a line of JSON each way.

It imports only the standard library.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

DEAD = 1e9
"""The seconds of rest of a key that is never used again."""


@dataclass(frozen=True)
class Setup:
    """One trial: a provider with two keys and two models, one of which answers an error.

    Args:
        provider: its name.
        base_url: of the simulated provider, as its own SDK takes it.
        keys: two.
        models: the wanted one, then the one to fall back to, whose window is larger.
    """

    provider: str
    base_url: str
    keys: list[str]
    models: list[str]


@dataclass
class Outcome:
    """What came of it.

    Args:
        answered: whether the call returned an answer.
        error: the class of the error that it raised.
        rests: by key, for how many seconds the library will not use it for each model.
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
