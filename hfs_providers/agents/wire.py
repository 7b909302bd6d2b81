"""JSON-RPC 2.0 as one JSON object a line, for both ends of a worker's pipes: bytes to messages and back."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from hfs_providers import HfsProvidersError

PROTOCOL_VERSION: Final = 1
LINE_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of a line, its LF included."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
NO_COMMON_VERSION: Final = -32001
NOT_INITIALIZED: Final = -32002
UNKNOWN_SESSION: Final = -32003
ALREADY_PENDING: Final = -32004


class RpcError(HfsProvidersError):
    """An error answer. The code is one of JSON-RPC, or one of ours."""

    def __init__(self, code: int, message: str, data: Mapping[str, Any] | None = None) -> None:
        self.code = code
        self.message = message
        self.data = data
        details = f": {json.dumps(data)}" if data else ""
        super().__init__(f"{message} ({code}){details}")


class TooLong:
    """Stands for a line over the limit, which was discarded."""


TOO_LONG: Final = TooLong()


class Lines:
    """Cuts a stream of bytes into lines of at most `limit` bytes, LF included; it holds no more than one."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._held = bytearray()
        self._discarding = False

    def feed(self, data: bytes) -> Iterator[bytes | TooLong]:
        """The lines that `data` completes, without their LF. What follows the last LF is kept for the next call."""
        *whole, rest = data.split(b"\n")
        for piece in whole:
            # The LF counts.
            yield self._line(piece) if self._keeps(len(piece) + 1) else self._dropped()
        if self._keeps(len(rest)):
            self._held += rest
        else:
            self._held.clear()
            self._discarding = True

    def _keeps(self, more: int) -> bool:
        return not self._discarding and len(self._held) + more <= self._limit

    def _line(self, piece: bytes) -> bytes:
        line = bytes(self._held) + piece
        self._held.clear()
        return line

    def _dropped(self) -> TooLong:
        self._held.clear()
        self._discarding = False
        return TOO_LONG


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as a line. Raises ValueError if JSON cannot represent it, or if it is too long for a line."""
    # ASCII, because UTF-8 cannot represent a lone surrogate.
    try:
        line = json.dumps(message, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"
    except RecursionError:
        raise ValueError("nested too deeply for JSON") from None
    if len(line) > LINE_LIMIT:
        raise ValueError(f"a line of {len(line)} bytes is over the limit of {LINE_LIMIT}")
    return line


def decode(line: bytes) -> Any:
    """The JSON value of a line. Raises ValueError if it is not JSON in UTF-8."""
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, slots=True)
class Call:
    """A request, or with `answered` false a notification. The answer has to carry the id."""

    method: str
    params: Mapping[str, Any]
    id: str | int | float | None
    answered: bool


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        # It is repeated in the answer, which has to fit into a line.
        return len(value) <= 256
    if isinstance(value, float):
        # Python makes infinity of 1e999, which JSON cannot represent.
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def read_call(message: object) -> Call:
    """The request or notification that a decoded line holds. Raises Refusal, which holds the error answer."""
    if not isinstance(message, dict):
        kind = "batches are not supported" if isinstance(message, list) else "it is not an object"
        raise Refusal(None, RpcError(INVALID_REQUEST, f"invalid request: {kind}"))
    known = message.get("id")
    if not _is_id(known):
        raise Refusal(None, RpcError(INVALID_REQUEST, "invalid request: the id must be a short string, number or null"))
    method, params = message.get("method"), message.get("params", {})
    if message.get("jsonrpc") != "2.0" or not isinstance(method, str):
        raise Refusal(known, RpcError(INVALID_REQUEST, 'invalid request: needs "jsonrpc": "2.0" and a string "method"'))
    if not isinstance(params, dict):
        wrong = INVALID_PARAMS if isinstance(params, list) else INVALID_REQUEST
        raise Refusal(known, RpcError(wrong, "invalid params: they must be an object"), answered="id" in message)
    return Call(method, params, known, "id" in message)


class Refusal(Exception):
    """A message that is not a call: the id for its answer, and whether it gets one."""

    def __init__(self, id: str | int | float | None, error: RpcError, answered: bool = True) -> None:
        self.id = id
        self.error = error
        self.answered = answered
        super().__init__(str(error))


def answer(id: str | int | float | None, result: Any) -> dict[str, Any]:
    """The message that answers a request."""
    return {"jsonrpc": "2.0", "id": id, "result": result}


def error_answer(id: str | int | float | None, error: RpcError) -> dict[str, Any]:
    """The message that answers a request with an error."""
    fields: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.data is not None:
        fields["data"] = dict(error.data)
    return {"jsonrpc": "2.0", "id": id, "error": fields}


def notification(method: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """A notification, which gets no answer."""
    return {"jsonrpc": "2.0", "method": method, "params": dict(params)}
