"""One call over several keys: which key is next, what an error means, when to give up, what to record."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from agno.exceptions import RetryableModelProviderError as GuidedRetry

from hfs_providers.calls.answers import UnusableAnswerError
from hfs_providers.calls.backend import Backend
from hfs_providers.calls.common_codes import QUOTES_KEY
from hfs_providers.calls.model_errors import KeysExhaustedError, call_error, reads_as_overflow
from hfs_providers.calls.options import CallOptions
from hfs_providers.calls.retry_pauses import key_cooldown, retry_pause
from hfs_providers.calls.verdicts import Verdict, judge
from hfs_providers.clients.attempt import Attempt, answering, running, settling
from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.records import Event, EventKind
from hfs_providers.contract.usage_fields import Counted, Tokens
from hfs_providers.contract.usage_row import NO_FAILURE, Failure, Trace, UsageRow
from hfs_providers.keys.leases import Lease

if TYPE_CHECKING:
    from agno.models.message import Message
    from agno.models.response import ModelResponse


_NO_KEYS: frozenset[str] = frozenset()
_log = logging.getLogger("hfs_providers")
_NO_REFUSALS: Mapping[str, int] = {}
# A call treats the model as gone when so many keys lack it. If another key has it, those that lack it pause this long.
_MOST_LACKING = 3
_LACKING_PAUSE = 3600.0


class KeyedAttempt:
    """One attempt of a call: a `with` block, or an `async with` block if the event loop must not be blocked.

    Entering it leases a key. An error in the block ends the lease. If the call continues, the block swallows the error
    and ends after the necessary pause; else it raises the error that ends the call. So a call is

        while True:
            with KeyedAttempt(call) as lease:
                ...
                return answer

    If the block has no error, it must end the lease itself: it calls `answered`, or passes the lease on.
    """

    __slots__ = ("_call", "_lease")

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> Lease:
        self._lease = self._call.acquire_nowait() or self._call.acquire()
        return self._lease

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        pause = self._call.settle(self._lease, error) if error is not None else None
        if pause:
            self._call.backend.sleep(pause)
        return pause is not None

    async def __aenter__(self) -> Lease:
        self._lease = self._call.acquire_nowait() or await self._call.aacquire()
        return self._lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        pause = self._call.settle(self._lease, error) if error is not None else None
        if pause:
            await self._call.backend.async_sleep(pause)
        return pause is not None


class Call(Attempt):
    """The state of one call over all its attempts; as an `Attempt`, the state of the running one.

    An event loop keeps the contexts of cancelled timers and of open connections alive, and with them calls that ended
    long ago. So a call that has ended holds neither answers nor errors.
    """

    __slots__ = (
        "_affinity",
        "_attempts",
        "_began",
        "_cause",
        "_deadline",
        "_lacking",
        "_refusals",
        "_retries",
        "_sent_at",
        "_text",
        "_trial",
        "_tried",
        "backend",
        "model_id",
        "options",
        "repeated",
        "rules",
        "usage",
    )

    def __init__(self, backend: Backend, options: CallOptions, model_id: str, affinity: int | None = None) -> None:
        # Repeats the base class's `__init__`, to save the call of it.
        self.responses = []
        self.learns = False
        self._records = None
        outer = running.get()
        # In a chain, this call's requests belong to the call of the chain.
        self.trace = outer.trace if outer is not None else Trace()
        self.backend = backend
        self.options = options
        self.rules = backend.traits.errors
        self.model_id = model_id if options.explicit else backend.serving(model_id)
        self.usage: Any = None
        """The usage that a stream has reported so far: Agno's class, or `Counted`."""
        self.repeated = False
        """Whether there was more than one attempt."""
        self._affinity = affinity
        self._deadline = backend.services.clock() + options.timeout
        # Most calls need none of these, so shared empty values save creating new ones.
        self._tried = _NO_KEYS
        self._lacking = _NO_KEYS
        self._refusals = _NO_REFUSALS
        self._trial = True
        self._retries = 0
        self._attempts = 0
        self._sent_at: float | None = None
        self._text: list[str] | None = None
        self._cause: BaseException | None = None

    def acquire_nowait(self) -> Lease | None:
        """Lease the key of the next attempt if one is ready now and nothing restricts the choice; else None."""
        self._sent_at = None
        options = self.options
        if options.key_id is not None or self._refusals:
            return None
        return self.backend.pool.acquire_nowait(self.model_id, options.estimated_tokens, self._tried, self._affinity)

    def acquire(self) -> Lease:
        """Lease the key of the next attempt. Raises KeysExhaustedError."""
        try:
            return self.backend.pool.acquire(self.model_id, self.options.estimated_tokens, **self._terms())
        except PoolExhaustedError as error:
            self._exhausted(error)

    async def aacquire(self) -> Lease:
        """As `acquire`, without blocking the event loop."""
        try:
            return await self.backend.pool.aacquire(self.model_id, self.options.estimated_tokens, **self._terms())
        except PoolExhaustedError as error:
            self._exhausted(error)

    def _terms(self) -> dict[str, Any]:
        """The arguments that choose the key of the next attempt, and how long it may wait for one."""
        left = self._left()
        # A key that refused this call is used again only within the call's timeout. Otherwise a call would never end
        # with a provider that is slow to refuse.
        exclude = self._tried if left > 0 or not self._refusals else self._tried.union(self._refusals)
        key_id, trial = self.options.key_id, self._trial
        return {"timeout": left, "exclude": exclude, "key_id": key_id, "trial": trial, "affinity": self._affinity}

    def _left(self) -> float:
        """Seconds that the call may still wait for a key."""
        options = self.options
        if not options.wait:
            return 0.0
        return max(0.0, self._deadline - self.backend.services.clock()) if self._attempts else options.timeout

    def sending(self, lease: Lease) -> None:
        """The request goes out now."""
        self.learns = (self.model_id, lease.credential.id) not in self.backend.learned
        self._sent_at = time.perf_counter()
        if self._attempts == 0:
            self._began = self._sent_at
        self._attempts += 1
        self.trace.sent += 1

    def received(self, delta: ModelResponse, assistant_message: Message) -> None:
        """Note one step of a stream.

        Usage is kept for the end of the stream: providers repeat it, and it must not be added up.
        """
        if self.repeated:
            self.restore_timer(assistant_message)
        if delta.response_usage is not None:
            self.usage, delta.response_usage = delta.response_usage, None
        if isinstance(delta.content, str) and delta.content:
            self.passed_on(delta.content)
        elif delta.tool_calls or delta.content or delta.reasoning_content:
            self.passed_on()

    def passed_on(self, text: str = "") -> None:
        """A part of the answer has reached the caller, so the call is not repeated any more."""
        if self._text is None:
            self._text = [text]
        elif text:
            self._text.append(text)

    def check_finished(self, bound: Any) -> None:
        """Raise if a stream ended without a finish reason. The SDKs do not notice a body that was cut off."""
        if bound.__dict__.get("_hfs_finished") or not self.backend.clients.detects_truncation:
            return
        if not self._text:
            raise UnusableAnswerError("empty", "the stream ended without content")
        raise UnusableAnswerError("interrupted", "the stream ended before the answer was complete")

    def answered(self, lease: Lease, usage: Counted | None) -> None:
        """The attempt was answered: record it, end its lease, and learn limits from the headers of its answer."""
        if self.responses:
            if self.learns:
                self.backend.learn(self.model_id, lease.credential.id, self.responses)
            self.responses.clear()
        if self._cause is not None:
            self._cause = None
            with settling(self.trace.id):
                for key_id in self._lacking:
                    # Another key has just served the model.
                    self.backend.pool.pause(key_id, self.model_id, _LACKING_PAUSE, "this key lacks the model")
        charged = (usage.total_tokens if usage is not None else 0) or lease.reserved
        self._record(lease, "ok", usage, charged)
        if self.options.in_chain:
            answering.set(lease.key_id)
        if lease.probe:
            with settling(self.trace.id):
                lease.commit(charged)
        else:
            lease.commit(charged)

    def settle(self, lease: Lease, error: BaseException) -> float | None:
        """End the lease of a failed attempt.

        Returns:
            Seconds to wait before the next attempt. None if the provider did not fail: the caller gets `error`.

        Raises:
            ModelCallError: the call failed for good.
        """
        if lease.ended:
            return None
        self.responses.clear()
        self._cause = None
        verdict = self._verdict(lease, error)
        if verdict is None:
            with settling(self.trace.id):
                self._abandoned(lease, error)
            return None
        self.backend.redactor.scrub_exception(error)
        with settling(self.trace.id):
            self._end(lease, verdict)
            pause = self._next(lease, verdict)
        if pause is None:
            self.let_through(self.backend.redactor)
            raise call_error(
                verdict,
                error,
                provider=self.backend.provider,
                model_id=self.model_id,
                key_id=lease.key_id,
                attempts=self._attempts,
                successor=self.backend.successor(self.model_id),
                received=None if self._text is None else "".join(self._text),
            ) from error
        self._cause = error
        self.repeated = True
        self._records = None
        self._tell(lease, "call_retried" if verdict.retries else "key_rotated", verdict.kind, pause)
        return pause

    def restore_timer(self, assistant_message: Message) -> None:
        """Let the message's timer count from the first attempt: Agno restarts it at each attempt."""
        metrics = assistant_message.metrics
        if self._attempts < 2 or metrics is None or metrics.timer is None:
            return
        timer = metrics.timer
        timer.start_time = self._began
        if timer.end_time is not None:
            timer.elapsed_time = metrics.duration = timer.end_time - self._began

    def _verdict(self, lease: Lease, error: BaseException) -> Verdict | None:
        """What the error means. None if the provider did not fail: the caller stopped, or Agno asks for another try.

        Tools that capture the local variables of a traceback show the verdict, so it must hold no key.
        """
        if isinstance(error, GuidedRetry) or not isinstance(error, Exception):
            return None
        redactor, secret = self.backend.redactor, lease.credential.secret
        verdict = judge(error, self.rules)
        if verdict.code in QUOTES_KEY and secret is not None and secret.quoted_in(verdict.message):
            verdict = replace(verdict, kind="dead", scope="key")
        verdict = verdict.scrubbed(redactor.scrub)
        return replace(verdict, kind="context_overflow") if reads_as_overflow(verdict) else verdict

    def _abandoned(self, lease: Lease, error: BaseException) -> None:
        if isinstance(error, GuidedRetry):
            self._record(lease, "ok", None, lease.reserved)
            lease.commit(lease.reserved)
        elif self._sent_at is None:
            lease.release()
        else:
            charged = self._estimate(lease)
            self._record(lease, "abandoned", self.usage, charged)
            lease.commit(charged)

    def _estimate(self, lease: Lease) -> int:
        """The tokens that are charged for a stream that was not read to its end."""
        return max(self.usage.total_tokens if self.usage is not None else 0, lease.reserved)

    def _end(self, lease: Lease, verdict: Verdict) -> None:
        sent = verdict.sent and self._sent_at is not None
        charged = self._estimate(lease) if self._text else 0
        refusals = self._refusals.get(lease.key_id, 0)
        cooldown = None
        if verdict.kind == "rate_limited":
            cooldown = key_cooldown(refusals, verdict.retry_after)
        if lease.probe:
            self._trial = False
        if sent:
            # Before the lease ends: processes that share the key must see the request either in flight or counted.
            self._record(lease, verdict.kind, self.usage, charged, Failure(verdict.status, verdict.reason, cooldown))
        if verdict.kind == "rate_limited":
            # This call may use the key again after its cooldown.
            self._refusals = {**self._refusals, lease.key_id: refusals + 1}
            lease.rate_limited(cooldown, verdict.scope, verdict.reason)
        elif verdict.kind == "dead":
            lease.dead(verdict.reason, credits=verdict.credits)
            self._tried |= {lease.key_id}
        elif not sent:
            lease.release()
        elif self._text:
            lease.commit(charged)
        else:
            lease.failed()

    def _next(self, lease: Lease, verdict: Verdict) -> float | None:
        """Seconds until the next attempt, or None if there is none."""
        if self._text:
            # The caller has content already, and another attempt would repeat it.
            return None
        if verdict.kind == "rate_limited" or (verdict.rotates and self.options.key_id is None):
            # If there is no other key, the pool's error says so, and when the next is free.
            return 0.0
        if verdict.kind == "model_gone" and (self._served_elsewhere(lease, verdict) or self._succeeded()):
            return 0.0
        if verdict.retries and self._retries < self.options.max_retries:
            self._retries += 1
            # Perhaps only this key fails, so another may be chosen.
            self._affinity = None
            if verdict.kind == "transport" and self._retries == 1:
                # A reused connection that the provider had closed meanwhile fails once, before anything is received.
                return 0.0
            return retry_pause(self._retries, verdict.retry_after)
        return None

    def _succeeded(self) -> bool:
        """Replace a default model that is gone by its successor. Returns whether it has one."""
        successor = None if self.options.explicit else self.backend.replace_model(self.model_id)
        if successor is None:
            return False
        self.model_id = successor
        self._tried -= self._lacking
        self._lacking = _NO_KEYS
        return True

    def _served_elsewhere(self, lease: Lease, verdict: Verdict) -> bool:
        """Whether another key may have the model that this one lacks. This call does not use this key again."""
        backend = self.backend
        if self.options.key_id is not None or not (verdict.scope == "key" or backend.traits.keyless):
            return False
        self._lacking |= {lease.key_id}
        self._tried |= {lease.key_id}
        if len(self._lacking) >= _MOST_LACKING:
            return False
        keys = backend.pool.statuses(self.model_id)
        return any(key.state == "ready" and key.id not in self._tried for key in keys)

    def _exhausted(self, error: PoolExhaustedError) -> NoReturn:
        exhausted = KeysExhaustedError(error)
        self.backend.services.emit(
            Event("keys_exhausted", self.backend.provider, self.model_id, reason=str(error), call_id=self.trace.id)
        )
        cause, self._cause = self._cause or error, None
        raise exhausted from cause

    def _record(
        self, lease: Lease, outcome: str, usage: Counted | None, charged: int, failure: Failure = NO_FAILURE
    ) -> None:
        backend = self.backend
        row = UsageRow.of(
            backend.provider,
            self.model_id,
            lease.credential,
            outcome,
            counted=usage if usage is None or type(usage) is Tokens else backend.traits.usage_fields.whole(usage),
            latency=time.perf_counter() - self._sent_at if self._sent_at is not None else 0.0,
            charged=charged,
            call=self.trace,
            failure=failure,
        )
        self._write(row)

    def _write(self, row: UsageRow) -> None:
        self.backend.count(row)
        self.backend.services.record(row)

    def _tell(self, lease: Lease, kind: EventKind, reason: str, pause: float) -> None:
        """Log, and emit as an event, that the call continues after a failed attempt."""
        backend = self.backend
        follows = f"retry in {pause:.1f} s" if kind == "call_retried" else "trying the next key"
        said = (backend.provider, self.model_id, reason, lease.key_id, follows, self.trace.id)
        _log.debug("%s/%s: %s with %s; %s [call %s]", *said)
        backend.services.emit(
            Event(kind, backend.provider, self.model_id, lease.key_id, reason, pause, call_id=self.trace.id)
        )
