"""`hfs-providers serve` as a process."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from hfs_providers.testing import LoopbackServer
from tests import warm
from tests.gateway.served import HELLO, certify

SERVE = ["-m", "hfs_providers", "serve"]


@contextmanager
def serving(
    *options: str, env: Mapping[str, str] | None = None, python: str | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the command that it printed."""
    process = subprocess.Popen(
        [python or warm.python(), *SERVE, "--port", "0", *options],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.terminate()
        process.wait(20)


def test_the_demo_prints_a_command_that_answers() -> None:
    with serving("--demo") as (process, command):
        got = subprocess.run(shlex.split(command), capture_output=True, text=True, check=True).stdout
        assert json.loads(got)["choices"][0]["message"]["content"].endswith("You said: Hello")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130


def test_on_sigterm_requests_in_flight_end_and_their_rows_are_written(tmp_path: Path) -> None:
    usage = tmp_path / "usage.db"
    answers: list[httpx.Response] = []
    with LoopbackServer() as server:
        env = {**server.env({"groq": 1}), "HFS_USAGE_DB": str(usage)}
        with serving(env=env) as (process, command):
            url = httpx.URL(shlex.split(command)[1])
            body = {"model": "groq", **HELLO}
            asking = threading.Thread(target=lambda: answers.append(httpx.post(url, json=body, timeout=30)))
            with server.hold() as gate:
                asking.start()
                assert gate.wait_for(1)
                process.send_signal(signal.SIGTERM)
                while _listens(url):
                    pass
            asking.join(20)
            assert process.wait(20) == 143
    assert [answer.status_code for answer in answers] == [200]
    with sqlite3.connect(usage) as connection:
        assert connection.execute("SELECT count(*) FROM usage").fetchone() == (1,)


def _listens(url: httpx.URL) -> bool:
    try:
        socket.create_connection((url.host, url.port or 0)).close()
    except ConnectionError:
        return False
    return True


def test_it_needs_no_sdk(tmp_path: Path) -> None:
    (tmp_path / "groq.py").write_text("raise ImportError('there is no SDK here')")
    missing = "import importlib.metadata as m; real = m.version\n"
    missing += "def version(name):\n    if name == 'groq': raise m.PackageNotFoundError(name)\n    return real(name)\n"
    (tmp_path / "sitecustomize.py").write_text(f"{missing}m.version = version\n")
    with LoopbackServer() as server:
        env = {**server.env({"groq": 1}), "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        with serving(env=env, python=sys.executable) as (_, command):
            got = httpx.post(shlex.split(command)[1], json={"model": "groq", **HELLO}, timeout=30)
    assert got.status_code == 200


def test_it_serves_https(tmp_path: Path) -> None:
    certify(tmp_path, "IP:127.0.0.1")
    options = ["--demo", "--tls-cert", str(tmp_path / "cert"), "--tls-key", str(tmp_path / "key")]
    with serving(*options) as (_, command):
        url = shlex.split(command)[1]
        assert url.startswith("https://")
        trusted = ssl.create_default_context(cafile=tmp_path / "cert")
        assert httpx.post(url, json={"model": "any", **HELLO}, timeout=30, verify=trusted).status_code == 200


def fails(*options: str, env: Mapping[str, str] | None = None) -> str:
    """What it says if it cannot start."""
    command = [warm.python(), *SERVE, "--port", "0", *options]
    done = subprocess.run(command, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    return done.stderr


def test_what_keeps_it_from_starting_is_said_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = fails("--demo", "--port", str(taken.getsockname()[1]))
        assert "cannot listen on 127.0.0.1" in said
        assert "--port" in said
    assert "--demo" in fails()
    assert "certificate" in fails("--demo", "--tls-cert", __file__)
    assert "anybody" in fails("--host", "0.0.0.0", "--demo")
