"""A worker of a fleet, which asks by a gateway of its own: `python -m tests.gateway.soak.worker SECONDS`.

It says `ready`, waits for a line on stdin, asks for that many seconds by several connections, and prints what came of
it as one line of JSON.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
import time
from collections import Counter

import httpx

_CONNECTIONS = 4
_PAUSE = 0.05
"""Seconds after which a connection that got no key asks again."""


def main() -> None:
    seconds = float(sys.argv[1])
    endings: Counter[str] = Counter()
    command = [sys.executable, "-m", "hfs_providers", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = shlex.split(process.stdout.readline())[1]
        print("ready", flush=True)
        sys.stdin.readline()
        threads = [threading.Thread(target=_ask, args=(url, seconds, endings)) for _ in range(_CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        process.terminate()
    print(json.dumps({"endings": endings, "problems": []}), flush=True)


def _ask(url: str, seconds: float, endings: Counter[str]) -> None:
    body = {"model": "groq", "messages": [{"role": "user", "content": "hello"}]}
    end = time.monotonic() + seconds
    with httpx.Client(timeout=60) as client:
        while time.monotonic() < end:
            answer = client.post(url, json=body)
            if answer.status_code == 200:
                endings["answered"] += 1
            elif answer.status_code == 429 and answer.json()["error"]["code"] == "keys_exhausted":
                endings["exhausted"] += 1
                time.sleep(_PAUSE)
            else:
                endings[answer.text] += 1


if __name__ == "__main__":
    main()
