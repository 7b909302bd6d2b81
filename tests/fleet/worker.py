"""One process of a fleet: `python -m tests.fleet.worker SECONDS`, configured by its environment alone.

It says `ready`, waits for a line on stdin, calls for that many seconds, and prints what came of it as one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

from agno.models.message import Message

from hfs_providers import KeysExhaustedError, ProviderManager

_PAUSE = 0.1
"""Seconds, at most, after which a worker that got no key asks again."""


def main() -> None:
    seconds = float(sys.argv[1])
    endings: Counter[str] = Counter()
    with ProviderManager() as manager:
        model = manager.get_model("groq", timeout=1.0, max_retries=0)
        print("ready", flush=True)
        sys.stdin.readline()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                model.response(messages=[Message(role="user", content="hello")])
            except KeysExhaustedError as error:
                endings["exhausted"] += 1
                time.sleep(min(_PAUSE, error.free_in or _PAUSE))
            except Exception as error:
                endings[f"{type(error).__name__}: {error}"] += 1
            else:
                endings["answered"] += 1
        problems = [problem.message for problem in manager.problems]
    print(json.dumps({"endings": endings, "problems": problems}), flush=True)


if __name__ == "__main__":
    main()
