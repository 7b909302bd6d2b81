"""Records rows until it is killed: `python -m tests.fleet.recorder FILE`.

Before each row it says on stdout which it will be, and when: `NUMBER SECONDS`, in seconds since the epoch. How late its
threads get their turns is in FILE.turns.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from hfs_providers.usage import UsageRow
from hfs_providers.usage.database import Store
from hfs_providers.usage.log import UsageLog
from tests.turns import Turns


def main() -> None:
    path = Path(sys.argv[1])
    Turns(path.with_suffix(".turns")).start()
    log = UsageLog(Store(path))
    number = 0
    while True:
        number += 1
        os.write(1, f"{number} {time.time()}\n".encode())
        log.record(UsageRow(time.time(), "groq", "m", "groq#1", str(os.getpid()), 0, 0, number, 0.1, "ok", 0))
        time.sleep(0.0005)


if __name__ == "__main__":
    main()
