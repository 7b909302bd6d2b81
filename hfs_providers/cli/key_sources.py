"""Where the keys of a provider come from, as text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfs_providers.authoring import Credential

_NUMBERED = re.compile(r"([A-Z][A-Z0-9_]*_)[0-9]+")


def key_sources(credentials: Iterable[Credential]) -> dict[str, int]:
    """How many keys come from each variable and file. Numbered variables count as one: `GROQ_API_KEY_n`."""
    names = (each.source for each in credentials if each.source)
    return dict(Counter(f"{found[1]}n" if (found := _NUMBERED.fullmatch(name)) else name for name in names))


def in_words(sources: Mapping[str, int]) -> str:
    """Sources, with the number of keys if there are several."""
    return ", ".join(source if len(sources) == 1 else f"{source} ({count})" for source, count in sources.items())
