"""Records rows until it is killed: `python -m tests.fleet.recorder FILE`.

Before each row it says on stdout which it will be, and when: `NUMBER SECONDS`, in monotonic seconds.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from hfs_providers.usage import UsageRow
from hfs_providers.usage.database import Store
from hfs_providers.usage.log import UsageLog


def main() -> None:
    log = UsageLog(Store(Path(sys.argv[1])))
    number = 0
    while True:
        number += 1
        os.write(1, f"{number} {time.monotonic()}\n".encode())
        log.record(UsageRow(time.time(), "groq", "m", "groq#1", str(os.getpid()), 0, 0, number, 0.1, "ok", 0))
        time.sleep(0.0005)


if __name__ == "__main__":
    main()
