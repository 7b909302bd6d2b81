"""Transport recovery: a hiccup on the wire costs a new connection and a short wait, not a switch of providers."""

from __future__ import annotations

from hfs_providers.calls.evidence import chain_of

RECOVERABLE = frozenset(
    {
        "ReadTimeout",
        "ConnectTimeout",
        "PoolTimeout",
        "ConnectError",
        "ReadError",
        "WriteError",
        "RemoteProtocolError",
        "APIConnectionError",
        "APITimeoutError",
        # What google-genai meets in their place where aiohttp is its transport.
        "ServerDisconnectedError",
        "ClientOSError",
        "ClientConnectorError",
        "ConnectionTimeoutError",
        "SocketTimeoutError",
        "ServerTimeoutError",
    }
)
"""Errors of a transport that a new connection may mend, by type name, anywhere along the cause chain."""

_FIRST_WAIT = 3.0
_LONGEST_WAIT = 8.0


def is_recoverable(error: BaseException) -> bool:
    """Whether an error, or one that it comes from, is one that a new connection may mend."""
    return any(type(link).__name__ in RECOVERABLE for link in chain_of(error))


def recovery_wait(retry_count: int) -> float:
    """Seconds to wait before the one further try.

    Args:
        retry_count: the failed attempts so far, from 0.
    """
    return min(_FIRST_WAIT + retry_count, _LONGEST_WAIT)
