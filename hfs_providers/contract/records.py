"""The data that core and plugins exchange: plain frozen records, so that a plugin needs no library to make them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, Literal, Protocol

from hfs_providers.contract.secret import Secret

if TYPE_CHECKING:
    from hfs_providers.contract.usage_row import UsageRow

CONTRACT_VERSION = 1
"""The version of the plugin contract (`hfs_contract` of a plugin).

It stays the same as long as each plugin that was written for it still works: a new hook, a new argument of a hook (each
plugin takes the arguments that it names) or a new field with a default does not increase it.
"""

Level = Literal["info", "warning", "error"]
KeyState = Literal["ready", "limited", "cooling", "dead"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with an environment or an installation, and how to fix it.

    Args:
        message: what is wrong, with the name of the variable or package. Never a key.
        remedy: the command or the variable that fixes it, or None if there is nothing to do.
        level: `error` if a provider cannot be used because of it.
        provider: the provider that it concerns, or None.
    """

    message: str
    remedy: str | None = None
    level: Level = "warning"
    provider: str | None = None


KEYLESS = "keyless"
"""The fingerprint of an endpoint that has no key."""


@dataclass(frozen=True, slots=True)
class Credential:
    """One key, or one endpoint of a keyless provider.

    Args:
        id: `provider#n`, with `n` as in the environment, or `provider@fingerprint` for a key of a list.
        secret: the key, or None for a keyless provider.
        params: the values of `X_<PARAM>_n`, by lower-case parameter (`account`, `region`, `endpoint`).
        source: where the key comes from: the name of a variable, or the path of a file.
    """

    id: str
    secret: Secret | None
    params: Mapping[str, str] = field(default_factory=dict, repr=False)
    source: str = field(default="", repr=False, compare=False)
    fingerprint: str = field(init=False, repr=False, compare=False)
    """The secret's fingerprint, or `KEYLESS`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", self.secret.fingerprint if self.secret is not None else KEYLESS)

    @property
    def name(self) -> str:
        """The key's name on every host: its fingerprint, or the id of an endpoint that has no key."""
        return self.fingerprint if self.secret is not None else self.id

    @property
    def account(self) -> str:
        """Keys with the same account share limits, on every host: the account that the environment names, else
        `name`."""
        return self.params.get("account") or self.name


LIMIT_NAMES = ("rpm", "rph", "rpd", "tpm", "tph", "tpd")
"""The fields of `Limits` that are numbers."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a provider allows for one key and model; None is unlimited.

    Args:
        rpm, rph, rpd: requests per minute, hour, day.
        tpm, tph, tpd: tokens per minute, hour, day.
        day_zone: IANA zone at whose midnight the day's counts are reset; None for a sliding day.
        shared: whether all models of the key share these limits, instead of each model having its own.
    """

    rpm: int | None = None
    rph: int | None = None
    rpd: int | None = None
    tpm: int | None = None
    tph: int | None = None
    tpd: int | None = None
    day_zone: str | None = None
    shared: bool = False


@dataclass(frozen=True, slots=True)
class ModelDefault:
    """A model id to use when the caller names none.

    Args:
        id: the provider's own model id.
        retires: the day from which the provider no longer serves it, if that is known.
    """

    id: str
    retires: date | None = None

    def retired(self, today: date) -> bool:
        """Whether the model is known to be gone on `today`."""
        return self.retires is not None and self.retires <= today


