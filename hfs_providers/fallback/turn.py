"""A turn of a fallback chain: which entry serves it, which entries have failed, and which is asked next.

A turn is one call of `response`, `aresponse`, `response_stream` or `aresponse_stream` with its whole tool loop. Its
state is kept here and never on the chain. A context variable connects a call with its turn, so any number of turns run
on one chain at once, even one inside another.
"""

from __future__ import annotations

import copy
import logging
import weakref
from contextvars import ContextVar, Token
from typing import Any

from agno.exceptions import ModelProviderError

from hfs_providers.calls.model_errors import ChainExhaustedError, reads_as_overflow, reason_of
from hfs_providers.clients.attempt import answering
from hfs_providers.contract.errors import HfsProvidersError
from hfs_providers.fallback.config import ChainConfig, ServedBy, share_of
from hfs_providers.fallback.entry import Entry

FALLS_BACK = frozenset({"rate_limited", "dead", "model_gone", "overloaded", "server_error", "transport", "empty"})
"""Kinds of verdicts after which the next entry is asked. After a context overflow only a larger window is."""

_SPEAKS_AGAINST = frozenset({"model_gone", "overloaded", "server_error", "transport", "empty", "interrupted"})
"""Kinds that count towards opening a circuit. Limited and dead keys do not: the key pool keeps them."""

_log = logging.getLogger("hfs_providers")


_running: ContextVar[Turn | None] = ContextVar("hfs_running_turn", default=None)
_last: ContextVar[tuple[Turn, ...]] = ContextVar("hfs_last_turns", default=())


