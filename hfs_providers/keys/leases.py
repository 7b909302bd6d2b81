"""The right to send one request, which ends exactly once, and the words for how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from hfs_providers.contract.records import Credential
from hfs_providers.keys.ledger import Reservation
from hfs_providers.keys.limits import Meter
from hfs_providers.keys.state import Key

if TYPE_CHECKING:
    from hfs_providers.keys.pool import KeyPool

Scope = Literal["model", "key"]
Change = Literal["key_cooling", "key_dead", "key_revived"]
OnChange = Callable[[Change, str, "str | None", "str | None", "float | None"], None]
"""Called outside the lock with: what changed, key id, model id or None, reason, seconds."""

Outcome = Literal["commit", "failed", "rate_limited", "dead", "release"]
Told = tuple[Change, "str | None", "str | None", "float | None"]


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


class Lease:
    """The right to send one request with one key. Ends once: the first of its outcomes counts, later ones do nothing.

    As a context manager it is released when the block ends without an outcome. One that is dropped without an outcome
    is released when it is collected.
    """

    __slots__ = (
        "_ended",
        "_epoch",
        "_key",
        "_meter",
        "_pool",
        "_reservation",
        "_turn",
        "credential",
        "model_id",
        "probe",
        "reserved",
    )

    def __init__(self, pool: KeyPool, key: Key, meter: Meter, model_id: str, reserved: int, turn: int) -> None:
        self._pool = pool
        self._key = key
        self._meter = meter
        self._epoch = pool._epoch
        self._ended = False
        self.credential: Credential = key.credential
        """The key that was leased."""
        self.model_id = model_id
        self.reserved = reserved
        self._turn = turn
        self._reservation: Reservation | None = None
        self.probe = key.dead_reason is not None

    @property
    def key_id(self) -> str:
        """The id of the key, as `groq#3`."""
        return self.credential.id

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
        self._pool._end(self, "commit", tokens)

    def failed(self, tokens: int = 0) -> None:
        """The request was sent and counts, but its failure is not the key's fault.

        Args:
            tokens: as the provider counted them.
        """
        self._pool._end(self, "failed", tokens)

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

    def __del__(self) -> None:
        if not self._ended:
            self._pool._orphaned(self)
