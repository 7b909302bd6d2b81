"""Async generators that are closed by their reader."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable
from typing import Any


def first_of(steps: AsyncIterator[Any], default: Any) -> Awaitable[Any]:
    """As `anext(steps, default)`, for the first step of an async generator that its reader closes. Await it at once.

    The event loop is not told of the generator. It would close it as well when it shuts down, maybe while the reader is
    doing so, and asyncio reports that as an error.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return anext(steps, default)
    finally:
        sys.set_asyncgen_hooks(*hooks)