@dataclass(frozen=True, slots=True)
class Requirement:
    """The SDK that a provider's model class needs.

    Args:
        distribution: its name on the package index.
        module: one of its modules.
        install: the command that installs it; if empty, the extra named like the provider, of the distribution that
            the plugin comes from.
    """

    distribution: str
    module: str
    install: str = ""


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """The result of `configure_env`. Bad input is reported as a problem, never raised.

    Args:
        credentials: the usable keys, in the order of the environment.
        declared: `NUM_X`, or None if it is not set or not an integer.
        expected: `EXPECTED_X`, or None.
        base_url: `X_BASE_URL`, else the plugin's, or None for the SDK's.
        default_model: `X_MODEL`, or None.
        limits: by model id or glob (`*:free`); the first that matches counts.
        key_limits: by key id, then as `limits`; these come before `limits`.
        windows: context windows in tokens, by model id or glob.
        aggregator: whether the provider routes to other providers (and retries transport errors itself).
        requirement: the SDK, or None if none is needed.
        key_file: the file that `X_API_KEYS_FILE` names; its keys may change while a process runs.
        configured: False if the provider cannot be built from this environment.
    """

    name: str
    credentials: Sequence[Credential] = ()
    declared: int | None = None
    expected: int | None = None
    base_url: str | None = None
    default_model: str | None = None
    limits: Mapping[str, Limits] = field(default_factory=dict)
    key_limits: Mapping[str, Mapping[str, Limits]] = field(default_factory=dict)
    windows: Mapping[str, int] = field(default_factory=dict)
    aggregator: bool = False
    requirement: Requirement | None = None
    problems: Sequence[Problem] = ()
    key_file: str | None = None
    configured: bool = False


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """The state of one key, or of one key for one model.

    Args:
        state: `ready`, `limited` (its limits are used up), `cooling` (told to wait) or `dead`.
        reason: why it is not ready.
        free_in: seconds until it can be tried again, or None if that is not known.
        in_flight: calls that hold a lease on it now.
    """

    id: str
    fingerprint: str
    state: KeyState
    reason: str | None = None
    free_in: float | None = None
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class WindowUse:
    """How much of one limit of a key and model is used.

    Args:
        period: `minute`, `hour` or `day`.
        unit: `requests` or `tokens`.
        used: by all keys of its account in the window, calls in flight included.
        limit: the largest number that is allowed.
    """

    period: str
    unit: Literal["requests", "tokens"]
    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """How many keys there are and what state they are in, for one model.

    Args:
        total: of all states.
        ready, limited, cooling, dead: by state; see `KeyStatus.state`.
        in_flight: calls that hold a lease now.
        reserved_tokens: the estimates of these calls.
        free_in: seconds until a key can be leased, or None if none will be by itself.
    """

    total: int
    ready: int
    limited: int
    cooling: int
    dead: int
    in_flight: int
    reserved_tokens: int
    free_in: float | None


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """Whether a provider can serve a call, and why not.

    Args:
        name: the provider.
        usable: configured, built, SDK present, and at least one key that is not dead.
        reasons: why it is not usable, or what is worth knowing.
        keys: the state of each key.
    """

    name: str
    usable: bool
    reasons: Sequence[str] = ()
    keys: Sequence[KeyStatus] = ()


ProbeOutcome = Literal["works", "limited", "dead", "unknown"]


@dataclass(frozen=True, slots=True)
class KeyProbe:
    """The result of trying one key with a real request.

    Args:
        outcome: `works`, `limited` (it is valid but has to wait), `dead`, or `unknown` if the answer, or its absence,
            shows nothing about the key.
        reason: why it does not work. Never a key.
        free_in: seconds until it can be used again, if that is known.
        latency: seconds that the request took; None if none was sent.
    """

    id: str
    fingerprint: str
    outcome: ProbeOutcome
    reason: str | None = None
    free_in: float | None = None
    latency: float | None = None


