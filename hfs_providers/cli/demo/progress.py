"""What the demo says while it runs: a bar on a terminal, lines elsewhere, nothing where JSON is wanted."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from hfs_providers.cli import output


class Progress:
    """A context manager around the runs.

    Args:
        quiet: say nothing.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if not self._quiet and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Bar(*columns, console=output.console())
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def begin(self, name: str, total: int) -> None:
        """A scene of `total` runs begins."""
        if self._bar is not None:
            self._task = self._bar.add_task(name, total=total)
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
