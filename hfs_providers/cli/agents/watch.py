"""`agents watch`: the file that `agents run --events` writes, as a view that follows it."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfs_providers.cli import output

if TYPE_CHECKING:
    from hfs_providers.agents import AgentEvent

_LAST_EVENTS = 12
_LOOK_EVERY = 0.2
_STYLES = {"active": "cyan", "completed": "green", "failed": "red", "unavailable": "red", "waiting": "yellow"}


class View:
    """The state after the events so far: the agents, the latest event of each, and the latest events."""

    def __init__(self) -> None:
        self._agents: dict[str, AgentEvent] = {}
        self._done: dict[str, list[int]] = {}
        self._latest: deque[AgentEvent] = deque(maxlen=_LAST_EVENTS)

    def take(self, event: AgentEvent) -> None:
        """One more event."""
        if event.kind not in ("heartbeat", "progress"):
            self._latest.append(event)
        if event.agent is not None:
            self._agents[event.agent] = event
            done = self._done.setdefault(event.agent, [0, 0])
            done[0] += event.kind == "agent_completed"
            done[1] += event.kind == "agent_failed"

    def draw(self) -> Any:
        """For rich."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for column in ("agent", "pid", "state", "", "done", "failed", "errors"):
            # Only what an agent does is long; the rest stays in one piece.
            table.add_column(column, overflow="fold", no_wrap=column != "")
        for name, event in sorted(self._agents.items()):
            state = "-" if event.state is None else event.state.state
            done, failed = self._done[name]
            table.add_row(
                name,
                output.cell(event.pid),
                output.styled(state, _STYLES.get(state, "")),
                output.cell(_details(event)),
                *(output.cell(value) for value in (done, failed, event.error_count)),
            )
        return Group(table, Text(), *(Text(line_of(event), overflow="ellipsis") for event in self._latest))


def _details(event: AgentEvent) -> str | None:
    for name in ("task", "reason", "error"):
        value = getattr(event.state, name, None)
        if value is not None:
            return str(value)
    return None


def line_of(event: AgentEvent) -> str:
    """An event in one line."""
    moment = time.strftime("%H:%M:%S", time.localtime(event.at))
    words = [moment, event.kind, event.agent, event.item_id, event.message]
    return "  ".join(" ".join(str(word).split()) for word in words if word is not None)


def watch(path: Path) -> int:
    """Show what happens until the supervisor has stopped. Returns the exit code."""
    try:
        events = _followed(path)
        if not sys.stdout.isatty():
            for told in filter(None, events):
                print(line_of(told), flush=True)
            return 0
        from rich.live import Live

        view = View()
        with Live(view.draw(), console=output.console(), auto_refresh=False) as live:
            for event in events:
                if event is not None:
                    view.take(event)
                else:
                    live.update(view.draw(), refresh=True)
    except BrokenPipeError:
        # The output's reader is gone, which is not a fault of the file.
        raise
    except OSError as error:
        output.fail(f"{path} cannot be read: {error.strerror}", "Run: hfs-providers agents run --events FILE", code=2)
    return 0


def _followed(path: Path) -> Iterator[AgentEvent | None]:
    """The events, until the supervisor has stopped; None if there is no more for the moment."""
    from hfs_providers.agents import AgentEvent, ContractError

    with path.open(encoding="utf-8") as file:
        line = ""
        while True:
            # A line may be incomplete so far.
            line += file.readline()
            if not line.endswith("\n"):
                yield None
                time.sleep(_LOOK_EVERY)
                continue
            try:
                event = AgentEvent.model_validate_json(line)
            except ValueError:
                raise ContractError("AgentEvent", (f"{path} has a line that is not an event",)) from None
            line = ""
            yield event
            if event.kind == "supervisor_stopped":
                yield None
                return
