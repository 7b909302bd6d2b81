"""How late a thread of a process gets its turn: a busy machine keeps nobody's times."""

from __future__ import annotations

import threading
import time
from collections import deque
from pathlib import Path

_PAUSE = 0.02
_RECENT = 100
# A row may have to wait for the end of a write, which takes two, for the writer to wake up, and for its own write.
_OF_A_ROW = 4


class Turns:
    """A thread that only sleeps, as the writer of rows mostly does, and notes how late it woke up of late.

    Args:
        path: where it notes that, so that it is known of a process that was killed.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self._late: deque[float] = deque(maxlen=_RECENT)

    def start(self) -> None:
        """Begin, until the process ends."""
        self.note(time.time(), 0.0)
        threading.Thread(target=self._run, daemon=True).start()

    def note(self, at: float, late: float) -> None:
        """It woke up, at seconds since the epoch, so many seconds late."""
        self._late.append(late)
        # In one call, and as long as what it replaces.
        with self._path.open("r+b", buffering=0) as file:
            file.write(b"%20.6f %20.6f" % (at, max(self._late)))

    def _run(self) -> None:
        while True:
            due = time.time() + _PAUSE
            time.sleep(_PAUSE)
            now = time.time()
            self.note(now, now - due)


def late(path: Path, now: float) -> float:
    """Seconds by which a row may have come later than on an idle machine, from what a process noted until now."""
    at, longest = map(float, path.read_bytes().split())
    return _OF_A_ROW * max(0.0, longest, now - at - _PAUSE)
