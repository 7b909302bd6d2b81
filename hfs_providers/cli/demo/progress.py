"""What the demo says while it runs: a bar on a terminal, lines elsewhere, nothing where JSON is wanted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hfs_providers.cli import output


class Progress:
    """How the runs go. Args: quiet: say nothing."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar while the runs last."""
        shown = not self._quiet and sys.stdout.isatty()
        with output.progress(shown) as bar:
            self._bar = bar if shown else None
            try:
                yield
            finally:
                self._bar = None

    def begin(self, name: str, total: int) -> None:
        """A scene of `total` runs begins."""
        if self._bar is not None:
            self._task = self._bar.add_task(f"{name:<28}", total=total)
        else:
            self.say(f"{name}: {total} {'run' if total == 1 else 'runs'}")

    def advance(self) -> None:
        """One run of the scene is over."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(line, soft_wrap=True)
        else:
            print(line, flush=True)
