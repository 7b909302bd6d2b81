"""Sends an answer to the client, with as few writes as possible."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Send

from hfs_providers.gateway.refusals import RawHeaders

Respond = Callable[[int, RawHeaders, bytes, bool], bool]
"""Sends status, headers and a body, or its first part, in one write if possible: see `GatewayProtocol.respond`."""


class Reply:
    """The answer to one request."""

    __slots__ = ("_respond", "_send", "begun")

    def __init__(self, send: Send, respond: Respond | None) -> None:
        self._send = send
        self._respond = respond
        self.begun = False
        """Whether a part of it has been sent."""

    async def whole(self, status: int, headers: RawHeaders, body: bytes) -> None:
        """Send the whole answer."""
        await self._begin(status, [*headers, (b"content-length", b"%d" % len(body))], body, False)

    async def begin(self, status: int, headers: RawHeaders, first: bytes) -> None:
        """Send the first part of the answer."""
        await self._begin(status, headers, first, True)

    async def more(self, data: bytes, last: bool = False) -> None:
        """Send another part."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def _begin(self, status: int, headers: RawHeaders, body: bytes, more_body: bool) -> None:
        self.begun = True
        if self._respond is None or not self._respond(status, headers, body, more_body):
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            await self.more(body, last=not more_body)
