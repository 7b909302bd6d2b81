"""Makes a request that any entry of a chain understands out of one that was meant for another."""

from __future__ import annotations

import base64
import copy
import inspect
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from agno.models.message import Message
from agno.utils.prompts import get_json_output_prompt
from pydantic import BaseModel

if TYPE_CHECKING:
    from agno.models.base import Model

# https://ai.google.dev/gemini-api/docs/thought-signatures: for a call that another model made.
_UNSIGNED = base64.b64encode(b"skip_thought_signature_validator").decode("ascii")
_GEMINI_BEFORE_3 = re.compile(r"gemini-[12](\.|-|$)")
_CALL_FIELDS = ("id", "type", "function")


def converted(
    model: Model, messages: list[Message], options: Mapping[str, Any]
) -> tuple[list[Message], dict[str, Any]]:
    """Messages and keyword arguments of `invoke` for one model; what is given is not written to.

    Args:
        model: who is to serve.
        messages: the history, which other models may have written.
        options: keyword arguments of `invoke`.
    """
    accepted = dict(options)
    if "retry_with_guidance" in accepted and not _takes_guidance(_own_class(model)):
        del accepted["retry_with_guidance"]
    rewrite = _for_gemini if is_gemini(model) else _for_others
    sent = [rewrite(model, message) for message in messages]
    wanted = accepted.get("response_format")
    if wanted is not None:
        sent, accepted["response_format"] = _formatted(model, sent, wanted)
    return sent, accepted


def is_gemini(model: Model) -> bool:
    """Whether a model is of Agno's class for Google's own API."""
    return any(base.__module__.startswith("agno.models.google") for base in type(model).__mro__)


def _own_class(model: Model) -> type[Model]:
    # A rotating model's own `invoke` takes whatever its provider's class takes.
    own: type[Model] = getattr(type(model), "_bound_class", type(model))
    return own


@cache
def _takes_guidance(own_class: type[Model]) -> bool:
    parameters = inspect.signature(own_class.invoke).parameters
    return "retry_with_guidance" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _for_gemini(model: Model, message: Message) -> Message:
    calls = message.tool_calls
    if not calls or "thought_signature" in calls[0] or _GEMINI_BEFORE_3.match(model.id):
        return message
    # Of parallel calls Gemini signs the first alone.
    return message.model_copy(update={"tool_calls": [{**calls[0], "thought_signature": _UNSIGNED}, *calls[1:]]})


def _for_others(model: Model, message: Message) -> Message:
    if not message.tool_calls or all(call.keys() <= set(_CALL_FIELDS) for call in message.tool_calls):
        return message
    # Providers of the OpenAI family refuse fields that they do not know.
    calls = [{name: call[name] for name in _CALL_FIELDS if name in call} for call in message.tool_calls]
    return message.model_copy(update={"tool_calls": calls})


def _formatted(model: Model, messages: list[Message], wanted: Any) -> tuple[list[Message], Any]:
    """Messages and `response_format`: natively, as a JSON schema, or described in words, whichever the model knows."""
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        if model.supports_native_structured_outputs:
            return messages, wanted
        if model.supports_json_schema_outputs:
            schema = {"name": wanted.__name__, "schema": wanted.model_json_schema()}
            return messages, {"type": "json_schema", "json_schema": schema}
        return _described(messages, _in_words(wanted)), {"type": "json_object"}
    if not isinstance(wanted, Mapping) or wanted.get("type") != "json_schema":
        return messages, wanted
    if model.supports_json_schema_outputs or (model.supports_native_structured_outputs and not is_gemini(model)):
        # A copy: Agno's Cerebras class writes to it.
        return messages, copy.deepcopy(wanted)
    # Agno's Gemini class takes no schema but a pydantic class.
    schema = (wanted.get("json_schema") or {}).get("schema") or {}
    words = f"Answer with JSON alone, that fits this JSON schema:\n{json.dumps(schema, ensure_ascii=False)}"
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
