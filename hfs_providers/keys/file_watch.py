"""Files that are read again while the program runs. One thread reads all of them; without files there is no thread.

A change counts when two reads, `INTERVAL` apart, have found the same: a file may be written bit by bit, or be missing
for a moment while it is replaced. Files are read whole each time, because some file systems record the time of a change
only to the second.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.keys.key_files import PrivateFile, read_private_file

INTERVAL = 0.5
"""Seconds between two reads of a file."""

_log = logging.getLogger("hfs_providers")


class FileWatch:
    """A file that is read again and again, until `close`.

    Args:
        path: absolute.
        changed: called in the watching thread with the content of the file: soon after the start, and after each
            change. If it returns False, it is called again soon.
    """

    def __init__(self, path: str, changed: Callable[[PrivateFile], bool]) -> None:
        self._path = path
        self._changed = changed
        self._seen: PrivateFile | None = None
        self._known: PrivateFile | None = None
        # Reentrant: `changed` may close the watch.
        self._lock = threading.RLock()
        self._closed = False
        at_fork(ForkPhase.WATCHES, child=self._after_fork_in_child)
        _watching.add(self)

    def look(self) -> None:
        """Read the file once. The watching thread does it again and again."""
        found = read_private_file(self._path)
        with self._lock:
            if found == self._seen and found != self._known and not self._closed:
                try:
                    done = self._changed(found)
                except Exception:
                    # Another call would only fail again.
                    _log.exception("a change of %s could not be applied", self._path)
                    done = True
                self._known = found if done else self._known
            self._seen = found

    def close(self) -> None:
        """Stop calling `changed`. Waits until a running call has returned."""
        with self._lock:
            self._closed = True
        _watching.remove(self)

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        if not self._closed:
            _watching.add(self)


class _Watching:
    """The watches of this process, and their thread."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._watches: tuple[FileWatch, ...] = ()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def add(self, watch: FileWatch) -> None:
        with self._lock:
            self._watches = (*self._watches, watch)
            if self._thread is None:
                self._stop = threading.Event()
                self._thread = threading.Thread(target=self._run, args=(self._stop,), name="hfs-files", daemon=True)
                self._thread.start()

    def remove(self, watch: FileWatch) -> None:
        with self._lock:
            self._watches = tuple(each for each in self._watches if each is not watch)
            if not self._watches:
                self._stop.set()
                self._thread = None

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            for watch in self._watches:
                watch.look()
            stop.wait(INTERVAL)


_watching = _Watching()
# Before the watches add themselves again: the parent's thread is not here.
at_fork(ForkPhase.WATCHES, child=_watching.reset)
