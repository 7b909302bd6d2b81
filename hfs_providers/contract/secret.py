"""API keys that cannot be shown by accident, and the scrubbing of texts that others wrote.

A key leaves this module only through `Secret.reveal()`, which is called where a request is bound to a key.
Everything else that names a key uses its id (`acme#3`) or its fingerprint.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import NoReturn

KEY_ID = re.compile(r"([a-z0-9][a-z0-9_-]{0,40})(?:#[0-9]{1,6}|@[0-9a-f]{16})")
"""The id of a key: its provider, and its number or (of a list) its fingerprint."""


def fingerprint(value: str) -> str:
    """The first 16 hex digits of the SHA-256 of `value`: enough to tell keys apart, useless to guess one."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Secret:
    """An API key. Its `str`, `repr` and `format` show the fingerprint; it refuses to be pickled."""

    __slots__ = ("_value", "fingerprint")

    def __init__(self, value: str) -> None:
        self._value = value
        self.fingerprint = fingerprint(value)

    def reveal(self) -> str:
        """The key itself. Call it where a request is bound to the key, and do not keep what it returns."""
        return self._value

    def quoted_in(self, words: str) -> bool:
        """Whether `words` quote the key, whole or masked to its first two and last two characters (`ab***yz`)."""
        first, last = self._value[:2], self._value[-2:]
        return self._value in words or any(
            words[: mask.start()].endswith(first) and words[mask.end() :].startswith(last)
            for mask in re.finditer(r"\*{3,}", words)
        )

    def __repr__(self) -> str:
        return f"Secret({self.fingerprint})"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(
            self._value.encode("utf-8", "surrogatepass"), other._value.encode("utf-8", "surrogatepass")
        )

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key is never pickled: the process that unpickles reads its own environment")
