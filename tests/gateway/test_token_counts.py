"""`/v1/messages/count_tokens`, asked by Anthropic's SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

from hfs_providers.authoring import HttpApi
from tests.gateway.served import CORP, HELLO, Served, Wire, whole
from tests.gateway.test_access import TOKENS, listed

COUNTING = replace(CORP, http=HttpApi(messages="/v1/messages", count_tokens="/v1/messages/count_tokens"))
MESSAGES: Any = HELLO["messages"]


@contextmanager
def counting(
    *answers: bytes, clients: Path | None = None, **env: str
) -> Iterator[tuple[Wire, Served, anthropic.Anthropic]]:
    """A gateway before a provider that gives these answers, and the SDK with its retries."""
    left = list(answers)

    async def talk(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(left.pop(0))

    with (
        Wire(talk) as wire,
        Served({**wire.env(2), **env}, [COUNTING, replace(CORP, name="other")], clients=clients) as served,
        anthropic.Anthropic(base_url=served.url, api_key="mine") as client,
    ):
        yield wire, served, client


def test_the_provider_counts() -> None:
    body = b'{"input_tokens": 1234, "x": 1}'
    with counting(whole(body), whole(body)) as (wire, _, client):
        answer = client.beta.messages.with_raw_response.count_tokens(
            model="corp", messages=MESSAGES, system="Be brief.", betas=["token-counting-2024-11-01"]
        )
        assert answer.http_response.content == body
        assert answer.parse().input_tokens == 1234
        assert answer.headers["x-hfs-model"] == "first"
        assert answer.headers["x-hfs-key"].startswith("corp#")
        head, _, sent = wire.requests[0].partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        assert lines[0] == b"post /api/v1/messages/count_tokens http/1.1"
        assert any(line.startswith(b"anthropic-beta: token-counting-2024-11-01") for line in lines)
        assert b"mine" not in head
        assert json.loads(sent) == {"model": "first", "messages": MESSAGES, "system": "Be brief."}
        assert client.messages.count_tokens(model="corp/m", messages=MESSAGES).input_tokens == 1234


def test_a_count_uses_up_nothing(tmp_path: Path) -> None:
    config, clients = tmp_path / "config.toml", tmp_path / "clients"
    config.write_text('[clients.web]\nrpm = 1\ntpm = 1\n[budgets]\nusd = 0.0001\nper = "day"\n')
    clients.write_bytes(listed("web"))
    clients.chmod(0o600)
    env = {"CORP_LIMITS": "rpm=1", "HFS_CONFIG": str(config)}
    with counting(*[whole(b'{"input_tokens":900000}')] * 5, clients=clients, **env) as (_, served, client):
        ours = client.with_options(api_key=TOKENS["web"])
        assert [ours.messages.count_tokens(model="corp", messages=MESSAGES).input_tokens for _ in range(5)] == [
            900000
        ] * 5
        assert served.outcomes == []


def test_nobody_else_counts_for_the_model_that_would_answer() -> None:
    with counting(whole(b'{"input_tokens":1}'), OTHER_API_KEY="x", OTHER_BASE_URL="http://127.0.0.1:9") as given:
        wire, served, client = given
        # Once: the SDK repeats what has failed.
        for model in ("other", "other/x,corp"):
            with pytest.raises(anthropic.APIStatusError) as failed:
                client.messages.count_tokens(model=model, messages=MESSAGES)
            assert failed.value.status_code == 501
            assert failed.value.response.headers["x-should-retry"] == "false"
            assert failed.value.response.json()["error"]["message"] == "other does not count tokens."
        assert wire.requests == []
        assert client.messages.count_tokens(model="corp,other/x", messages=MESSAGES).input_tokens == 1
        listed = {each["id"]: each["endpoints"] for each in httpx.get(f"{served.url}/v1/models").json()["data"]}
        offering = {name for name, endpoints in listed.items() if "/v1/messages/count_tokens" in endpoints}
        assert offering == {"any", "corp", "corp/first", "corp/second"}


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (whole(b'{"error":{"type":"x","message":"no corp-secret-1 here"}}', "429 Slow", "retry-after: 7"), 429, "no "),
        (whole(b'{"error":{"type":"authentication_error","message":"bad key"}}', "401 No"), 503, "bad key"),
        (whole(b'{"error":{"type":"invalid_request_error","message":"no messages"}}', "400 No"), 400, "no messages"),
        (whole(b"<html>"), 502, "not a token count"),
        (b"nonsense\r\n\r\n", 502, "not HTTP"),
    ],
)
def test_a_count_that_fails_says_nothing_about_the_key(answer: bytes, status: int, words: str) -> None:
    with counting(answer) as (wire, served, client), pytest.raises(anthropic.APIStatusError) as failed:
        client.with_options(max_retries=0).messages.count_tokens(model="corp", messages=MESSAGES)
    assert failed.value.status_code == status
    told = failed.value.response.json()
    assert told["type"] == "error"
    assert words in told["error"]["message"]
    assert "corp-secret" not in failed.value.response.text
    assert failed.value.response.headers.get("retry-after") == ("7" if status == 429 else None)
    assert len(wire.requests) == 1
    assert [key.state for key in served.manager.wrapper("corp").pool.statuses()] == ["ready", "ready"]
    assert served.outcomes == []


def test_without_a_free_key() -> None:
    with counting() as (wire, served, client):
        for _ in range(2):
            served.manager.wrapper("corp").pool.acquire("first").rate_limited(30)
        with pytest.raises(anthropic.RateLimitError) as failed:
            client.with_options(max_retries=0).messages.count_tokens(model="corp", messages=MESSAGES)
        assert failed.value.response.headers["retry-after"] == "30"
        assert wire.requests == []
