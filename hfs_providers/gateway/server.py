"""Runs the gateway: uvicorn on uvloop, until a signal ends it."""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Protocol

import uvicorn
from starlette.types import Receive, Scope, Send

from hfs_providers.gateway.protocol import GatewayProtocol

DRAIN_SECONDS = 30
"""Seconds for which requests in flight may continue when the server shuts down."""

_KEEP_ALIVE = 75
_BACKLOG = 2048
_MOST_FILES = 65_536


class Application(Protocol):
    """An application. Its connections must be those of `GatewayProtocol`."""

    draining: bool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

    def close(self) -> None:
        """Close its resources."""


class GatewayServer(uvicorn.Server):
    """Answers requests until SIGINT, SIGTERM or `should_exit`; then it finishes those in flight.

    Args:
        listening: a bound socket.
        ready: called when it accepts requests.
        certificate, private_key: PEM files for TLS; one file may hold both.

    Raises:
        OSError: a certificate cannot be used.
    """

    def __init__(
        self,
        gateway: Application,
        listening: socket.socket,
        ready: Callable[[], object],
        certificate: Path | None = None,
        private_key: Path | None = None,
    ) -> None:
        config = uvicorn.Config(
            gateway,
            http=GatewayProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            # At a lower level it warns about each malformed request.
            log_level="error",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            ssl_certfile=certificate,
            ssl_keyfile=private_key,
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        # Here, so that the caller can report an unusable certificate.
        config.load()
        super().__init__(config)
        self._gateway = gateway
        self._listening = listening
        self._ready = ready

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve in its own event loop."""
        _allow_many_connections()
        # On Windows there is no uvloop.
        loop_factory = None if sys.platform == "win32" else importlib.import_module("uvloop").new_event_loop
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(self._run(sockets or [self._listening]))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does, and then call `ready`."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Shut down, and report not ready from now on."""
        self._gateway.draining = True
        super().handle_exit(sig, frame)

    async def _run(self, sockets: list[socket.socket]) -> None:
        try:
            await self.serve(sockets)
        finally:
            self._gateway.close()


def _allow_many_connections() -> None:
    """Raise the limit of open files. A request needs two, and many systems allow only 1 024 by default."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
