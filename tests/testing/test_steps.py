"""What a step and the server's own `answer` make together, and steps that cannot be sent."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import Any

import pytest

from hfs_providers.testing import LoopbackServer, Ok, Raw
from hfs_providers.testing.answers import Request

REQUEST = Request("groq", "a-key", "m", "/openai/v1/chat/completions")


def test_the_delays_of_an_answer_are_kept() -> None:
    server = LoopbackServer(answer=lambda request: Ok("slow", delay=0.5, chunk_delay=0.1, chunks=9))
    assert server.thought(REQUEST, Ok()) == Ok("slow", delay=0.5, chunk_delay=0.1, chunks=9)


def test_what_a_script_says_goes_before_what_the_answer_says() -> None:
    server = LoopbackServer(answer=lambda request: Ok("slow", delay=0.5, usage=(1, 2)))
    assert server.thought(REQUEST, Ok(delay=2.0, usage=(7, 8))) == Ok("slow", delay=2.0, usage=(7, 8))


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}])
def test_a_mapping_is_sent_as_json(headers: dict[str, str]) -> None:
    with LoopbackServer() as server:
        server.script("groq", "*", [Raw(418, {"error": {"code": 418}}, headers)])
        request = urllib.request.Request(
            f"{server.base_url('groq')}/openai/v1/chat/completions", b"{}", {"authorization": "Bearer a-key"}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=5)
        with caught.value as answer:
            assert (answer.code, answer.read()) == (418, b'{"error": {"code": 418}}')
            assert answer.headers["content-type"] == headers.get("Content-Type", "application/json")


@pytest.mark.parametrize("body", ["text", 5, {"unwritable": object()}])
def test_a_body_that_cannot_be_sent_is_refused_where_it_is_written(body: Any) -> None:
    with pytest.raises(TypeError):
        Raw(200, body)
