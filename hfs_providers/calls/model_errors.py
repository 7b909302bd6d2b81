"""The errors of this library that are also Agno's `ModelProviderError`, so that Agno handles them.

    ModelProviderError (Agno)
    |- ModelCallError: a call that failed for good, with its verdict
    |  |- KeyRejectedError: the provider refused every key that was tried
    |  |- ContextOverflowError: also Agno's ContextWindowExceededError, so that Agno compresses and retries
    |  |- BudgetExceededError: it would cost more than a budget has left
    |  |- ModelNotFoundError: the model id is unknown or retired
    |  `- StreamInterruptedError: a stream that broke after content had been received
    |- ChainExhaustedError: no entry of a fallback chain could answer
    `- KeysExhaustedError: also Agno's ModelRateLimitError and keycycle's NoAvailableKeyError

    KeyNotFoundError (keycycle): ours lists the existing keys

They are not in `contract/errors.py` because importing Agno's exceptions takes 0.3 s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agno.exceptions import ContextWindowExceededError, ModelProviderError, ModelRateLimitError

from hfs_providers.calls import _keycycle
from hfs_providers.calls._keycycle import NoAvailableKeyError
from hfs_providers.calls.verdicts import Verdict
from hfs_providers.contract.error_rules import Kind
from hfs_providers.contract.errors import HfsProvidersError, PoolExhaustedError
from hfs_providers.money.budgets import OverBudget
from hfs_providers.money.prices import NANO


def reads_as_overflow(verdict: Verdict) -> bool:
    """Whether a rejected request was too long for the model, by Agno's test of the provider's message.

    Some providers have no code for a prompt that does not fit, and Agno's compression depends on knowing it. Nothing
    else is decided by the words of a message, and it never changes a key's state. A 402 is about credits, even if its
    message suggests fewer tokens.
    """
    if verdict.kind != "bad_request" or verdict.status == 402:
        return False
    return isinstance(ModelProviderError.classify(ModelProviderError(verdict.message)), ContextWindowExceededError)


class ModelCallError(HfsProvidersError, ModelProviderError):
    """A call that failed for good.

    Args:
        message: what failed and why, with keys removed.
        provider, model_id, key_id: where the request was sent; `key_id` is that of the last attempt, or None.
        verdict: what the provider's answer meant (docs/verdicts.md), with keys removed.
        status_code: the provider's HTTP status, or the closest equivalent.
        attempts: requests sent for this call.
    """

    def __init__(
        self,
        message: str,
        *,
        provider: str,
        model_id: str,
        verdict: Verdict,
        status_code: int = 502,
        key_id: str | None = None,
        attempts: int = 1,
    ) -> None:
        ModelProviderError.__init__(self, message, status_code, provider, model_id)
        self.provider = provider
        self.verdict = verdict
        self.key_id = key_id
        self.attempts = attempts

    @property
    def kind(self) -> Kind:
        """The kind of the verdict."""
        return self.verdict.kind


class KeyRejectedError(ModelCallError):
    """The provider refused the key, and there is no other to try."""


class BudgetExceededError(ModelCallError):
    """A request that would cost more than a budget has left, or whose model has no price. It was not sent.

    Args:
        over: the budget, and how much of it is spent.
        provider, model_id: the model that was not asked.
        free_in: seconds until the budget's next period begins; infinite if waiting does not help.
        attempts: requests that this call had sent before.
    """

    def __init__(self, over: OverBudget, provider: str, model_id: str, free_in: float, attempts: int) -> None:
        self.budget = over.budget.name
        self.limit_usd = over.budget.nanousd / NANO
        self.spent_usd = over.use.spent / NANO
        self.free_in = free_in if math.isfinite(free_in) else None
        name = f"{provider}/{model_id}"
        remedy = f"It resets in {free_in:.0f} s. Raise `usd` in [{over.budget.name}], or use a model that costs less"
        if over.claim is None:
            remedy = f'Set [prices."{name}"], or unpriced = "allow" in [{over.budget.name}]'
        message = f"{name} was not asked: {over}. {remedy}"
        verdict = Verdict("rate_limited", 429, "budget_exceeded", message, self.free_in, sent=False)
        super().__init__(
            message, provider=provider, model_id=model_id, verdict=verdict, status_code=429, attempts=attempts
        )


class ContextOverflowError(ModelCallError, ContextWindowExceededError):
    """The messages do not fit into the model's context window, or exceed the size limit of one request."""


class ModelNotFoundError(ModelCallError):
    """The provider does not serve the model that the caller named.

    Args:
        successor: the model that follows it in the plugin's list, or None.
        call: as for `ModelCallError`.
    """

    def __init__(
        self, message: str, *, provider: str, model_id: str, successor: str | None = None, **call: Any
    ) -> None:
        hint = f" Its successor is {successor!r}." if successor else ""
        super().__init__(
            f"{provider} does not serve the model {model_id!r}.{hint} Run: hfs-providers models {provider} --live. "
            f"({message})",
            provider=provider,
            model_id=model_id,
            **call,
        )
        self.successor = successor


class StreamInterruptedError(ModelCallError):
    """A stream that broke after content had been received. It is not repeated: the caller has got a part of it.

    Args:
        received: the text that arrived.
        call: as for `ModelCallError`.
    """

    def __init__(self, message: str, *, received: str, **call: Any) -> None:
        super().__init__(message, **call)
        self.received = received


