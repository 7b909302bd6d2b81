"""What a provider's usage counts besides its tokens, as data that its plugin brings: `KeyedProvider.usage_fields`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol


class Counted(Protocol):
    """Tokens as a provider counted them, under the names that Agno uses."""

    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def total_tokens(self) -> int: ...
    @property
    def cache_read_tokens(self) -> int: ...
    @property
    def cache_write_tokens(self) -> int: ...


class Tokens(NamedTuple):
    """Tokens of one request. Those of a cache are among the input tokens."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class UsageFields:
    """Where an answer's usage says how many tokens came from a cache, and what its counts leave out.

    Args:
        cached: paths (`details.cached_tokens`) of the input tokens that were read from a cache. The first that is there
            counts.
        cache_write: paths of the input tokens that were written into a cache.
        cache_apart: the provider's input tokens leave out both.
        reasoning_apart: the provider's output tokens leave out those of reasoning.
    """

    cached: Sequence[str] = ("prompt_tokens_details.cached_tokens", "input_tokens_details.cached_tokens")
    cache_write: Sequence[str] = ("prompt_tokens_details.cache_write_tokens",)
    cache_apart: bool = False
    reasoning_apart: bool = False

    def cache_tokens(self, usage: Any) -> tuple[int, int]:
        """The tokens that were read from a cache, and those that were written into it.

        Args:
            usage: as the SDK gives it.
        """
        return _first(usage, self.cached), _first(usage, self.cache_write)

    def read(self, usage: Any) -> Tokens:
        """The tokens of an answer.

        Args:
            usage: as the SDK or the body of the answer has it.
        """
        # A provider may have OpenAI's protocol besides its own: these names are of that.
        fields = self if field_of(usage, "prompt_tokens") is None else COMMON_FIELDS
        read, written = fields.cache_tokens(usage)
        given = _first(usage, ("prompt_tokens", "input_tokens")) + (read + written if fields.cache_apart else 0)
        taken = _first(usage, ("completion_tokens", "output_tokens"))
        return Tokens(given, taken, _first(usage, ("total_tokens",)) or given + taken, read, written)

    def whole(self, usage: Any) -> Counted:
        """The tokens with those that the provider's counts leave out.

        Args:
            usage: Agno's metrics.
        """
        if not (self.cache_apart or self.reasoning_apart):
            counted: Counted = usage
            return counted
        read, written = usage.cache_read_tokens, usage.cache_write_tokens
        given = usage.input_tokens + (read + written if self.cache_apart else 0)
        taken = usage.output_tokens + (usage.reasoning_tokens if self.reasoning_apart else 0)
        # A total may leave out the same, or nothing.
        return Tokens(given, taken, max(usage.total_tokens, given + taken), read, written)


COMMON_FIELDS = UsageFields()
"""As most providers name them."""


def field_of(found: Any, name: str) -> Any:
    """A field of an SDK's object or of a mapping; None if there is none."""
    if type(found) is dict:
        return found.get(name)
    # Read from the instance: for a field that a pydantic model lacks, getattr is slow.
    extra = getattr(found, "__pydantic_extra__", found)
    if extra is not found:
        fields = found.__dict__
        return fields[name] if name in fields else extra.get(name) if extra else None
    return found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)


@cache
def _names(path: str) -> Sequence[str]:
    return path.split(".")


def _first(usage: Any, paths: Sequence[str]) -> int:
    for path in paths:
        value = usage
        for name in _names(path):
            value = value.get(name) if type(value) is dict else field_of(value, name)
            if value is None:
                break
        if isinstance(value, int):
            return value
    return 0
