"""A real browser without a window, driven by chromedriver, and a server of web pages."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

# Read now: tests run with an environment that has none of our variables.
_DRIVER = os.environ.get("HFS_TEST_CHROMIUM")


class Browser:
    """One window.

    Args:
        driver: URL of chromedriver.
        options: of the browser's command line.
    """

    def __init__(self, driver: str, *options: str) -> None:
        self._client = httpx.Client(base_url=driver, timeout=60)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *options]
        chosen = {"browserName": "chrome", "goog:chromeOptions": {"args": arguments}}
        made = self._command("POST", "/session", {"capabilities": {"alwaysMatch": chosen}})
        self._session = f"/session/{made['sessionId']}"
        self._command("POST", f"{self._session}/timeouts", {"script": 30_000, "pageLoad": 30_000})

    def open(self, url: str) -> None:
        """Go to a page."""
        self._command("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of an async function returns, run by the page."""
        done = "arguments[arguments.length - 1]"
        body = f"const done = {done}; (async (...given) => {{{script}}})(...arguments).then(done)"
        return self._command("POST", f"{self._session}/execute/async", {"script": body, "args": list(arguments)})

    def close(self) -> None:
        """End it."""
        self._command("DELETE", self._session)
        self._client.close()

    def _command(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._client.request(method, path, json=body).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer


@contextmanager
def browser(directory: Path, *options: str) -> Iterator[Browser]:
    """A browser with a profile of its own; the test is skipped where there is none."""
    if not _DRIVER:
        pytest.skip("needs Chromium: set HFS_TEST_CHROMIUM to the path of chromedriver")
    process = subprocess.Popen([_DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = next(found[1] for line in process.stdout if (found := re.search(r"successfully on port (\d+)", line)))
        window = Browser(f"http://127.0.0.1:{port}", f"--user-data-dir={directory}", *options)
        yield window
        window.close()
    finally:
        process.terminate()
        process.wait(20)
        assert process.stdout is not None
        process.stdout.close()


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>page</title><body></body>")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def pages() -> Iterator[int]:
    """A server that answers every GET with an empty page; its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