class KeysExhaustedError(HfsProvidersError, ModelRateLimitError, NoAvailableKeyError):  # type: ignore[misc]
    """No key can serve a call now. Agno's handlers see a rate limit, keycycle's an exhausted pool.

    Args:
        pool: the state of the provider's keys; its counts and `free_in` are also fields of this error.
        reasons: by provider, why it could not serve (several if every provider was asked).
        provider, model_id: `all` and `any` if every provider was asked.
    """

    def __init__(
        self,
        pool: PoolExhaustedError,
        *,
        reasons: Mapping[str, str] | None = None,
        provider: str | None = None,
        model_id: str | None = None,
    ) -> None:
        self.reasons = dict(reasons or {pool.provider: str(pool)})
        text = "; ".join(self.reasons.values())
        # keycycle's and Agno's __init__ call super() with arguments that the other does not take. So neither is called,
        # and the fields that their handlers read are set here.
        Exception.__init__(self, text)
        self.message = text
        self.status_code = 429
        self.type = "model_provider_error"
        self.error_id = "model_rate_limit_error"
        self.provider = provider or pool.provider
        self.model_id = model_id or pool.model_id
        self.model_name = self.provider
        self.wait = pool.timeout > 0
        self.timeout = pool.timeout
        self.total_keys = pool.total
        self.cooling_down = pool.cooling
        self.limited = pool.limited
        self.dead = pool.dead
        self.free_in = pool.free_in

    @property
    def verdict(self) -> Verdict:
        """A rate limit of all keys, until the next is free."""
        return Verdict("rate_limited", 429, None, self.message, self.free_in, sent=False)


class KeyNotFoundError(HfsProvidersError, _keycycle.KeyNotFoundError):
    """A caller named a key that the provider does not have: by id, by position, or by the key itself.

    The message shows the identifier only if it cannot be a key.

    Args:
        identifier: what the caller gave, if it can be shown.
    """

    def __init__(self, provider: str, key_ids: Sequence[str], identifier: int | str | None = None) -> None:
        self.provider = provider
        self.key_ids = tuple(key_ids)
        self.identifier = identifier
        said = f" {identifier!r}" if identifier is not None else " like the one asked for"
        known = ", ".join(self.key_ids) or "none"
        # keycycle's own `__init__` would write another text.
        Exception.__init__(self, f"{provider} has no key{said}. Its keys: {known}")


class ChainExhaustedError(HfsProvidersError, ModelProviderError):
    """No entry of a fallback chain could answer.

    Args:
        causes: the error of each entry (`provider/model`), in the order of the requests; a text if it was not asked.
    """

    def __init__(self, causes: Mapping[str, BaseException | str]) -> None:
        self.reasons = {entry: reason_of(entry, cause) for entry, cause in causes.items()}
        self.causes = {entry: cause for entry, cause in causes.items() if isinstance(cause, BaseException)}
        listed = "; ".join(f"{entry}: {reason}" for entry, reason in self.reasons.items())
        first = next(iter(self.reasons), None)
        ModelProviderError.__init__(self, f"no entry of the chain could answer: {listed}", 503, "chain", first)

    def __reduce__(self) -> tuple[Any, ...]:
        # The causes are left out, because an SDK's error may hold a connection. The reasons are kept.
        rebuild, (cls, args, fields) = super().__reduce__()
        return rebuild, (cls, args, {**fields, "causes": {}})


def reason_of(entry: str, cause: BaseException | str) -> str:
    """The error's message, or why the entry was not asked, without the entry's name in front."""
    return str(cause).removeprefix(f"{entry}: ") or type(cause).__name__


_STATUS_OF: Mapping[Kind, int] = {
    "dead": 401,
    "model_gone": 404,
    "context_overflow": 400,
    "bad_request": 400,
    "refused": 403,
    "overloaded": 503,
    "local": 500,
}


def call_error(
    verdict: Verdict,
    error: BaseException,
    *,
    provider: str,
    model_id: str,
    key_id: str,
    attempts: int,
    successor: str | None,
    received: str | None,
) -> ModelCallError:
    """The error of a call that failed for good; `received` is the text that the caller already has, or None."""
    words = verdict.message or type(error).__name__
    message = f"{provider}/{model_id}: {words}"
    status = verdict.status if verdict.status and 400 <= verdict.status < 600 and verdict.status != 529 else None
    fields: dict[str, Any] = {
        "provider": provider,
        "model_id": model_id,
        "verdict": verdict,
        "key_id": key_id,
        "attempts": attempts,
        "status_code": status or _STATUS_OF.get(verdict.kind, 502),
    }
    if verdict.kind == "model_gone":
        return ModelNotFoundError(words, successor=successor, **fields)
    if received is not None:
        fields |= {"verdict": replace(verdict, kind="interrupted"), "status_code": 502}
        return StreamInterruptedError(message, received=received, **fields)
    if verdict.kind == "context_overflow":
        return ContextOverflowError(message, **fields)
    if verdict.kind == "dead":
        return KeyRejectedError(f"{provider} refused {key_id}: {words}", **fields)
    if verdict.kind == "local" and isinstance(error, ModelProviderError):
        message += " (raised locally, not by the provider)"
    return ModelCallError(message, **fields)
