"""The answers of simulated providers without a script: always the same for the same request."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hfs_providers.testing.scripts import Ok

_DEEPEST = 8
# The fields of a prompt, in the order in which a model reads them.
_PROMPT = ("tools", "system", "systemInstruction", "instructions", "messages", "contents", "input")
_BLOCK = 128
_LEAST = (("minimum", 0), ("exclusiveMinimum", 1))
_FORMATS = {"date": "2026-01-31", "date-time": "2026-01-31T12:00:00Z", "time": "12:00:00Z", "email": "a@example.com"}
_SCHEMA_IN_WORDS = re.compile(r"JSON that fits this JSON schema:\n(\{.*)", re.DOTALL)
# Agno describes a schema in the system prompt if it uses JSON mode.
_FIELDS_IN_WORDS = re.compile(r"<json_field_properties>\s*(\{.*?\})\s*</json_field_properties>", re.DOTALL)


@dataclass(frozen=True)
class Request:
    """One request, read by its dialect.

    Args:
        provider: the provider whose path it was sent to.
        path, method: the path and method of HTTP.
        stream: whether it asks for a stream.
        prompt: the user's last message.
        tool_result: the last tool's result, or None.
        tools: names and JSON schemas of the tools that may be called.
        schema: the JSON schema that the answer must match, `{}` for any JSON, or None for text.
        wants_usage: whether it asks for the usage of a stream.
    """

    provider: str
    key: str = field(repr=False)
    model: str
    path: str
    method: str = "POST"
    stream: bool = False
    prompt: str = ""
    tool_result: str | None = None
    tools: Sequence[tuple[str, Mapping[str, Any]]] = ()
    schema: Mapping[str, Any] | None = None
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    wants_usage: bool = False


def think(request: Request) -> Ok:
    """An answer: a call of the first tool, the tool's result, JSON that matches the schema, or a sentence."""
    if request.tools and request.tool_result is None:
        name, schema = request.tools[0]
        return Ok(tool_calls=[(name, _example({"type": "object", **schema}, request.prompt))])
    if request.schema is not None:
        said = request.prompt if request.tool_result is None else request.tool_result
        return Ok(text=json.dumps(_example(request.schema, said) if request.schema else {"answer": said}))
    if request.tool_result is not None:
        return Ok(text=f"[{request.provider}/{request.model}] The tool says: {request.tool_result}")
    return Ok(text=f"[{request.provider}/{request.model}] You said: {request.prompt}")


class PromptCache:
    """An `answer` for `LoopbackServer` that gives the usual answers and has a prompt cache per key and model.

    `Ok.cached` is the number of tokens at the beginning of the prompt that were seen before, in blocks of 128.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], set[int]] = {}

    def __call__(self, request: Request) -> Ok:
        known = self._known.setdefault((request.provider, request.key, request.model), set())
        words = json.dumps([request.body.get(name) for name in _PROMPT]).split()
        cached = prefix = 0
        for end in range(_BLOCK, len(words) + 1, _BLOCK):
            prefix = hash((prefix, *words[end - _BLOCK : end]))
            if prefix in known:
                cached = end
            known.add(prefix)
        return replace(think(request), cached=cached)


def schema_in_words(system: str) -> Mapping[str, Any] | None:
    """The JSON schema that Agno describes in a system prompt, or that a chain writes into it; or None."""
    if whole := _SCHEMA_IN_WORDS.search(system):
        schema: Mapping[str, Any] = json.JSONDecoder().raw_decode(whole[1])[0]
        return schema
    found = _FIELDS_IN_WORDS.search(system)
    if found is None:
        return None
    try:
        fields = json.loads(found.group(1))
    except ValueError:
        return None
    definitions = {
        name: inner if "type" in inner else {"type": "object", "properties": inner}
        for name, inner in fields.pop("$defs", {}).items()
    }
    return {"type": "object", "properties": fields, "required": list(fields), "$defs": definitions}


def count(text: str) -> int:
    """The tokens of a text: the number of its words, at least one."""
    return max(1, len(text.split()))


def _example(schema: Mapping[str, Any], text: str, root: Mapping[str, Any] | None = None, depth: int = 0) -> Any:
    """A value that matches a JSON schema; its strings are `text`. Patterns are ignored."""
    root = schema if root is None else root
    if "$ref" in schema:
        return _example(_resolved(schema["$ref"], root), text, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf"):
        if schema.get(choice):
            return _example(_simplest(schema[choice], depth), text, root, depth + 1)
    if schema.get("allOf"):
        return _example(_merged(schema, root), text, root, depth + 1)
    kind = _kind(schema)
    if kind == "object":
        return _object(schema, text, root, depth)
    if kind == "array":
        least = int(schema.get("minItems") or (depth < _DEEPEST))
        return [_example(schema.get("items", {}), text, root, depth + 1) for _ in range(least)]
    if kind in ("integer", "number"):
        return _number(schema, whole=kind == "integer")
    return {"boolean": True, "null": None}[kind] if kind in ("boolean", "null") else _string(schema, text)


def _resolved(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part, {})
    return dict(found)


def _simplest(choices: Sequence[Mapping[str, Any]], depth: int) -> Mapping[str, Any]:
    """The first choice that is not null; null at a certain depth, because a schema may contain itself."""
    null = [choice for choice in choices if _kind(choice) == "null"]
    if null and depth >= _DEEPEST:
        return null[0]
    return next((choice for choice in choices if choice not in null), choices[0])


def _merged(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    merged = {name: value for name, value in schema.items() if name != "allOf"}
    for part in schema["allOf"]:
        whole = _resolved(part["$ref"], root) if "$ref" in part else part
        properties = {**merged.get("properties", {}), **whole.get("properties", {})}
        merged = {**whole, **merged, **({"properties": properties} if properties else {})}
    return merged


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "array" if "items" in schema else "string")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    return str(kind).lower()  # Google writes types in capitals


def _object(schema: Mapping[str, Any], text: str, root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    required = schema.get("required") or ()
    # Below a certain depth only required fields: an optional field may be the schema itself again.
    wanted = {n: s for n, s in (schema.get("properties") or {}).items() if n in required or depth < _DEEPEST}
    return {name: _example(inner, text, root, depth + 1) for name, inner in wanted.items()}


def _number(schema: Mapping[str, Any], whole: bool) -> int | float:
    # 0.5 also fits a field whose description alone asks for a fraction.
    value: float = max([1 if whole else 0.5, *(schema[name] + more for name, more in _LEAST if name in schema)])
    value = min(value, schema.get("maximum", value), schema.get("exclusiveMaximum", value + 1) - 1)
    return int(value) if whole else value


def _string(schema: Mapping[str, Any], text: str) -> str:
    value = _FORMATS.get(schema.get("format", ""), text).ljust(int(schema.get("minLength") or 0), ".")
    return value[: int(schema["maxLength"])] if "maxLength" in schema else value
