"""Transport recovery: after a short network failure a new connection and a wait, not another provider."""

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
        # What aiohttp raises in their place.
        "ServerDisconnectedError",
        "ClientOSError",
        "ClientConnectorError",
        "ConnectionTimeoutError",
        "SocketTimeoutError",
        "ServerTimeoutError",
    }
)
"""Transport errors after which a new connection may help, by type name, anywhere along the cause chain."""

_FIRST_WAIT = 3.0
_LONGEST_WAIT = 8.0


def is_recoverable(error: BaseException) -> bool:
    """Whether a new connection may help against an error, or against one that caused it."""
    return any(type(link).__name__ in RECOVERABLE for link in chain_of(error))


def recovery_wait(retry_count: int) -> float:
    """Seconds to wait before the one further try.

    Args:
        retry_count: the failed attempts so far, from 0.
    """
    return min(_FIRST_WAIT + retry_count, _LONGEST_WAIT)
