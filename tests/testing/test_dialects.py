"""A dialect of one's own: what the loopback server takes over from it, and what it has by default."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from hfs_providers.testing import (
    Dialect,
    LoopbackServer,
    ModelGone,
    Ok,
    OpenAIDialect,
    RateLimited,
    Request,
    ServerError,
    Step,
    Unauthorized,
    wait_headers,
)


class TalkDialect(Dialect):
    """POST /talk, with errors in one of several shapes."""

    key_prefix = "talk-"

    def __init__(self, keyless: bool = False) -> None:
        super().__init__("talk")
        self.keyless = keyless

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        if path != "/talk":
            return None
        return Request(self.provider, headers.get("x-key", ""), body["model"], path, prompt=body["say"])

    def whole(self, request: Request, answer: Ok) -> dict[str, Any]:
        return {"said": answer.text}

    def refuse(self, request: Request, step: Step) -> tuple[int, dict[str, Any], dict[str, str]] | None:
        match step:
            case Unauthorized():
                return 401, {"detail": "who are you?"}, {}
            case RateLimited():
                return 429, {"error": "too fast"}, wait_headers(step)
            case ModelGone():
                return 404, {"sorry": True}, {}
        return super().refuse(request, step)


def say(server: LoopbackServer, key: str, endpoint: str = "default") -> httpx.Response:
    url = f"{server.base_url('talk', endpoint)}/talk"
    return httpx.post(url, json={"model": "m", "say": "hi"}, headers={"x-key": key})


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[TalkDialect()]) as server:
        yield server


@pytest.fixture
def keyless() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[TalkDialect(keyless=True)]) as server:
        yield server


class TestADialect:
    def test_answers_and_is_counted_as_any(self, server: LoopbackServer) -> None:
        key = server.new_key("talk")
        assert key.startswith("talk-")
        assert say(server, key).json() == {"said": "[talk/m] You said: hi"}
        assert server.answered("talk") == {(key, "m"): 1}

    def test_words_its_own_errors(self, server: LoopbackServer) -> None:
        server.script("talk", "*", [Unauthorized(), RateLimited(retry_after=7)])
        assert say(server, "talk-1").json() == {"detail": "who are you?"}
        limited = say(server, "talk-1")
        assert (limited.json(), limited.headers["retry-after"]) == ({"error": "too fast"}, "7")

    def test_leaves_the_others_to_the_server(self, server: LoopbackServer) -> None:
        server.script("talk", "*", [ServerError(503)])
        answer = say(server, "talk-1")
        assert answer.status_code == 503
        assert answer.json()["error"]["message"] == "Service Unavailable"

    @pytest.mark.parametrize(
        "step",
        [
            Unauthorized(echo_key=True),
            RateLimited(echo_key=True),
            ModelGone(echo_key=True),
            ServerError(500, echo_key=True),
        ],
        ids=["detail", "a word", "neither", "an object"],
    )
    def test_quotes_the_key_whatever_the_shape_of_its_errors(self, server: LoopbackServer, step: Step) -> None:
        server.script("talk", "*", [step])
        assert "talk-of-mine" in say(server, "talk-of-mine").text

    def test_takes_the_place_of_a_built_in_one(self) -> None:
        with LoopbackServer(dialects=[OpenAIDialect("groq", "/elsewhere")]) as server:
            assert server.base_url("groq").endswith("/groq/elsewhere")

    def test_says_which_path_it_does_not_know(self, server: LoopbackServer) -> None:
        answer = httpx.post(f"{server.base_url('talk')}/walk")
        assert answer.status_code == 404
        assert "no such path: POST /talk/walk" in answer.text


class TestAKeylessDialect:
    def test_gives_each_endpoint_an_address(self, keyless: LoopbackServer) -> None:
        env = keyless.env({"talk": ["gpu-1", "gpu-2"]})
        assert list(env) == ["NUM_TALK", "TALK_ENDPOINT_1", "TALK_ENDPOINT_2"]
        assert env["TALK_ENDPOINT_2"] == keyless.base_url("talk", "gpu-2")

    def test_counts_and_scripts_by_endpoint(self, keyless: LoopbackServer) -> None:
        keyless.script("talk", "gpu-1", [Unauthorized()])
        assert [say(keyless, "", endpoint).status_code for endpoint in ("gpu-1", "gpu-2")] == [401, 200]
        assert keyless.hits("talk") == {"gpu-1": 1, "gpu-2": 1}

    @pytest.mark.parametrize("path", ["", "/talk", "/talk/"])
    def test_knows_no_path_without_an_endpoint(self, keyless: LoopbackServer, path: str) -> None:
        root = keyless.base_url("talk").removesuffix("/talk/default")
        assert httpx.post(f"{root}{path}", json={"model": "m", "say": "hi"}).status_code == 404
