"""The one owner of every fact about a provider's keys: which is ready, which cools, which is dead, what is in flight.

`KeyPool.acquire` and `aacquire` give a `Lease`. A lease ends exactly once, whatever ends the call.
Pure Python, no third-party import; the clock is injected.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from hfs_providers.core.contract import Credential, KeyStatus, Limits
from hfs_providers.core.errors import PoolExhaustedError

DEFAULT_COOLDOWN = 30.0
"""Seconds that a limited key rests where the provider's answer does not say for how long."""

PROBATION = 3600.0
"""Seconds after which a dead key may be tried once more."""

CREDIT_PROBATION = 86_400.0
"""The same for a key without credits, and the most that doubling makes of either."""

Scope = Literal["model", "key"]
Change = Literal["key_cooling", "key_dead", "key_revived"]
OnChange = Callable[[Change, str, "str | None", "str | None", "float | None"], None]
"""Called outside the lock with: what changed, key id, model id or None, reason, seconds."""


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """How many keys there are and what state they are in, for one model."""

    total: int
    ready: int
    limited: int
    cooling: int
    dead: int
    in_flight: int
    reserved_tokens: int
    free_in: float | None


class _Key:
    __slots__ = ("cooling", "credential", "dead_reason", "in_flight", "probation", "probing", "reserved", "retry_at")

    def __init__(self, credential: Credential) -> None:
        self.credential = credential
        self.cooling: dict[str | None, tuple[float, str]] = {}
        self.dead_reason: str | None = None
        self.retry_at = 0.0
        self.probation = 0.0
        self.probing = False
        self.in_flight = 0
        self.reserved = 0


