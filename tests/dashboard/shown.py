"""A dashboard that serves in a thread, over the made-up machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from typing import Any

import httpx

from hfs_providers import ProviderManager
from hfs_providers.core.inventory import take_inventory
from hfs_providers.dashboard.app import DashboardApp
from hfs_providers.dashboard.source import DashboardSource
from hfs_providers.dashboard.summary import Dashboard
from hfs_providers.gateway.guard import Guard
from hfs_providers.gateway.guarded_dashboard import GuardedDashboard
from hfs_providers.gateway.server import GatewayServer

TOKEN = "a-token-for-actions"


class Shown:
    """A dashboard of an environment.

    Args:
        env: whose keys and usage file are shown.
        read_only: whether actions are off.
    """

    def __init__(self, env: Mapping[str, str], read_only: bool = False) -> None:
        environment = dict(env)
        listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.dashboard = Dashboard(DashboardSource(lambda: take_inventory(environment)))
        managers = None if read_only else lambda: ProviderManager(env=environment, shares=False)
        self._app = GuardedDashboard(DashboardApp(self.dashboard, TOKEN, managers), Guard())
        self._ready = threading.Event()
        self._server = GatewayServer(self._app, listening, self._ready.set)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Shown:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._app.draining = True
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    def get(self, path: str, **asked: Any) -> httpx.Response:
        """An answer."""
        return httpx.get(f"{self.url}{path}", params=asked or None, timeout=60)

    def read(self, name: str, **asked: Any) -> Any:
        """Data of the page."""
        answer = self.get(f"/dashboard/api/{name}", **asked)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def act(
        self, name: str, token: str = TOKEN, headers: Mapping[str, str] | None = None, **said: Any
    ) -> httpx.Response:
        """An action."""
        sent = {"authorization": f"Bearer {token}", **(headers or {})}
        return httpx.post(f"{self.url}/dashboard/api/{name}", json=said, headers=sent, timeout=60)
