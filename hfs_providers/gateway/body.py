"""The JSON body of a request. Its top-level members can be read and replaced; everything else keeps its bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from hfs_providers.gateway.refusals import Refusal

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_VALUE = msgspec.json.Decoder()
_TEXT = msgspec.json.Decoder(str)
# The text before a member's value. The decoder has checked that the body is JSON.
_BEFORE_VALUE = re.compile(rb'[ \t\r\n]*[{,][ \t\r\n]*"[^"\\]*(?:\\.[^"\\]*)*"[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)
_END = re.compile(rb"[ \t\r\n]*\}[ \t\r\n]*")


class RequestBody(Mapping[str, Any]):
    """A JSON object with the positions of its top-level members. A member is decoded when it is read.

    Raises:
        Refusal: it is not a JSON object, or has a top-level member twice.
    """

    __slots__ = ("_spans", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        try:
            if not data.isascii():
                data.decode()
            members = _MEMBERS.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refusal(400, "invalid_json", f"The body is not a JSON object: {error}") from None
        except RecursionError:
            raise _too_deep() from None
        self._spans = spans = dict[str, tuple[int, int]]()
        at = 0
        for name, raw in members.items():
            # The members come in the order of the text. For a name that occurs twice, the decoder has the last value at
            # the place of the first. Then a value is not where it should be, or the text has more members.
            found = _BEFORE_VALUE.match(data, at)
            value = bytes(raw)
            if found is None or not data.startswith(value, begin := found.end()):
                raise _twice()
            at = begin + len(value)
            spans[name] = (begin, at)
        if members and not _END.fullmatch(data, at):
            raise _twice()

    def __getitem__(self, name: str) -> Any:
        begin, end = self._spans[name]
        try:
            return _VALUE.decode(self.data[begin:end])
        except RecursionError:
            # The depth at which the decoder fails depends on its callers.
            raise _too_deep() from None

    def get(self, name: str, default: Any = None) -> Any:
        # The inherited method raises and catches a KeyError for each missing name, and most names are missing.
        return self[name] if name in self._spans else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def raw(self, name: str) -> bytes:
        """The bytes of a member's value; empty if there is none."""
        begin, end = self._spans.get(name, (0, 0))
        return self.data[begin:end]

    def text(self, name: str) -> str | None:
        """The value of a member that is a string; None for anything else."""
        try:
            return _TEXT.decode(self.raw(name))
        except (msgspec.DecodeError, RecursionError):
            return None

    def replaced(self, values: Mapping[str, bytes]) -> bytes:
        """The body with other values for some members; missing members are added at the front."""
        data = self.data
        parts: list[bytes] = []
        at = 0
        added = [name for name in values if name not in self._spans]
        if added:
            at = data.index(b"{") + 1
            members = b",".join(b'"%b":%b' % (name.encode(), values[name]) for name in added)
            parts = [data[:at], members, b"," if self._spans else b""]
        for name, (begin, end) in self._spans.items():
            if name in values:
                parts += (data[at:begin], values[name])
                at = end
        return b"".join((*parts, data[at:]))


def _too_deep() -> Refusal:
    return Refusal(400, "invalid_json", "The body is nested too deeply.")


def _twice() -> Refusal:
    return Refusal(400, "repeated_member", "The body has a top-level member twice.")
