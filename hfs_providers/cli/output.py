"""What the commands share: tables, JSON, error messages, logging.

Tables and JSON go to stdout, everything else to stderr. Rich is imported only where a table is drawn.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from hfs_providers.cli.table import Column
from hfs_providers.contract.environment import DEBUG

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

_AGNO_LOGGERS = ("agno", "agno-team", "agno-workflow")
_STYLES = {"ok": "green", "info": "cyan", "warning": "yellow", "error": "red"}
# A pipe has no width, and rich would cut to 80 columns.
_PIPE_WIDTH = 140
_NO_WIDTH = 1_000_000
# Characters that a finding's level takes, and the blanks after it.
_LEVEL = 9


def set_up_streams() -> None:
    """Print characters that the encoding lacks as escapes, and discard output to a stream that was closed at the start.

    Model ids, paths and providers' messages may hold any character.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  for as long as the process runs
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def set_up_logging(verbose: bool) -> None:
    """Send the library's log from INFO on to stderr, or discard it: the tables say the same."""
    _redirect("hfs_providers", verbose)
    if not logging.root.handlers:
        # Without a handler, Python prints warnings of SDKs to stderr.
        logging.root.addHandler(logging.NullHandler())


def set_up_agno_logging() -> None:
    """Keep Agno off stdout, which belongs to the answers: its log goes where the library's goes."""
    import agno.utils.log  # noqa: F401  the import puts Agno's handlers on, which are replaced here

    for name in _AGNO_LOGGERS:
        _redirect(name, logging.getLogger("hfs_providers").level == logging.INFO)


def log_to_stderr(*names: str) -> None:
    """Show the messages of these loggers: a server has no other output."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # On the handler, because a server may set its loggers' levels itself.
    handler.setLevel(logging.getLogger("hfs_providers").level)
    if not debugging():
        handler.addFilter(_drop_traceback)
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False


def _drop_traceback(record: logging.LogRecord) -> bool:
    # Agno logs one for all work that fails.
    record.exc_info = None
    return True


def _redirect(name: str, verbose: bool) -> None:
    logger = logging.getLogger(name)
    handler: logging.Handler = logging.NullHandler()
    if verbose:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False


def print_json(data: object) -> None:
    """Print `data` as JSON: two blanks of indent, keys in the order given."""
    # JSON's own escapes where the encoding would need them: those of Python are not JSON.
    whole = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    print(json.dumps(data, indent=2, ensure_ascii=not whole))


def note(message: str) -> None:
    """Print a line to stderr, after what stdout holds already."""
    sys.stdout.flush()
    print(message, file=sys.stderr)


def fail(message: str, remedy: str | None = None, code: int = 1) -> NoReturn:
    """End the command with a message on stderr, and the command or the variable that fixes it."""
    note(f"Error: {message}")
    if remedy:
        note(f"Remedy: {remedy}")
    raise typer.Exit(code)


def require_extra(extra: str, modules: Iterable[str]) -> None:
    """End the command unless the modules that an extra of this library brings are there."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        fail(f"{', '.join(missing)} {are} not installed", f"pip install 'hfs-providers[{extra}]'")


def debugging() -> bool:
    """Whether tracebacks are wanted: `HFS_DEBUG=1`."""
    return os.environ.get(DEBUG, "").strip() not in ("", "0")


def explain(error: Exception) -> int:
    """Print an exception as one line on stderr. Returns its exit code."""
    from hfs_providers import HfsProvidersError, UnknownProviderError

    if debugging():
        import traceback

        traceback.print_exception(error)
    elif isinstance(error, HfsProvidersError):
        note(f"Error: {error}")
    else:
        words = " ".join(str(error).split())
        note(f"Error: {type(error).__name__}: {words} ({DEBUG}=1 shows the traceback)")
    return 2 if isinstance(error, UnknownProviderError) else 1


def has_width() -> bool:
    """Whether the width of lines is limited: on a terminal, or by `COLUMNS`."""
    return sys.stdout.isatty() or "COLUMNS" in os.environ


def console() -> Console:
    """A rich console on which brackets and colons are only characters: `hfs-providers[groq]` is not markup."""
    from rich.console import Console

    width = None if has_width() else _PIPE_WIDTH
    return Console(file=sys.stdout, width=width, markup=False, emoji=False, highlight=False)


def progress(shown: bool, transient: bool = False) -> Progress:
    """A bar on stderr of what is done and what is left, to be used in a `with` block; nothing if it is not `shown`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Rich would take what is printed to stdout, and print it above the bar.
    return Progress(
        *columns, console=Console(stderr=True), transient=transient, redirect_stdout=False, disable=not shown
    )


def print_table(title: str | None, columns: Sequence[Column | str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table. A heading that begins with `>` is aligned to the right; the cells are as `cell` shows them."""
    from hfs_providers.cli import table

    cells = [[cell(value) for value in row] for row in rows]
    if title is not None:
        _print_lines([styled(title, "bold")])
    _print_lines(table.lines([Column.of(each) for each in columns], cells, _width()))


def _width() -> int:
    # What goes into a pipe is searched and cut by other programs: there every row is one line.
    return console().width if has_width() else _NO_WIDTH


def _print_lines(lines: Iterable[Text]) -> None:
    if has_width() or "FORCE_COLOR" in os.environ:
        out = console()
        for line in lines:
            out.print(line, soft_wrap=True)
    else:
        # Without colours there is nothing for rich's console to do, and it takes 20 ms to import.
        for line in lines:
            print(line.plain)


def cell(value: object) -> Text:
    """A value as a table cell: yes and no for booleans, `-` for None; text is printed unchanged."""
    from rich.text import Text

    if isinstance(value, Text):
        return value
    if value is None or value == "":
        return Text("-", style="dim")
    if isinstance(value, bool):
        return Text("yes", style="green") if value else Text("no", style="dim")
    return Text(str(value))


def local_time(moment: str | datetime | None) -> str | None:
    """A moment as people read it here: the time, the day if that is not today, the year if it is another."""
    if moment is None:
        return None
    moment = (datetime.fromisoformat(moment) if isinstance(moment, str) else moment).astimezone()
    today = datetime.now().astimezone().date()
    if moment.year != today.year:
        return moment.strftime("%Y-%m-%d %H:%M")
    return moment.strftime("%H:%M:%S" if moment.date() == today else f"%b {moment.day} %H:%M")


def short(count: int) -> str:
    """A count, in thousands or millions if it is long."""
    return str(count) if count < 10_000 else f"{count / 1000:.4g}k" if count < 10_000_000 else f"{count / 1e6:.4g}M"


def styled(text: str, style: str) -> Text:
    """A table cell in a colour."""
    from rich.text import Text

    return Text(text, style=style)


def print_findings(findings: Iterable[tuple[str, str, str | None]]) -> None:
    """Print findings (level, message, remedy), the remedy below each."""
    from hfs_providers.cli import table

    width = max(1, _width() - _LEVEL)
    for level, message, remedy in findings:
        for place, part in enumerate(table.broken(cell(message), width)):
            _print_lines([styled(f"{level if place == 0 else '':>{_LEVEL - 2}}  ", _STYLES[level]) + part])
        if remedy:
            # Not wrapped, so that a command can be copied whole.
            _print_lines([styled(f"         remedy: {remedy}", "dim")])
