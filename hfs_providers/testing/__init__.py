"""For the authors and tests of provider plugins: simulated providers on a real socket.

`LoopbackServer` speaks what the providers' SDKs speak and plays limits, dead keys and broken streams by script.
"""

from hfs_providers.testing.answers import Request
from hfs_providers.testing.dialects import Dialect, GeminiDialect, OpenAIDialect
from hfs_providers.testing.process import LoopbackProcess
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
]
