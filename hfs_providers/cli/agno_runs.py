"""The results of runs of an Agno agent. Agno returns a run with error status instead of raising."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

_EMPTY = "the model gave an empty answer"


def agno_agent(model: Any, **options: Any) -> Any:
    """An agent that does not post its runs to Agno."""
    from agno.agent import Agent

    return Agent(model=model, telemetry=False, **options)


def error_of(run: Any) -> str | None:
    """The error of a run, or None. A run that Ctrl-C ended raises KeyboardInterrupt, which Agno had turned into a
    status."""
    from agno.run.base import RunStatus

    if run.status == RunStatus.cancelled:
        raise KeyboardInterrupt
    if run.status != RunStatus.completed:
        return f"no answer ({run.status.value.lower()}): {run.content or 'no reason given'}"
    return _EMPTY if run.content is None or run.content == "" else None


def read_stream(events: Iterable[Any], show: Callable[[Any], object]) -> tuple[str | None, bool]:
    """As `error_of` for the events of a streamed run, and whether there was any content. `show` gets the content."""
    from agno.run.agent import RunCancelledEvent, RunContentEvent, RunErrorEvent

    shown = False
    error: str | None = None
    for event in events:
        if isinstance(event, RunContentEvent) and event.content:
            shown = True
            show(event.content)
        elif isinstance(event, RunErrorEvent):
            error = f"no answer (error): {event.content or event.error_type or 'no reason given'}"
        elif isinstance(event, RunCancelledEvent):
            raise KeyboardInterrupt
    return error or (None if shown else _EMPTY), shown
