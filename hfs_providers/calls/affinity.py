"""The affinity of a call: a hash of the beginning of its conversation, so that the conversation keeps its key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import PurePath
from typing import Any

CONVERSATION = "conversation"
"""The default affinity: by the beginning of the conversation."""

SESSION = "session"
"""The affinity by Agno's session id; by the conversation if there is no session."""

_NO_FIELDS: Mapping[str, Any] = {}
_MEDIA = ("images", "audio", "videos", "files")
_TEXTS = (str, PurePath)
_BYTES = (bytes, bytearray, memoryview)
_PART_FIELDS = ("text", "content", "url", "filepath")
# Bytes and long texts such as data URLs are hashed by their length and their first characters, other texts as a whole.
_HEAD = 64
_SHORT = 1024
# Ends a text. UTF-8 does not contain it.
_END = b"\xff"


def affinity_of_call(
    chosen: str | None, messages: Iterable[Any], tools: Iterable[Any] | None = None, session: str | None = None
) -> int | None:
    """The affinity of a call, for `KeyPool.acquire`; None if it has none.

    Args:
        chosen: `CONVERSATION`, `SESSION`, the name of an affinity, or None.
        messages: Agno's or OpenAI's. The text and media of those up to the user's first message are hashed.
        tools: the tools that the model may call. Their names are hashed.
        session: the id of the session.
    """
    if chosen == SESSION:
        chosen = session or CONVERSATION
    if chosen != CONVERSATION:
        return None if chosen is None else _number(sha256(_encoded(chosen)))
    try:
        return _beginning(messages, tools)
    except RecursionError:
        # The code that sends such content reports the error.
        return None


def affinity_of_body(body: Mapping[str, Any], chosen: str | None = CONVERSATION) -> int | None:
    """The affinity of a request by its body in JSON, for `KeyPool.acquire`; None if it has none.

    Args:
        body: the request's body. Its `prompt_cache_key`, or else its `user`, names the affinity if `chosen` does not.
        chosen: as for `affinity_of_call`.
    """
    name = body.get("prompt_cache_key") or body.get("user")
    if chosen in (CONVERSATION, SESSION) and isinstance(name, str):
        return _number(sha256(_encoded(name)))
    messages = body.get("messages") or body.get("input")
    if isinstance(messages, str):
        messages = ({"role": "user", "content": messages},)
    elif not isinstance(messages, list | tuple):
        # Reading an iterator here would empty it for the SDK.
        messages = ()
    if system := body.get("instructions") or body.get("system"):
        messages = ({"role": "system", "content": system}, *messages)
    tools = body.get("tools")
    return affinity_of_call(chosen, messages, tools if isinstance(tools, list | tuple) else None)


def _beginning(messages: Iterable[Any], tools: Iterable[Any] | None) -> int | None:
    digest = sha256()
    begun = False
    for message in messages:
        fields = message if isinstance(message, dict) else getattr(message, "__dict__", _NO_FIELDS)
        role = fields.get("role")
        if role in ("system", "user", "developer"):
            begun = True
            content = fields.get("content")
            if content.__class__ is str:
                # The usual case, a microsecond faster.
                digest.update(_encoded(content))
                digest.update(_END)
            else:
                _add(digest, content)
            if role == "user":
                for name in _MEDIA:
                    if media := fields.get(name):
                        _add(digest, media)
                break
    if not begun:
        return None
    for tool in tools or ():
        digest.update(_encoded(_name_of(tool)) + _END)
    return _number(digest)


def _add(digest: Any, content: Any, name: str = "text") -> None:
    """Add a text, a medium, or a list of OpenAI's parts or Agno's media; `name` is the field that holds it."""
    if isinstance(content, _TEXTS):
        text = str(content)
        if name != "text" and len(text) > _SHORT:
            text = f"{len(text)} {text[:_HEAD]}"
        digest.update(_encoded(text))
        digest.update(_END)
    elif isinstance(content, _BYTES):
        digest.update(b"%d %b" % (len(content), bytes(content[:_HEAD])))
    elif isinstance(content, Sequence):
        for inner in content:
            _add(digest, inner)
    elif content is not None:
        if not isinstance(content, Mapping):
            content = {each: getattr(content, each, None) for each in _PART_FIELDS}
        for each, inner in content.items():
            # It marks the end of the cached part, which moves with each turn.
            if each != "cache_control":
                _add(digest, inner, each)


def _number(digest: Any) -> int:
    return int.from_bytes(digest.digest()[:8], "big")


def _name_of(tool: Any) -> str:
    if isinstance(tool, Mapping):
        tool = tool.get("function", tool)
        return str(tool.get("name") or tool.get("type")) if isinstance(tool, Mapping) else ""
    return str(getattr(tool, "name", ""))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
