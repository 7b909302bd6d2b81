"""What all turns of a fallback chain share, and the events about them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from hfs_providers.contract.records import Event, EventKind
from hfs_providers.fallback.entry import Entry

Restore = Literal["always", "when_available", "never"]
OnInterrupt = Literal["raise", "restart"]

_WINDOW_SHARE = 0.8
"""How much of a context window a request may fill. The rest is for the answer and for errors in counting."""


@dataclass(frozen=True, slots=True)
class ServedBy:
    """Who answered a turn.

    Args:
        provider, model: the entry that answered.
        index: its place in the chain, from 0.
        others: by `provider/model`, why entries that were asked or passed over before it did not answer.
        key_id: the key that it answered with; None for a model that does not rotate, and for a cached answer.
    """

    provider: str
    model: str
    index: int
    others: Mapping[str, str] = field(default_factory=dict)
    key_id: str | None = None


@dataclass(slots=True, eq=False)
class ChainConfig:
    """What all turns of a chain share.

    Args:
        entries: the chain, the primary first.
        restore: whether a new turn begins at the primary: `always`, even if its circuit is open or its keys are
            exhausted; only `when_available`; or `never`: it begins at the entry of the last fallback.
        on_interrupt: what happens if a stream breaks after content: `raise`, or `restart` on the next entry.
        emit: notifies the observers.
        sleep, async_sleep: how to wait, in seconds.
        rebuild: a module-level `get_chain` that makes the same chain in another process; None if there is none.
        start: where the next turn begins with `restore="never"`; nothing else is kept from turn to turn.
    """

    entries: tuple[Entry, ...]
    restore: Restore
    on_interrupt: OnInterrupt
    emit: Callable[[Event], object]
    sleep: Callable[[float], object]
    async_sleep: Callable[[float], Awaitable[object]]
    rebuild: Callable[..., object] | None = None
    start: int = 0

    def __post_init__(self) -> None:
        for name, known in (("restore", get_args(Restore)), ("on_interrupt", get_args(OnInterrupt))):
            if (given := getattr(self, name)) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {given!r}")

    def tell(self, kind: EventKind, entry: Entry, reason: str | None = None, seconds: float | None = None) -> None:
        """Emit an event about an entry."""
        self.emit(Event(kind, entry.provider, entry.model_id, reason=reason, seconds=seconds))


def share_of(window: int) -> int:
    """The tokens of a context window that a request may fill."""
    return int(window * _WINDOW_SHARE)
