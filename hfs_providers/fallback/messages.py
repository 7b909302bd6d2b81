"""Rewrites a request for one model so that another provider's model understands it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agno.models.message import Message
from agno.utils.prompts import get_json_output_prompt
from pydantic import BaseModel

from hfs_providers.contract.message_rules import MessageRules

if TYPE_CHECKING:
    from agno.models.base import Model


def converted(
    model: Model, messages: list[Message], options: Mapping[str, Any], rules: MessageRules
) -> tuple[list[Message], dict[str, Any]]:
    """Messages and keyword arguments of `invoke` for one model; the given ones are not changed."""
    # Its guidance is removed from the chain's own messages when the request is done: the model has a copy.
    accepted = {name: value for name, value in options.items() if name != "retry_with_guidance"}
    sent = [_rewritten(model, message, rules) for message in messages]
    wanted = accepted.get("response_format")
    if wanted is not None:
        sent, accepted["response_format"] = _formatted(model, sent, wanted, rules)
    return sent, accepted


def _rewritten(model: Model, message: Message, rules: MessageRules) -> Message:
    calls = message.tool_calls
    if not calls:
        return message
    wanted = list(rules.tool_calls(model.id, calls))
    return message if wanted == calls else message.model_copy(update={"tool_calls": wanted})


def _formatted(model: Model, messages: list[Message], wanted: Any, rules: MessageRules) -> tuple[list[Message], Any]:
    """Messages and `response_format`: a native schema, a JSON schema or a description, as the model supports."""
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        if model.supports_native_structured_outputs:
            return messages, wanted
        if model.supports_json_schema_outputs:
            schema = {"name": wanted.__name__, "schema": wanted.model_json_schema()}
            return messages, {"type": "json_schema", "json_schema": schema}
        return _described(messages, _in_words(wanted)), {"type": "json_object"}
    if not isinstance(wanted, Mapping) or wanted.get("type") != "json_schema":
        return messages, wanted
    if model.supports_json_schema_outputs or (model.supports_native_structured_outputs and rules.json_schemas):
        # A copy: some of Agno's classes write to it.
        return messages, copy.deepcopy(wanted)
    schema = (wanted.get("json_schema") or {}).get("schema") or {}
    words = f"Answer only with JSON that fits this JSON schema:\n{json.dumps(schema, ensure_ascii=False)}"
    return _described(messages, words), {"type": "json_object"}


def _in_words(wanted: Any) -> str:
    # Untyped: Agno's annotation names an instance where its code takes the class.
    return get_json_output_prompt(wanted)


def _described(messages: list[Message], words: str) -> list[Message]:
    head = messages[0] if messages and messages[0].role in ("system", "developer") else None
    if head is None:
        return [Message(role="system", content=words), *messages]
    said = head.get_content_string()
    if "<json_fields>" in said or words in said:
        return messages
    return [head.model_copy(update={"content": f"{said}\n\n{words}"}), *messages[1:]]
