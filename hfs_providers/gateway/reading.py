"""Reads an answer on its way: whether it is usable and complete, and the tokens that it used.

In a body that is not streamed, only a few top-level members are decoded. In a stream, an event is decoded only if a
search over its bytes finds usage, an error or the end of the stream in it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from hfs_providers.calls.answers import UnusableAnswerError
from hfs_providers.contract.http_api import Endpoint
from hfs_providers.contract.usage_fields import Tokens, UsageFields

_NULL = (b"", b"null", b"[]", b"{}", b'""')
_MOST_EVENT = 16 * 2**20

ANTHROPIC_USAGE = UsageFields(
    cached=("cache_read_input_tokens",), cache_write=("cache_creation_input_tokens",), cache_apart=True
)
"""The usage fields in answers of Anthropic's protocol, for all providers."""


class _Inner(msgspec.Struct):
    """`response` in an event of the Responses API, or `message` in one of Anthropic's."""

    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


class _Answer(msgspec.Struct):
    """A body, or an event of a stream."""

    type: msgspec.Raw = msgspec.Raw()
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    choices: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()
    output: msgspec.Raw = msgspec.Raw()
    content: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()


_ANSWER = msgspec.json.Decoder(_Answer)
_INNER = msgspec.json.Decoder(_Inner)
_USAGE = msgspec.json.Decoder(dict[str, Any])

_CONTENT: Mapping[Endpoint, str] = {
    "chat/completions": "choices",
    "responses": "output",
    "embeddings": "data",
    "messages": "content",
}
"""The member of a complete answer that must not be empty, by endpoint."""

# In a string inside an event, each quotation mark has a backslash before it: none of these can be content.
_TELLS_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_TELLS_ERROR = re.compile(rb'"error"(?!\s*:\s*null)')
_FINISH_REASON = re.compile(rb'"finish_reason"\s*:\s*"')
_TELLS_END = re.compile(rb'"response\.(?:completed|incomplete|failed)"')
_EVENT_ENDS = (b"\n\n", b"\n\r\n", b"\r\r")
_EVENT_END = re.compile(rb"\n\r?\n|\r\r")
_DATA = re.compile(rb"(?:^|\r)data: ?([^\r\n]*)", re.MULTILINE)
_LAST_TYPES = frozenset({b'"message_stop"', b'"response.completed"', b'"response.incomplete"'})
_FAILED_TYPES = frozenset({b'"error"', b'"response.failed"'})


def check_whole(endpoint: Endpoint, body: bytes, fields: UsageFields) -> Tokens | None:
    """The tokens of an answer that is not streamed.

    Raises:
        UnusableAnswerError: it is an error, or is empty.
    """
    if not body.strip():
        raise UnusableAnswerError("empty", "the answer is empty")
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.DecodeError, RecursionError):
        raise UnusableAnswerError("server_error", "the answer is not a JSON object") from None
    if _is_empty(getattr(answer, _CONTENT[endpoint])):
        raise _failure(answer, body) or UnusableAnswerError("empty", "the answer is empty")
    usage = _usage(answer.usage)
    return fields.read(usage) if usage else None


def _usage(raw: msgspec.Raw) -> dict[str, Any]:
    """The numbers of a `usage` object; none if it is anything else."""
    try:
        return _USAGE.decode(raw)
    except msgspec.DecodeError:
        return {}


def _is_empty(raw: msgspec.Raw) -> bool:
    found = memoryview(raw)
    return len(found) < 5 and bytes(found) in _NULL


def _failure(answer: _Answer, body: bytes) -> UnusableAnswerError | None:
    """The provider's error in an answer or event, or None."""
    for raw in (answer.error, _inner(answer.response).error):
        if not _is_empty(raw):
            return _failed({"error": _plain(bytes(raw))})
    if bytes(answer.type) in _FAILED_TYPES or bytes(answer.message)[:1] == b'"':
        return _failed({"error": _plain(body)})
    return None


def _failed(body: Mapping[str, Any]) -> UnusableAnswerError:
    return UnusableAnswerError("server_error", "the provider failed while answering", body)


