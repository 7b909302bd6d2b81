"""docs/web-service.md: its service answers, and says 503 where no model can."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.testing import LoopbackServer, RateLimited, Unauthorized

fastapi_testing = pytest.importorskip("fastapi.testclient")

PAGE = (Path(__file__).parents[1] / "docs" / "web-service.md").read_text(encoding="utf-8")
[PROGRAM] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def client(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in server.env({"groq": 2, "cerebras": 1}).items():
        monkeypatch.setenv(name, value)
    service = types.ModuleType("service")
    monkeypatch.setitem(sys.modules, "service", service)  # pydantic looks its names up there
    exec(compile(PROGRAM, "service.py", "exec"), service.__dict__)
    with fastapi_testing.TestClient(service.__dict__["app"]) as client:
        yield client


def ask(client: Any) -> Any:
    return client.post("/ask", json={"text": "hello"})


def test_it_answers_and_says_who_served(client: Any) -> None:
    answer = ask(client)
    assert answer.status_code == 200
    assert "hello" in answer.json()["text"]
    assert re.fullmatch(r"cerebras/\S+ with cerebras#1", answer.json()["served_by"])


def test_it_falls_back(client: Any, server: LoopbackServer) -> None:
    server.script("cerebras", "*", [], then=RateLimited(retry_after=600))
    assert re.fullmatch(r"groq/\S+ with groq#[12]", ask(client).json()["served_by"])


def test_it_answers_503_and_when_to_come_back(client: Any, server: LoopbackServer) -> None:
    server.script("cerebras", "*", [], then=RateLimited(retry_after=90))
    server.script("groq", "*", [], then=RateLimited(retry_after=40))
    answer = ask(client)
    assert answer.status_code == 503
    assert 30 <= int(answer.headers["Retry-After"]) <= 40
    assert answer.json() == {"detail": "no model can answer now"}


def test_it_answers_503_where_every_key_is_refused(client: Any, server: LoopbackServer) -> None:
    for name in ("cerebras", "groq"):
        server.script(name, "*", [], then=Unauthorized())
    answer = ask(client)
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
