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
    """What the models of a provider need of messages, and of schemas, that were meant for another provider's models.

    Args:
        tool_calls: called as `plain_tool_calls`, which is the default: with the id of the model that is asked, and the
            tool calls of a message that any model may have written. Returns what is sent for them, and writes to
            nothing.
        json_schemas: whether a model class with native structured outputs takes a JSON schema as `response_format`;
            False if it takes a pydantic class only.
    """

    tool_calls: Callable[[str, ToolCalls], ToolCalls] = plain_tool_calls
    json_schemas: bool = True


ANY_MESSAGES = MessageRules()
"""The rules for models whose plugin is not known."""