EventKind = Literal[
    "provider_built",
    "provider_failed",
    "call_finished",
    "key_cooling",
    "key_dead",
    "key_revived",
    "key_joined",
    "key_left",
    "key_rotated",
    "limits_learned",
    "call_retried",
    "model_replaced",
    "keys_exhausted",
    "budget_exceeded",
    "fallback_activated",
    "primary_restored",
    "transport_recovered",
    "stream_restarted",
    "chain_exhausted",
    "circuit_opened",
    "circuit_closed",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, for observers. It never holds a key.

    Args:
        kind: what happened.
        provider: the provider's name.
        model: the model id that was asked for, if any.
        key_id: the key, if any.
        reason: why, as a text.
        seconds: the duration that belongs to it (a cooldown, a latency, a pause before a retry).
        usage: the row of a finished request.
        at: wall-clock time, seconds since the epoch.
        call_id: the call that it belongs to: all its requests, rotations and retries have the same id. None if it
            belongs to no call.
    """

    kind: EventKind
    provider: str
    model: str | None = None
    key_id: str | None = None
    reason: str | None = None
    seconds: float | None = None
    usage: UsageRow | None = None
    at: float = field(default_factory=time.time)
    call_id: str | None = None


def call_finished(row: UsageRow) -> Event:
    """The event of one request that was sent."""
    given = (row.provider, row.model, row.key_id, row.outcome, row.latency, row, row.at)
    return Event("call_finished", *given, row.call_id or None)


class Services(Protocol):
    """What the manager provides to a provider's wrapper."""

    @property
    def clock(self) -> Callable[[], float]:
        """Monotonic seconds."""

    @property
    def rebuild(self) -> Callable[..., Any] | None:
        """A module-level `get_model` that makes the same model in another process; None if none can."""

    @property
    def budgets(self) -> Any:
        """What may be spent, a `hfs_providers.money.budgets.Budgets`; None without limits."""

    def emit(self, event: Event) -> None:
        """Notify the observers. Never raises."""

    def record(self, row: UsageRow) -> None:
        """Record one request that was sent. Never blocks on a disk or a network, never raises."""


class Pool(Protocol):
    """The owner of the state of a provider's keys; see `hfs_providers.keys.KeyPool`."""

    @property
    def credentials(self) -> Sequence[Credential]:
        """The keys, in the order of the environment."""

    def next_free(self, model_id: str, estimated_tokens: int = 1000) -> float | None:
        """Seconds until a key can be leased: 0 if one is free now, None if none will be by itself."""

    def counts(self, model_id: str) -> PoolCounts:
        """The states of the keys for one model."""

    def statuses(self, model_id: str | None = None) -> Sequence[KeyStatus]:
        """The state of each key, for one model or (None) overall."""

    def used(self, model_id: str) -> Mapping[str, Collection[WindowUse]]:
        """How much of a model's limits is used, by key id."""

    def revive(self, key_id: str) -> None:
        """Put a cooling or dead key back into rotation."""

    def retire(self, key_id: str, reason: str) -> None:
        """Take a key out of rotation."""

    def load(self, state: Mapping[str, object]) -> None:
        """Load windows, cooldowns and dead keys; data that cannot be read is ignored."""


class Wrapper(Protocol):
    """What the manager needs from the object that `build_wrapper` returns."""

    @property
    def pool(self) -> Pool:
        """The owner of the state of the provider's keys."""

    def get_model(
        self,
        model_id: str | None = None,
        *,
        explicit: bool | None = None,
        estimated_tokens: int = 1000,
        wait: bool = True,
        timeout: float = 10.0,
        max_retries: int = 5,
        request_timeout: float | None = None,
        **agno_kwargs: Any,
    ) -> Any:
        """A rotating Agno model.

        Args:
            model_id: the provider's model id, or None for the default.
            explicit: whether the caller named it; a default model may be replaced by its successor. None: True if
                `model_id` is given.
            estimated_tokens: tokens to reserve for a call.
            wait, timeout: whether to wait for a key, and for how many seconds per call.
            max_retries: retries of transient failures per call.
            request_timeout: seconds, for the SDK.
            agno_kwargs: arguments of the Agno model class; and `key_id`, `affinity` and `model_params`, if
                `ProviderManager.get_model` got them.
        """

    def list_models(self) -> Sequence[str]:
        """The ids that the provider lists, asked live with one of the keys."""

    def probe(self, credential: Credential, *, timeout: float = 10.0, ask: bool = False) -> KeyProbe:
        """Try one key with the cheapest request that shows whether it works. The pool takes over the result.

        Args:
            credential: the key.
            timeout: seconds, for the SDK.
            ask: ask the default model for one token, even if something cheaper proves the key.
        """

    def close(self) -> None:
        """Close clients. Safe to call twice."""