def _plain(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return raw.decode("utf-8", "replace")


def _inner(raw: msgspec.Raw) -> _Inner:
    try:
        return _INNER.decode(raw)
    except msgspec.DecodeError:
        return _Inner()


class StreamReader:
    """Reads a stream of server-sent events on its way.

    Args:
        fields: the usage fields in its events.
        strips_usage: whether the gateway itself requested the chunk that has only usage. It is not passed on.
    """

    __slots__ = ("_counts", "_fields", "_held", "_last", "_strips", "begun", "failure", "finished", "usage")

    def __init__(self, fields: UsageFields, strips_usage: bool) -> None:
        self.usage: Tokens | None = None
        self.begun = False
        """Whether an event has arrived that is not only a comment."""
        self.failure: UnusableAnswerError | None = None
        """The provider's error, which ended the stream."""
        self.finished = False
        """Whether the end of the stream has arrived."""
        self._fields = fields
        self._counts: dict[str, Any] = {}
        self._strips = strips_usage
        self._held = bytearray()
        self._last: deque[bytes] = deque(maxlen=4)

    def feed(self, chunk: bytes) -> bytes:
        """Take the next data, and return the data to pass on: complete events, unchanged.

        Raises:
            UnusableAnswerError: an event is larger than 16 MB.
        """
        held = self._held
        if held or not chunk.endswith(b"\n\n"):
            # The end of an event may be split over two chunks.
            start = max(0, len(held) - 2)
            held += chunk
            end = max(at + len(mark) if (at := held.rfind(mark, start)) >= 0 else 0 for mark in _EVENT_ENDS)
            if len(held) - end > _MOST_EVENT:
                raise UnusableAnswerError("server_error", "an event of the stream is too large")
            chunk = bytes(held[:end])
            del held[:end]
        return self._take(chunk) if chunk else chunk

    def close(self) -> bytes:
        """The stream has ended. Returns the rest to pass on.

        Raises:
            UnusableAnswerError: it was cut off, or had no content.
        """
        begun = self.begun
        rest = self._take(bytes(self._held)) if self._held else b""
        if self.failure is not None:
            raise self.failure
        if not begun and not self.finished:
            raise UnusableAnswerError("empty", "the stream ended without content")
        if not self.finished and not _FINISH_REASON.search(b"".join(self._last)):
            raise UnusableAnswerError("interrupted", "the stream ended before the answer was complete")
        return rest

    def _take(self, data: bytes) -> bytes:
        self._last.append(data)
        if not self.begun and _DATA.search(data):
            self.begun = True
        if b"[DONE]" in data or _is_telling(data):
            return self._read(data)
        return data

    def _read(self, data: bytes) -> bytes:
        """Read events one by one."""
        passed = []
        at = 0
        for end in [*(found.end() for found in _EVENT_END.finditer(data)), len(data)]:
            event, at = data[at:end], end
            if self._passes(event):
                passed.append(event)
            if self.failure is not None:
                break
        return b"".join(passed)

    def _passes(self, event: bytes) -> bool:
        """Note the content of an event. Returns whether it is passed on."""
        done = b"[DONE]" in event
        if not (done or _is_telling(event)):
            return True
        text = b"\n".join(_DATA.findall(event))
        if done and text.strip() == b"[DONE]":
            self.finished = True
            return True
        try:
            answer = _ANSWER.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return True
        self.failure = _failure(answer, text)
        if self.failure is not None:
            return False
        self.finished = self.finished or bytes(answer.type) in _LAST_TYPES
        for raw in (answer.usage, _inner(answer.response).usage, _inner(answer.message).usage):
            if counts := _usage(raw):
                # Each of Anthropic's events has only some of the numbers.
                self._counts |= {name: count for name, count in counts.items() if count is not None}
                self.usage = self._fields.read(self._counts)
        return not (self._strips and bytes(answer.choices) == b"[]" and not _is_empty(answer.usage))


def event_data(events: bytes) -> list[bytes]:
    """The data of each of these complete events; comments have none."""
    found = (b"\n".join(_DATA.findall(event)) for event in _EVENT_END.split(events))
    return [data for data in found if data]


def _is_telling(data: bytes) -> bool:
    """Whether an event must be decoded."""
    return bool(
        (b'"usage"' in data and _TELLS_USAGE.search(data))
        or (b'"error"' in data and _TELLS_ERROR.search(data))
        or b'"message_stop"' in data
        or (b'"response.' in data and _TELLS_END.search(data))
    )