class Lease:
    """The right to send one request with one key. Ends once: the first of its outcomes counts, later ones do nothing.

    As a context manager it is released when the block ends without an outcome.
    """

    __slots__ = ("_ended", "_key", "_pool", "model_id", "probe", "reserved")

    def __init__(self, pool: KeyPool, key: _Key, model_id: str, reserved: int, probe: bool) -> None:
        self._pool = pool
        self._key = key
        self._ended = False
        self.model_id = model_id
        self.reserved = reserved
        self.probe = probe

    @property
    def credential(self) -> Credential:
        """The key that was leased."""
        return self._key.credential

    @property
    def key_id(self) -> str:
        """The id of the key, as `groq#3`."""
        return self._key.credential.id

    @property
    def ended(self) -> bool:
        """Whether an outcome was given."""
        return self._ended

    def __repr__(self) -> str:
        return f"Lease({self.key_id}, {self.model_id}, {'ended' if self._ended else 'open'})"

    def commit(self, tokens: int = 0) -> None:
        """The call was answered.

        Args:
            tokens: as the provider counted them.
        """
        self._pool._end(self, "commit", tokens=tokens)

    def failed(self, tokens: int = 0) -> None:
        """The request was sent and counts, but its failure is not the key's fault."""
        self._pool._end(self, "failed", tokens=tokens)

    def rate_limited(self, retry_after: float | None = None, scope: Scope = "model", reason: str | None = None) -> None:
        """The provider told the key to wait.

        Args:
            retry_after: seconds, as the provider said; None for `DEFAULT_COOLDOWN`.
            scope: `model` where the limit is that of one model, `key` where it is the key's or its account's.
            reason: for people.
        """
        self._pool._end(self, "rate_limited", retry_after=retry_after, scope=scope, reason=reason)

    def dead(self, reason: str, *, credits: bool = False) -> None:
        """The provider refused the key itself.

        Args:
            reason: for people.
            credits: the account has no credits left, which mends itself later than the rest.
        """
        self._pool._end(self, "dead", reason=reason, credits=credits)

    def release(self) -> None:
        """Nothing was sent: nothing counts."""
        self._pool._end(self, "release")

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class KeyPool:
    """The keys of one provider.

    Args:
        provider: its name.
        credentials: its keys.
        limits: the limits of a model on a key, by (model id, key id); None where there are none.
        clock: monotonic seconds.
        on_change: told of keys that cool, die and revive; called outside the lock, must not raise.
    """

    def __init__(
        self,
        provider: str,
        credentials: Sequence[Credential],
        *,
        limits: Callable[[str, str], Limits | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_change: OnChange | None = None,
    ) -> None:
        self.provider = provider
        self._limits = limits
        self._clock = clock
        self._on_change = on_change
        self._keys = {credential.id: _Key(credential) for credential in credentials}
        self._turn = itertools.cycle(list(self._keys)) if self._keys else None
        self._changed = threading.Condition(threading.Lock())

    def __repr__(self) -> str:
        return f"KeyPool({self.provider}, {len(self._keys)} keys)"

    def __copy__(self) -> KeyPool:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> KeyPool:
        return self

    @property
    def credentials(self) -> Sequence[Credential]:
        """The keys, in the order of the environment."""
        return [key.credential for key in self._keys.values()]

    def acquire(
        self,
        model_id: str,
        estimated_tokens: int = 1000,
        timeout: float = 10.0,
        *,
        exclude: Collection[str] = (),
        key_id: str | None = None,
    ) -> Lease:
        """Lease a key, waiting for one if need be.

        Args:
            model_id: the model to be called.
            estimated_tokens: tokens to reserve until the call ends.
            timeout: seconds to wait at most; 0 does not wait.
            exclude: ids of keys that will not do.
            key_id: the one key that will do.

        Raises:
            PoolExhaustedError: no key is free, nor will be within `timeout`; raised at once.
        """
        deadline = self._clock() + timeout
        with self._changed:
            while True:
                lease = self._pick(model_id, estimated_tokens, exclude, key_id)
                if lease is not None:
                    return lease
                pause = self._pause(model_id, exclude, key_id, deadline, timeout)
                self._changed.wait(pause)

    async def aacquire(
        self,
        model_id: str,
        estimated_tokens: int = 1000,
        timeout: float = 10.0,
        *,
        exclude: Collection[str] = (),
        key_id: str | None = None,
    ) -> Lease:
        """As `acquire`, without blocking the event loop."""
        deadline = self._clock() + timeout
        while True:
            with self._changed:
                lease = self._pick(model_id, estimated_tokens, exclude, key_id)
                if lease is not None:
                    return lease
                pause = self._pause(model_id, exclude, key_id, deadline, timeout)
            await asyncio.sleep(pause)

    def next_free(self, model_id: str, estimated_tokens: int = 1000) -> float | None:
        """Seconds until a key can be leased: 0 if one is free now, None if none will be by itself."""
        with self._changed:
            return self._free_in(model_id, (), None)

    def counts(self, model_id: str) -> PoolCounts:
        """The states of the keys for one model."""
        states = [status.state for status in self.statuses(model_id)]
        with self._changed:
            return PoolCounts(
                total=len(states),
                ready=states.count("ready"),
                limited=states.count("limited"),
                cooling=states.count("cooling"),
                dead=states.count("dead"),
                in_flight=sum(key.in_flight for key in self._keys.values()),
                reserved_tokens=sum(key.reserved for key in self._keys.values()),
                free_in=self._free_in(model_id, (), None),
            )

    def statuses(self, model_id: str | None = None) -> list[KeyStatus]:
        """The state of each key, for one model or (None) overall: there it cools if it cools for any model."""
        with self._changed:
            now = self._clock()
            return [self._status(key, model_id, now) for key in self._keys.values()]

    def revive(self, key_id: str) -> None:
        """Put a cooling or dead key back into rotation."""
        with self._changed:
            key = self._keys[key_id]
            key.cooling.clear()
            key.dead_reason = None
            key.probation = 0.0
            self._changed.notify_all()
        self._tell("key_revived", key_id, None, None, None)

    def retire(self, key_id: str, reason: str) -> None:
        """Take a key out of rotation."""
        with self._changed:
            seconds = self._bury(self._keys[key_id], reason, PROBATION)
        self._tell("key_dead", key_id, None, reason, seconds)

    # The methods below expect the lock to be held.

    def _pick(self, model_id: str, tokens: int, exclude: Collection[str], key_id: str | None) -> Lease | None:
        if self._turn is None:
            return None
        now = self._clock()
        for _ in range(len(self._keys)):
            key = self._keys[next(self._turn)]
            if not _asked_for(key, exclude, key_id) or self._ready_at(key, model_id, now) > now:
                continue
            probe = key.dead_reason is not None
            key.probing = probe
            key.in_flight += 1
            key.reserved += tokens
            return Lease(self, key, model_id, tokens, probe)
        return None

    def _ready_at(self, key: _Key, model_id: str, now: float) -> float:
        if key.probing:
            return float("inf")
        ready = key.retry_at if key.dead_reason is not None else now
        for scope in (model_id, None):
            until, _ = key.cooling.get(scope, (now, ""))
            ready = max(ready, until)
        return ready

    def _free_in(self, model_id: str, exclude: Collection[str], key_id: str | None) -> float | None:
        now = self._clock()
        instants = [
            self._ready_at(key, model_id, now) for key in self._keys.values() if _asked_for(key, exclude, key_id)
        ]
        earliest = min(instants, default=float("inf"))
        return None if earliest == float("inf") else max(0.0, earliest - now)

    def _pause(
        self, model_id: str, exclude: Collection[str], key_id: str | None, deadline: float, timeout: float
    ) -> float:
        free_in = self._free_in(model_id, exclude, key_id)
        if free_in is not None and self._clock() + free_in <= deadline:
            return free_in
        now = self._clock()
        states = [
            self._status(key, model_id, now).state for key in self._keys.values() if key.credential.id not in exclude
        ]
        raise PoolExhaustedError(
            self.provider,
            model_id,
            total=len(self._keys),
            cooling=states.count("cooling"),
            dead=states.count("dead"),
            tried=len(self._keys) - len(states),
            free_in=free_in,
            waited=timeout > 0,
            timeout=timeout,
        )

    def _status(self, key: _Key, model_id: str | None, now: float) -> KeyStatus:
        credential = key.credential
        if key.dead_reason is not None:
            free_in = max(0.0, key.retry_at - now)
            return KeyStatus(credential.id, credential.fingerprint, "dead", key.dead_reason, free_in, key.in_flight)
        cooling = [
            (until, reason)
            for scope, (until, reason) in key.cooling.items()
            if until > now and (model_id is None or scope in (None, model_id))
        ]
        if cooling:
            until, reason = max(cooling)
            return KeyStatus(credential.id, credential.fingerprint, "cooling", reason, until - now, key.in_flight)
        return KeyStatus(credential.id, credential.fingerprint, "ready", None, 0.0, key.in_flight)

    def _bury(self, key: _Key, reason: str, probation: float) -> float:
        key.probation = min(CREDIT_PROBATION, key.probation * 2) if key.dead_reason is not None else probation
        key.dead_reason = reason
        key.retry_at = self._clock() + key.probation
        return key.probation

    def _end(
        self,
        lease: Lease,
        outcome: Literal["commit", "failed", "rate_limited", "dead", "release"],
        *,
        tokens: int = 0,
        retry_after: float | None = None,
        scope: Scope = "model",
        reason: str | None = None,
        credits: bool = False,
    ) -> None:
        told: tuple[Change, str | None, str | None, float | None] | None = None
        with self._changed:
            if lease._ended:
                return
            lease._ended = True
            key = lease._key
            key.in_flight -= 1
            key.reserved -= lease.reserved
            was_probe = lease.probe
            if was_probe:
                key.probing = False
            if outcome == "commit" and was_probe:
                key.dead_reason = None
                key.probation = 0.0
                told = ("key_revived", None, None, None)
            elif outcome == "rate_limited":
                seconds = DEFAULT_COOLDOWN if retry_after is None else max(0.0, retry_after)
                where = lease.model_id if scope == "model" else None
                why = reason or "rate limited"
                until, _ = key.cooling.get(where, (0.0, ""))
                key.cooling[where] = (max(until, self._clock() + seconds), why)
                told = ("key_cooling", where, why, seconds)
            elif outcome == "dead":
                seconds = self._bury(key, reason or "refused", CREDIT_PROBATION if credits else PROBATION)
                told = ("key_dead", None, reason, seconds)
            self._changed.notify_all()
        if told is not None:
            self._tell(told[0], lease.key_id, told[1], told[2], told[3])

    def _tell(
        self, change: Change, key_id: str, model_id: str | None, reason: str | None, seconds: float | None
    ) -> None:
        if self._on_change is not None:
            self._on_change(change, key_id, model_id, reason, seconds)


def _asked_for(key: _Key, exclude: Collection[str], key_id: str | None) -> bool:
    identity = key.credential.id
    return identity not in exclude and (key_id is None or identity == key_id)
