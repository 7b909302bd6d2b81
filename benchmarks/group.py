"""One group of measurements in a process of its own: `python -m benchmarks.group NAME FILE [--quick]`.

So no group is affected by what another left in memory, and one that fails or hangs costs only its own rows.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import Effort


@dataclass(frozen=True)
class Group:
    """Measurements that are taken together.

    Args:
        function: as `module:function`.
        rows: the prefix of the ids of its rows.
    """

    function: str
    rows: tuple[str, ...]


GROUPS = {
    "calls": Group("benchmarks.calls:sync_calls", ("call.",)),
    "throughput": Group("benchmarks.calls:throughput", ("throughput.",)),
    "streams": Group("benchmarks.calls:first_chunks", ("first_chunk.",)),
    "pool": Group("benchmarks.pool:pools", ("pool.", "verdict")),
    "affinity": Group("benchmarks.affinity:affinity", ("affinity.",)),
    "past": Group("benchmarks.waiting:past_refused_keys", ("past.",)),
    "budgets": Group("benchmarks.budgets:budgets", ("budget.",)),
    "gap": Group("benchmarks.waiting:gap", ("gap",)),
    "imports": Group("benchmarks.imports:starts", ("import", "status")),
    "history": Group("benchmarks.imports:history", ("history",)),
    "key_file": Group("benchmarks.imports:key_file", ("key_file",)),
}


def main() -> None:
    """Measure, and write the results."""
    name, target, *options = sys.argv[1:]
    module, _, function = GROUPS[name].function.partition(":")
    found = getattr(importlib.import_module(module), function)(Effort("--quick" in options))
    Path(target).write_text(json.dumps([row.as_json() for row in found]))


if __name__ == "__main__":
    main()