class Turn:
    """The state of one turn.

    Args:
        owner: the chain, of which only a weak reference is kept.
        messages, run: of the call. `run` is Agno's output of the run; who served is written into it.
        compression: the call's compression manager, or None.
    """

    def __init__(
        self, owner: object, config: ChainConfig, messages: object = None, run: Any = None, compression: Any = None
    ) -> None:
        self.config = config
        self.index = 0
        self.failure: BaseException | None = None
        self.compression = copy.copy(compression)
        self._limit: int | None = getattr(compression, "compress_token_limit", None)
        self.owner = weakref.ref(owner)
        self.outer: Turn | None = None
        self._messages = messages
        self._run = run
        self._failed: dict[int, BaseException] = {}
        self._passed_over: dict[int, str] = {}
        self._served: Entry | None = None
        self._key_id: str | None = None
        self._overflowed = False
        self._begin()

    # Whose turn it is

    def runs(self) -> _Running:
        """A context manager: inside it, this is the running turn of the calling context."""
        return _Running(self)

    def remember(self) -> None:
        """Become the last turn of its chain in the calling context."""
        known = _last.get()
        if not known or known[0] is not self:
            owner = self.owner()
            others = [turn for turn in known if turn.owner() not in (None, owner)]
            _last.set((self, *others))

    def __enter__(self) -> None:
        """Entered around the whole call."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """The call is over. Its messages and run are released, unless Agno may make the same call again."""
        try:
            if isinstance(error, ModelProviderError):
                known = original_error(self, error)
                raise known from known.__cause__
        finally:
            if not self._overflowed:
                self._messages = self._run = None

    def continues(self, messages: object, run: object) -> bool:
        """Whether a call with `messages` and `run` continues this turn: Agno repeats it after a context overflow."""
        same = self._overflowed and run is not None and run is self._run and messages is self._messages
        if same:
            self._overflowed = False
            self._failed.clear()
        return same

    # Who serves

    @property
    def active(self) -> Entry:
        """The entry that serves now."""
        return self.config.entries[self.index]

    @property
    def served_by(self) -> ServedBy | None:
        """Which entry answered last, or None if none has."""
        if self._served is None:
            return None
        index = self.config.entries.index(self._served)
        others = {entry: reason for entry, reason in self.reasons().items() if entry != self._served.label}
        return ServedBy(self._served.provider, self._served.model_id, index, others, self._key_id)

    def reasons(self) -> dict[str, str]:
        """By entry, why it did not answer."""
        return {label: reason_of(label, cause) for label, cause in self._causes().items()}

    def admit(self) -> Entry:
        """The entry for the next request. Those whose circuit is open are passed over."""
        while True:
            entry = self.active
            if entry is self._served or entry.circuit.enter() or (self.index == 0 and self.config.restore == "always"):
                return entry
            self._passed_over[self.index] = entry.obstacle() or "circuit open after repeated failures"
            ready = self._next(ready=True)
            if ready is None:
                # No other entry is left: a request that may fail is better than none.
                return entry
            self._switch(ready, self._passed_over[self.index])

    def answered(self) -> None:
        """The active entry has answered."""
        self._served = self.active
        self._key_id = answering.get() if self._served.rotation is not None else None
        if self._served.circuit.succeed():
            _log.info("%s answers again", self._served.label)
        self.failure = None
        self._attribute()

    def left(self) -> None:
        """A request ended without showing anything about its entry: it was cancelled, or Agno sends it again with
        guidance."""
        self.active.circuit.leave()

    def failed(self, error: Exception, *, shown: bool = False) -> None:
        """A request has failed: move on to the next entry, or raise the error that ends the turn.

        It is final if a part of its answer was `shown` to the caller.
        """
        verdict = self.active.judge(error)
        if verdict.kind in _SPEAKS_AGAINST:
            self.active.circuit.fail(verdict.retry_after)
        else:
            self.active.circuit.leave()
        self.failure = error
        larger: int | None = None
        if verdict.kind == "context_overflow" or reads_as_overflow(verdict):
            larger = self.active.window
            if larger is None or self._next(larger_than=larger) is None:
                self._overflowed = True
                raise error
        elif shown or verdict.kind not in FALLS_BACK:
            raise error
        self._failed[self.index] = error
        following = self._next(larger_than=larger)
        if following is None:
            self.failure = exhausted = ChainExhaustedError(self._causes())
            self.config.tell("chain_exhausted", self.config.entries[0], str(exhausted))
            raise exhausted from error
        self._switch(following, reason_of(self.active.label, error))

    def restarts_after(self, error: BaseException) -> bool:
        """Whether a stream that broke after content begins again. If so, the next entry is active now."""
        return self.config.on_interrupt == "restart" and self.fall_back(error)

    def fall_back(self, error: BaseException | None = None) -> bool:
        """Move to the next entry that has not failed in this turn; False if there is none."""
        following = self._next()
        if following is None:
            return False
        if error is not None:
            self._failed[self.index] = error
        self._switch(following, None if error is None else reason_of(self.active.label, error))
        return True

    def restore(self) -> bool:
        """Go back to the primary; False if it is active already, or cannot answer now (except with `always`)."""
        if self.index == 0 and self.config.start == 0:
            return False
        primary = self.config.entries[0]
        obstacle = primary.obstacle() if self.config.restore != "always" else None
        if obstacle is not None:
            _log.warning("%s is not restored: %s", primary.label, obstacle)
            return False
        self.index = self.config.start = 0
        self._failed.pop(0, None)
        self._limit_compression()
        self._attribute()
        self.config.tell("primary_restored", primary)
        return True

    # Inside

    def _begin(self) -> None:
        if self.config.restore == "never":
            self.index = self.config.start
        elif self.config.restore == "when_available":
            try:
                obstacle = self.active.obstacle()
                ready = self._next(ready=True) if obstacle is not None else None
            except Exception as error:
                # The turn goes on: a request will show it.
                _log.warning("whether %s can answer is not known: %s", self.active.label, error)
                obstacle = ready = None
            if obstacle is not None:
                self._passed_over[0] = obstacle
            if obstacle is not None and ready is not None:
                self._switch(ready, obstacle)
        self._limit_compression()

    def _next(self, *, ready: bool = False, larger_than: int | None = None) -> int | None:
        """The place of the next entry to ask: the first after the active one that can answer, else one before it.

        Args:
            ready: None if no other entry can answer now; otherwise the next that has not failed.
            larger_than: only entries whose context window has more tokens.
        """
        count = len(self.config.entries)
        places: list[int] = [*range(self.index + 1, count), *range(self.index)]
        untried = [
            place
            for place in places
            if place not in self._failed and (self.config.entries[place].window or 0) > (larger_than or -1)
        ]
        for place in untried:
            obstacle = self.config.entries[place].obstacle()
            if obstacle is None:
                return place
            self._passed_over[place] = obstacle
        return None if ready or not untried else untried[0]

    def _switch(self, following: int, reason: str | None) -> None:
        left, self.index = self.active, following
        if self.config.restore == "never":
            self.config.start = following
        self._limit_compression()
        self._attribute()
        if reason is None:
            _log.info("falling back from %s to %s, as asked", left.label, self.active.label)
        else:
            level = logging.WARNING if left.circuit.pass_over() else logging.DEBUG
            _log.log(level, "%s could not answer (%s); falling back to %s", left.label, reason, self.active.label)
        self.config.tell("fallback_activated", self.active, f"{left.label}: {reason or 'asked to'}")

    def _causes(self) -> dict[str, BaseException | str]:
        return {
            self.config.entries[place].label: self._failed.get(place) or self._passed_over[place]
            for place in sorted({*self._failed, *self._passed_over})
        }

    def _attribute(self) -> None:
        if self._run is not None:
            self._run.model, self._run.model_provider = self.active.model_id, self.active.model.provider

    def _limit_compression(self) -> None:
        window = self.active.window
        if self.compression is not None and self._limit is not None and window is not None:
            self.compression.compress_token_limit = min(self._limit, share_of(window))
        elif self.compression is not None:
            self.compression.compress_token_limit = self._limit


class _Running:
    """Each `with` has its own token: tasks that a tool started may be in the same turn at the same time."""

    __slots__ = ("_token", "_turn")

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def __enter__(self) -> Turn:
        outer = _running.get()
        if outer is not self._turn:
            self._turn.outer = outer
        self._token: Token[Turn | None] = _running.set(self._turn)
        self._turn.remember()
        return self._turn

    def __exit__(self, *_: object) -> None:
        _running.reset(self._token)
        if _running.get() is not self._turn:
            self._turn.outer = None
            # The last turn may be one inside this one, which ended before.
            self._turn.remember()


def running_turn(owner: object) -> Turn | None:
    """The innermost turn of a chain that runs in the calling context."""
    turn = _running.get()
    while turn is not None and turn.owner() is not owner:
        turn = turn.outer
    return turn


def current_turn(owner: object) -> Turn | None:
    """The turn of a chain that runs in the calling context, or the last one that ran there."""
    return running_turn(owner) or next((turn for turn in _last.get() if turn.owner() is owner), None)


def original_error(turn: Turn | None, error: ModelProviderError) -> BaseException:
    """The error that ended a turn, with its cause: Agno classifies errors again and replaces their types."""
    failure = turn.failure if turn is not None else None
    known = failure if isinstance(failure, HfsProvidersError) else error
    if known.__cause__ is known:
        # Agno raises an error that it does not retry from itself. The context still has the true cause.
        known.__cause__ = known.__context__
    return known
