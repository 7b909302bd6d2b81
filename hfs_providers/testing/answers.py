"""What the simulated providers say where no script says it: always the same to the same request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hfs_providers.testing.scripts import Ok


@dataclass(frozen=True)
class Request:
    """One request, read by its dialect.

    Args:
        provider: whose path it came in on.
        key: the caller's key.
        model: the model asked for.
        path, method: of HTTP.
        stream: whether a stream was asked for.
        prompt: the last thing that the user said.
        tool_result: the last tool's result, or None.
        tools: names and JSON schemas of the tools on offer.
        schema: the JSON schema that the answer must fit, `{}` for any JSON, or None for text.
        body: the decoded body.
        wants_usage: whether a stream's usage was asked for.
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
    """An answer: a call of the first tool, the tool's result, JSON for the schema, or a sentence."""
    if request.tools and request.tool_result is None:
        name, schema = request.tools[0]
        return Ok(tool_calls=[(name, _example(schema, request.prompt))])
    if request.schema is not None:
        return Ok(text=json.dumps(_example(request.schema, request.prompt) or {"answer": request.prompt}))
    if request.tool_result is not None:
        return Ok(text=f"[{request.provider}/{request.model}] The tool says: {request.tool_result}")
    return Ok(text=f"[{request.provider}/{request.model}] You said: {request.prompt}")


def count(text: str) -> int:
    """Tokens of a text: its words, and at least one."""
    return max(1, len(text.split()))


def _example(schema: Mapping[str, Any], text: str, root: Mapping[str, Any] | None = None) -> Any:
    """A value that fits a JSON schema."""
    root = schema if root is None else root
    if "$ref" in schema:
        found: Any = root
        for part in str(schema["$ref"]).removeprefix("#/").split("/"):
            found = found.get(part, {})
        return _example(found, text, root)
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return _example(schema[choice][0], text, root)
    if schema.get("enum"):
        return schema["enum"][0]
    kind = str(schema.get("type", "object" if "properties" in schema else "")).lower()
    if kind == "object":
        return {name: _example(item, text, root) for name, item in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(schema.get("items", {}), text, root)]
    return {"integer": 1, "number": 1.5, "boolean": True, "null": None}.get(kind, text)
