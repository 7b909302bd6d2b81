"""How a bound copy of a model checks each raw answer, before Agno drops the fields that it does not use.

The classes are mixed in before the provider's own: see `model.rotating_class`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agno.models.response import ModelResponse

from hfs_providers.calls.verdicts import Verdict

if TYPE_CHECKING:
    from hfs_providers.calls.backend import Rotation
    from hfs_providers.contract.error_rules import Kind

_NO_FIELDS: Mapping[str, Any] = {}

# The events that end a stream of OpenAI's Responses API.
_LAST_EVENTS = frozenset({"response.completed", "response.incomplete"})
_FAILED_EVENTS = frozenset({"response.failed", "error"})


class UnusableAnswerError(Exception):
    """An answer with status 200 that cannot be used: empty, an error, not a completion, or a stream that was cut off.

    Args:
        body: the provider's own error in the answer, if any. Its code and message say more than `kind`.
    """

    def __init__(self, kind: Kind, message: str, body: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.verdict = None if body is not None else Verdict(kind, None, None, message)
        self.body = body


class Counting:
    """For all SDKs: adds the cached tokens, which Agno's classes do not all read."""

    _hfs: Rotation

    def _get_metrics(self, response_usage: Any) -> Any:
        metrics = super()._get_metrics(response_usage)  # type: ignore[misc]
        if not metrics.cache_read_tokens:
            fields = self._hfs.backend.traits.usage_fields
            metrics.cache_read_tokens, metrics.cache_write_tokens = fields.cache_tokens(response_usage)
        return metrics


class Observed(Counting):
    """For SDKs whose answers are pydantic models with `choices`, `candidates` or (the Responses API) `output`."""

    def _parse_provider_response(self, response: Any, **kwargs: Any) -> ModelResponse:
        try:
            # Read from the instance: for a field that a pydantic model lacks, getattr is slow.
            fields = response.__dict__
        except AttributeError:
            # An SDK returns a body that is not a JSON object unchanged. Agno would fail on it as if it had a bug.
            raise UnusableAnswerError(
                "server_error" if response else "empty", "the answer is not a completion"
            ) from None
        choices = fields.get("choices") or fields.get("candidates")
        if choices:
            first = choices[0]
            if first is None:
                raise UnusableAnswerError("server_error", "the answer is not a completion")
            extra = getattr(first, "__pydantic_extra__", None)
            if extra and (error := extra.get("error")):
                # An aggregator reports in this way that the provider behind it failed after the aggregator's own 200.
                raise _failed(error)
        elif fields.get("prompt_feedback") is None:
            if error := _error_in(response, fields):
                raise error
            if not fields.get("output"):
                raise UnusableAnswerError("empty", "the answer is empty")
        parsed: ModelResponse = super()._parse_provider_response(response, **kwargs)  # type: ignore[misc]
        return parsed

    def _parse_provider_response_delta(self, response: Any = None, *args: Any, **kwargs: Any) -> Any:
        if response is None:
            # Agno's Responses classes pass keyword arguments; the first is the event.
            fields = getattr(next(iter(kwargs.values()), None), "__dict__", _NO_FIELDS)
        else:
            fields = getattr(response, "__dict__", _NO_FIELDS)
            args = (response, *args)
        choices = fields.get("choices") or fields.get("candidates") or ()
        for choice in choices:
            if choice.finish_reason is not None:
                self.__dict__["_hfs_finished"] = True
                if error := _extra_of(choice).get("error"):
                    raise _failed(error)
        if not choices and (kind := fields.get("type")) is not None:
            self._event_seen(kind, fields)
        usage = fields.get("usage")
        if not choices and "choices" in fields:
            # The chunk that has only usage; some of Agno's classes would index into its empty choices.
            return ModelResponse(response_usage=self._get_metrics(usage) if usage else None)
        parsed: Any = super()._parse_provider_response_delta(*args, **kwargs)  # type: ignore[misc]
        if usage and parsed.response_usage is None:
            parsed.response_usage = self._get_metrics(usage)
        return parsed

    def _event_seen(self, kind: object, fields: Mapping[str, Any]) -> None:
        """Note whether an event of the Responses API ends the stream."""
        if kind in _LAST_EVENTS:
            self.__dict__["_hfs_finished"] = True
        elif kind in _FAILED_EVENTS:
            raise _failed(getattr(fields.get("response"), "error", None) or dict(fields))


class Asked(Counting):
    """As `Observed`, for SDKs whose answers only the plugin's own `Clients` can check."""

    def _parse_provider_response(self, response: Any, **kwargs: Any) -> ModelResponse:
        if not self._hfs.backend.clients.usable(response):
            raise UnusableAnswerError("empty", "the answer is empty")
        parsed: ModelResponse = super()._parse_provider_response(response, **kwargs)  # type: ignore[misc]
        return parsed

    def _parse_provider_response_delta(self, response: Any = None, *args: Any, **kwargs: Any) -> Any:
        if response is not None:
            args = (response, *args)
        if self._hfs.backend.clients.ends(args[0] if args else next(iter(kwargs.values()))):
            self.__dict__["_hfs_finished"] = True
        return super()._parse_provider_response_delta(*args, **kwargs)  # type: ignore[misc]


OBSERVERS: Mapping[str, tuple[type, ...]] = {"unknown": (Counting,), "choices": (Observed,), "asked": (Asked,)}
"""The classes that are mixed in, by `Clients.answers`."""


def _extra_of(thing: object) -> Mapping[str, Any]:
    """The fields that an SDK's pydantic model does not declare."""
    extra = getattr(thing, "__pydantic_extra__", None)
    return extra if isinstance(extra, Mapping) else _NO_FIELDS


def _error_in(response: object, fields: Mapping[str, Any]) -> UnusableAnswerError | None:
    """The provider's error in an answer without choices, or None."""
    extra = _extra_of(response)
    if error := extra.get("error") or fields.get("error"):
        return _failed(error)
    # Some servers send the error's fields without a wrapping object.
    return _failed(extra) if isinstance(extra.get("message"), str) else None


def _failed(error: object) -> UnusableAnswerError:
    dump = getattr(error, "model_dump", None)
    body = {"error": dump() if callable(dump) else dict(error) if isinstance(error, Mapping) else error}
    return UnusableAnswerError("server_error", "the provider failed while answering", body)
