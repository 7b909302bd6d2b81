"""How messages of other providers' models are changed for a provider's models, as data of its plugin:
`KeyedProvider.messages`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

ToolCalls: TypeAlias = Sequence[dict[str, Any]]
"""The tool calls of one message, as Agno keeps them."""

_CALL_FIELDS = ("id", "type", "function")


def plain_tool_calls(model_id: str, calls: ToolCalls) -> ToolCalls:
    """Tool calls without further fields: servers of the OpenAI family refuse those that they do not know."""
    return [{name: call[name] for name in _CALL_FIELDS if name in call} for call in calls]


@dataclass(frozen=True, kw_only=True)
class MessageRules:
    """How messages and schemas for another provider's models are changed for a provider's own models.

    Args:
        tool_calls: called with the arguments of `plain_tool_calls`, which is the default: the id of the model that is
            asked, and the tool calls of a message of any model. Returns the tool calls to send, and changes nothing.
        json_schemas: whether a model class with native structured outputs accepts a JSON schema as `response_format`;
            False if it accepts only a pydantic class.
    """

    tool_calls: Callable[[str, ToolCalls], ToolCalls] = plain_tool_calls
    json_schemas: bool = True


ANY_MESSAGES = MessageRules()
"""The rules for models whose plugin is not known."""
