"""`top`: keys and requests at a glance in the terminal, until `q`. Without a terminal it prints once."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hfs_providers.cli import output
from hfs_providers.cli.usage.chart import bar

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from hfs_providers.dashboard.summary import Dashboard

_STATES = {"ready": ("■", "green"), "limited": ("◐", "yellow"), "cooling": ("▲", "cyan"), "dead": ("✕", "red")}
_ORDERS = ("state", "used", "requests", "failed", "order")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Arrows and their like, which begin with Escape.
_ARROWS = re.compile(r"\x1b(?:\[[0-9;]*[@-~]|O.)")
_EVERY = 1.0
_HELP = "q ends  s sorts  f shows refused requests only  space pauses"


def top() -> None:
    """Show keys and requests in the terminal, live: q ends it. Without a terminal it prints once."""
    from hfs_providers.core.inventory import take_inventory
    from hfs_providers.dashboard.source import DashboardSource
    from hfs_providers.dashboard.summary import Dashboard

    show_top(Dashboard(DashboardSource(take_inventory)))


def show_top(dashboard: Dashboard) -> None:
    """Show it until `q` is pressed, or once if there is no terminal."""
    screen = Screen(dashboard)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        output.console().print(screen.draw(50, interactive=False))
        return
    from rich.live import Live

    console = output.console()
    with _pressed_keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(screen.draw(console.height - 1), refresh=True)
            for key in pressed(_EVERY):
                if key in ("q", "\x03", "\x1b"):
                    return
                screen.press(key)


class Screen:
    """What is shown, and what was chosen by keys."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        self._order = 0
        self._refused = False
        self._paused = False
        self._last: tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]] | None = None

    def press(self, key: str) -> None:
        """React to a key."""
        if key == "s":
            self._order = (self._order + 1) % len(_ORDERS)
        elif key == "f":
            self._refused = not self._refused
        elif key == " ":
            self._paused = not self._paused

    def draw(self, height: int, interactive: bool = True) -> RenderableType:
        """All of it, in `height` lines."""
        from rich.console import Group

        from hfs_providers.contract.errors import HfsProvidersError

        try:
            found, keys, rows = self._read()
        except HfsProvidersError as error:
            return output.styled(_plain(str(error)), "red")
        room = max(3, (height - 10 - len(found["providers"])) // 2)
        parts: list[RenderableType] = [self._headline(found), *_problems(found), _providers(found), ""]
        parts += [f"Keys by {_ORDERS[self._order]}", _keys(keys["keys"][:room]), ""]
        parts += ["Refused requests" if self._refused else "Requests", self._requests(rows, room)]
        if interactive:
            parts += ["", output.styled(f"{'paused: ' if self._paused else ''}{_HELP}", "dim")]
        return Group(*parts)

    def _read(self) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
        from hfs_providers.dashboard.key_list import KeyFilter

        if self._last is None or not self._paused:
            keys = self._dashboard.keys.page(KeyFilter(sort=_ORDERS[self._order]), limit=100)
            self._last = self._dashboard.overview(), keys, self._dashboard.requests.newest(limit=500)
        return self._last

    def _headline(self, found: Mapping[str, Any]) -> Text:
        hour = found["hour"] or {"requests": 0, "ok": 0, "tokens": 0, "cost_usd": 0.0}
        counts = {state: sum(each[state] for each in found["counts"].values()) for state in _STATES}
        said = output.styled(time.strftime("%H:%M:%S  "), "bold")
        for state, (shape, colour) in _STATES.items():
            said.append(f"{shape} {counts[state]} {state}  ", colour if counts[state] else "dim")
        said.append(f"last hour: {hour['requests']:,} requests, {hour['requests'] - hour['ok']:,} failed, ")
        said.append(f"{output.short(hour['tokens'])} tokens, ${hour['cost_usd']:,.4f}")
        return said

    def _requests(self, rows: Sequence[Mapping[str, Any]], room: int) -> RenderableType:
        shown = [row for row in rows if not self._refused or row["outcome"] != "ok"][:room]
        if not shown:
            return output.styled("none yet: try hfs-providers ask Hello", "dim")
        table = _grid()
        for row in shown:
            good = row["outcome"] == "ok"
            why = "ok" if good else f"{row['outcome']} {row['status'] or ''} {row['reason']}"
            table.add_row(
                time.strftime("%H:%M:%S", time.localtime(row["at"])),
                _plain(f"{row['provider']}/{row['model']}"),
                _plain(row["key_id"]),
                output.styled(_plain(why), "green" if good else "yellow"),
                f"{row['latency'] * 1000:,.0f} ms",
                f"{row['tokens']:,}",
                _plain(row["client"]),
            )
        return table


def _problems(found: Mapping[str, Any]) -> Iterator[Text]:
    for problem in [each for each in found["problems"] if each["level"] != "info"][:2]:
        yield output.styled(f"{problem['level']}: {_plain(problem['message'])}", "yellow")


def _providers(found: Mapping[str, Any]) -> RenderableType:
    if not found["providers"]:
        return output.styled("no provider has a key: hfs-providers status says what is missing", "dim")
    dry = {each["provider"]: each for each in found["capacities"] or () if each["dry_in"] is not None}
    table = _grid()
    for name in found["providers"]:
        counts, hour = found["counts"].get(name, {}), found["hours"].get(name)
        states = output.styled("", "")
        for state, (shape, colour) in _STATES.items():
            if counts.get(state):
                states.append(f"{shape} {counts[state]}  ", colour)
        said = (
            f"{hour['requests']:,} in the last hour, {hour['latency'] * 1000:,.0f} ms" if hour else "not asked lately"
        )
        ends = f"runs dry at {time.strftime('%H:%M', time.localtime(dry[name]['dry_at']))}" if name in dry else ""
        table.add_row(output.styled(_plain(name), "bold"), states, said, output.styled(ends, "yellow"))
    return table


def _keys(keys: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = _grid()
    for key in keys:
        shape, colour = _STATES[key["state"]]
        share = max((each["used"] / each["limit"] for each in key["windows"] if each["limit"]), default=0.0)
        until = time.strftime("%H:%M:%S", time.localtime(key["until"])) if key["until"] else ""
        table.add_row(
            _plain(key["id"]),
            output.styled(f"{shape} {key['state']}", colour),
            until,
            f"{share:4.0%} {bar(min(1.0, share), 1.0, 10):<10}" if key["windows"] else "",
            f"{key['requests']:,} today, {key['failed']:,} failed",
            _plain(key["reason"] or ""),
        )
    return table


def _grid() -> Table:
    from rich.table import Table

    return Table.grid(padding=(0, 2))


def _plain(text: str) -> str:
    """A text without the terminal's control characters."""
    return _CONTROL.sub("?", text)[:120]


@contextmanager
def _pressed_keys() -> Iterator[Any]:
    """A function that waits some seconds for keys, and returns those that were pressed."""
    if sys.platform == "win32":
        import msvcrt

        def on_windows(seconds: float) -> str:
            until = time.monotonic() + seconds
            while not msvcrt.kbhit() and time.monotonic() < until:
                time.sleep(0.05)
            return msvcrt.getwch() if msvcrt.kbhit() else ""

        yield on_windows
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([terminal], [], [], seconds)
        return _ARROWS.sub("", os.read(terminal, 100).decode("utf-8", "replace")) if ready else ""

    try:
        tty.setcbreak(terminal)
        yield pressed
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
