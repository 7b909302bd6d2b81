"""The dashboard behind the checks of the gateway, as an application of its own."""

from __future__ import annotations

import asyncio
import logging

from starlette.types import Receive, Scope, Send

from hfs_providers.dashboard.app import DashboardApp
from hfs_providers.gateway.guard import Guard
from hfs_providers.gateway.refusals import Refusal
from hfs_providers.gateway.reply import Reply

_log = logging.getLogger("hfs_providers")


class GuardedDashboard:
    """The application. Its connections must be those of `GatewayProtocol`."""

    def __init__(self, app: DashboardApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        connection = scope["extensions"]["hfs.connection"]
        reply = Reply(send, connection.respond)
        try:
            self._guard.admit(scope)
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            # The client has gone, or the process ends: nobody reads an answer.
            return
        except Exception as error:
            refusal = (
                error
                if isinstance(error, Refusal)
                else Refusal(500, "internal_error", "The dashboard failed; its log says why.")
            )
            if refusal is not error:
                _log.exception("a request to %s failed", scope["path"])
            await reply.whole(refusal.status, refusal.raw_headers(), refusal.body())

    @property
    def draining(self) -> bool:
        """Whether it is shutting down."""
        return self._app.closing

    @draining.setter
    def draining(self, ends: bool) -> None:
        self._app.closing = ends

    def close(self) -> None:
        """Nothing to close."""
