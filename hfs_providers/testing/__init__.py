"""For the authors of provider plugins and for tests: simulated providers on a real socket, and the conformance suite.

`LoopbackServer` speaks the protocols of the providers' SDKs and plays limits, dead keys and broken streams by script.
`ProviderConformance` is the class that a plugin's tests subclass; it needs pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfs_providers.contract.lazy import lazy_exports

if TYPE_CHECKING:
    from hfs_providers.testing.answers import PromptCache as PromptCache
    from hfs_providers.testing.answers import Request as Request
    from hfs_providers.testing.conformance import ProviderConformance as ProviderConformance
    from hfs_providers.testing.dialects import Dialect as Dialect
    from hfs_providers.testing.dialects import pieces as pieces
    from hfs_providers.testing.protocols.anthropic import AnthropicDialect as AnthropicDialect
    from hfs_providers.testing.refusals import wait_headers as wait_headers
    from hfs_providers.testing.scripts import BadRequest as BadRequest
    from hfs_providers.testing.scripts import ContextTooLong as ContextTooLong
    from hfs_providers.testing.scripts import EmptyBody as EmptyBody
    from hfs_providers.testing.scripts import Forbidden as Forbidden
    from hfs_providers.testing.scripts import Garbage as Garbage
    from hfs_providers.testing.scripts import HalfStream as HalfStream
    from hfs_providers.testing.scripts import ModelGone as ModelGone
    from hfs_providers.testing.scripts import Ok as Ok
    from hfs_providers.testing.scripts import PaymentRequired as PaymentRequired
    from hfs_providers.testing.scripts import RateLimited as RateLimited
    from hfs_providers.testing.scripts import Raw as Raw
    from hfs_providers.testing.scripts import Reply as Reply
    from hfs_providers.testing.scripts import Reset as Reset
    from hfs_providers.testing.scripts import ServerError as ServerError
    from hfs_providers.testing.scripts import Stall as Stall
    from hfs_providers.testing.scripts import Step as Step
    from hfs_providers.testing.scripts import StreamError as StreamError
    from hfs_providers.testing.scripts import Unauthorized as Unauthorized
    from hfs_providers.testing.server import Gate as Gate
    from hfs_providers.testing.server import LoopbackServer as LoopbackServer
    from hfs_providers.testing.server import Seen as Seen
    from hfs_providers.testing.spoken import GeminiDialect as GeminiDialect
    from hfs_providers.testing.spoken import OpenAIDialect as OpenAIDialect
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "hfs_providers.testing.answers": "PromptCache Request",
            "hfs_providers.testing.conformance": "ProviderConformance",
            "hfs_providers.testing.dialects": "Dialect pieces",
            "hfs_providers.testing.protocols.anthropic": "AnthropicDialect",
            "hfs_providers.testing.refusals": "wait_headers",
            "hfs_providers.testing.scripts": (
                "BadRequest ContextTooLong EmptyBody Forbidden Garbage HalfStream ModelGone Ok PaymentRequired "
                "RateLimited Raw Reply Reset ServerError Stall Step StreamError Unauthorized"
            ),
            "hfs_providers.testing.server": "Gate LoopbackServer Seen",
            "hfs_providers.testing.spoken": "GeminiDialect OpenAIDialect",
        },
    )
