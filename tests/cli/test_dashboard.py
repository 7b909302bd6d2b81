"""`hfs-providers dashboard` and `demo --watch` as processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import typer

from hfs_providers.cli import output
from tests import warm
from tests.dashboard.made_up import environment
from tests.long import takes_long


@contextmanager
def served(*command: str, env: Mapping[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the address that it printed last."""
    process = subprocess.Popen(
        [warm.python(), "-m", "hfs_providers", *command, "--port", "0", "--no-open"],
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        address = next((line.strip() for line in process.stdout if line.startswith("http")), "")
        yield process, address
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_it_prints_the_address_with_a_token_and_answers_there(tmp_path: Path) -> None:
    with served("dashboard", env=environment(tmp_path, {"groq": 2})) as (process, address):
        url, _, token = address.partition("#token=")
        assert len(token) >= 40
        assert "hfs-providers" in httpx.get(url, timeout=60).text
        found = httpx.get(f"{url}dashboard/api/overview", timeout=60).json()
        assert (found["counts"]["groq"]["ready"], found["actions"]) == (2, True)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert not (tmp_path / "usage.db").exists()


def test_read_only_has_no_token(tmp_path: Path) -> None:
    with served("dashboard", "--read-only", env=environment(tmp_path, {"groq": 1})) as (_, address):
        assert "#" not in address
        assert httpx.get(f"{address}dashboard/api/overview", timeout=60).json()["actions"] is False


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [warm.python(), "-m", "hfs_providers", "dashboard", "--port", str(taken.getsockname()[1])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot listen on 127.0.0.1" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize(
    ("missing", "said"),
    [(["not_a"], "not_a is not installed"), (["not_a", "json", "not_b"], "not_a, not_b are not installed")],
)
def test_what_of_an_extra_is_not_installed_is_told(
    missing: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit):
        output.require_extra("dashboard", missing)
    assert capsys.readouterr().err == f"Error: {said}\nRemedy: pip install 'hfs-providers[dashboard]'\n"


@takes_long
def test_the_watched_demo_makes_requests_until_it_is_stopped() -> None:
    with served("demo", "--watch") as (process, address):
        url = address.partition("#")[0]
        found: list[dict[str, object]] = []
        for _ in range(20):
            found = httpx.get(f"{url}dashboard/api/live", params={"after": 0, "wait": 15}, timeout=60).json()["rows"]
            if found:
                break
        assert found[0]["provider"] in ("cerebras", "groq", "gemini", "openrouter")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


@pytest.mark.parametrize("no", [False, True])
def test_the_gateway_has_it_at_its_root(no: bool) -> None:
    from tests.gateway.test_serve import serving

    with serving("--demo", *(["--no-dashboard"] if no else [])) as (_, command):
        url = httpx.URL(command.split()[1])
        page = httpx.get(f"http://127.0.0.1:{url.port}/", timeout=60)
        assert page.status_code == (404 if no else 200)
        assert ("<title>" in page.text) is not no
