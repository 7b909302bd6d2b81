"""Keys are removed from texts that a provider or an SDK wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable
from os.path import commonprefix

from hfs_providers.contract.records import Credential
from hfs_providers.contract.secret import Secret

_MASKED = re.compile(r"([A-Za-z0-9_\-]{0,64})(\*{3,}|•{2,}|…|\.{3})([A-Za-z0-9_\-*•…]{0,64})")


# A token has a digit; "Bearer authentication" has none.
_BEARER = re.compile(r"(?i)\bbearer\s+(?=\S*\d)[A-Za-z0-9\-._~+/]{8,}=*")


_SHOWN = "[redacted]"


# Shorter strings are not keys, and replacing them would remove ordinary words from a message.
_SHORTEST_KEY = 6


class Redactor:
    """Removes keys from texts that a provider or an SDK wrote, such as an error message that echoes the key.

    Known keys are replaced by their id. What looks like a masked key (`sk-ab***yz`) goes as well, because a prefix
    and a suffix are a part of the key.

    Args:
        keys: pairs of key id and key.
    """

    def __init__(self, keys: Iterable[tuple[str, Secret]] = ()) -> None:
        self._ids: dict[str, str] = {}
        # Not one regular expression: of thousands of keys, it would take seconds to compile.
        self._begin = ""
        self._starts: set[str] = set()
        self._lengths: list[int] = []
        self.add(keys)

    def add(self, keys: Iterable[tuple[str, Secret]]) -> None:
        """Replace these keys, too, from now on. Other threads may call `scrub` at the same time."""
        known = {value: key_id for key_id, secret in keys if len(value := secret.reveal()) >= _SHORTEST_KEY}
        if known:
            self._ids = self._ids | known
            self._begin = commonprefix([min(self._ids), max(self._ids)])  # noqa: RUF071  characters are wanted
            self._starts = {value[:_SHORTEST_KEY] for value in self._ids}
            self._lengths = sorted({len(value) for value in self._ids}, reverse=True)

    @classmethod
    def of(cls, credentials: Iterable[Credential]) -> Redactor:
        """The redactor of these keys."""
        return cls((each.id, each.secret) for each in credentials if each.secret is not None)

    def __repr__(self) -> str:
        return f"Redactor({len(self._ids)} keys)"

    def scrub(self, text: str) -> str:
        """`text` with every known key, masked key and bearer token replaced."""
        text = self._without_keys(text)
        if "*" in text or "•" in text or "…" in text or "..." in text:
            text = _MASKED.sub(lambda found: _SHOWN if self._shows_a_part(*found.groups()) else found.group(), text)
        # Most texts have no such word, and the expression looks for it at every character.
        return _BEARER.sub(_SHOWN, text) if "bearer" in text.lower() else text

    def _without_keys(self, text: str) -> str:
        kept, start = "", 0
        at = text.find(self._begin) if self._ids else -1
        while 0 <= at < len(text):
            key = None
            if text[at : at + _SHORTEST_KEY] in self._starts:
                key = next((key for length in self._lengths if (key := text[at : at + length]) in self._ids), None)
            if key is not None:
                kept += f"{text[start:at]}[{self._ids[key]}]"
                start = at + len(key)
            at = text.find(self._begin, at + 1 if key is None else start)
        return kept + text[start:]

    def _shows_a_part(self, before: str, mask: str, after: str) -> bool:
        shown = after.strip("*•…")
        if any(
            (len(before) >= 4 and key.startswith(before)) or (len(shown) >= 4 and key.endswith(shown))
            for key in self._ids
        ):
            return True
        # Three dots, one ellipsis and `***so***` are typography unless they stand for a key that is known.
        if mask == "...":
            return False
        if mask == "…":
            return bool(before and shown)
        return bool(before) or (len(mask) > 3 and bool(shown))

    def scrub_exception(self, error: BaseException) -> None:
        """Scrub, in place, the texts that `error` and its causes would print in a traceback."""
        seen: set[int] = set()
        queue: list[BaseException | None] = [error]
        while queue:
            item = queue.pop()
            if item is None or id(item) in seen:
                continue
            seen.add(id(item))
            queue += [item.__cause__, item.__context__]
            if isinstance(item, BaseExceptionGroup):
                queue += item.exceptions
            notes = getattr(item, "__notes__", None)
            if isinstance(notes, list):
                notes[:] = [self._scrub_value(note) for note in notes]
            item.args = tuple(self._scrub_value(arg) for arg in item.args)
            # An SDK's error may print any attribute of its own.
            for name in {"message", "body", "details", *getattr(item, "__dict__", ())}:
                value = getattr(item, name, None)
                if isinstance(value, (str, dict, list)):
                    # Some SDK errors expose these as read-only properties over what args already hold.
                    try:
                        setattr(item, name, self._scrub_value(value))
                    except AttributeError:
                        continue

    def _scrub_value(self, value: object) -> object:
        if isinstance(value, str):
            return self.scrub(value)
        if isinstance(value, (bytes, bytearray)):
            return type(value)(self.scrub(value.decode("latin-1")).encode("latin-1", "replace"))
        if isinstance(value, dict):
            return {self._scrub_value(name): self._scrub_value(item) for name, item in value.items()}
        if isinstance(value, tuple) and hasattr(value, "_make"):
            return value._make(self._scrub_value(item) for item in value)
        for kind in (list, tuple, set, frozenset):
            if type(value) is kind:
                return kind(self._scrub_value(item) for item in value)
        return value
