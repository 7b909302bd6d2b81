"""For the authors and tests of provider plugins: simulated providers on a real socket, and the suite that each passes.

`LoopbackServer` speaks what the providers' SDKs speak and plays limits, dead keys and broken streams by script.
`ProviderConformance` is the class that a plugin's tests subclass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hfs_providers.testing.answers import Request
from hfs_providers.testing.dialects import Dialect, pieces
from hfs_providers.testing.process import LoopbackProcess
from hfs_providers.testing.refusals import wait_headers
from hfs_providers.testing.scripts import (
    BadRequest,
    ContextTooLong,
    EmptyBody,
    Forbidden,
    Garbage,
    HalfStream,
    ModelGone,
    Ok,
    PaymentRequired,
    RateLimited,
    Raw,
    Reply,
    Reset,
    ServerError,
    Stall,
    Step,
    StreamError,
    Unauthorized,
)
from hfs_providers.testing.server import Gate, LoopbackServer, Seen
from hfs_providers.testing.spoken import GeminiDialect, OpenAIDialect

if TYPE_CHECKING:
    from hfs_providers.testing.conformance import ProviderConformance

__all__ = [
    "BadRequest",
    "ContextTooLong",
    "Dialect",
    "EmptyBody",
    "Forbidden",
    "Garbage",
    "Gate",
    "GeminiDialect",
    "HalfStream",
    "LoopbackProcess",
    "LoopbackServer",
    "ModelGone",
    "Ok",
    "OpenAIDialect",
    "PaymentRequired",
    "ProviderConformance",
    "RateLimited",
    "Raw",
    "Reply",
    "Request",
    "Reset",
    "Seen",
    "ServerError",
    "Stall",
    "Step",
    "StreamError",
    "Unauthorized",
    "pieces",
    "wait_headers",
]


def __getattr__(name: str) -> Any:
    if name != "ProviderConformance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Not before it is asked for: it needs pytest, and the loopback server does not.
    from hfs_providers.testing.conformance import ProviderConformance

    return ProviderConformance
