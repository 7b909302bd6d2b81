"""The families of google-genai: what Google's errors mean for a plugin that says nothing about them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from agno.models.message import Message

from hfs_providers import ProviderManager
from hfs_providers.authoring import KeyedProvider, ModelDefault, UsageRow
from hfs_providers.calls.verdicts import Verdict, judge
from hfs_providers.contract.protocols import ProviderTraits
from hfs_providers.errors import KeysExhaustedError, ModelCallError
from hfs_providers.families.google_status import GOOGLE_ERRORS
from hfs_providers.plugins import gemini
from hfs_providers.testing import GeminiDialect, LoopbackServer, Raw, Unauthorized
from hfs_providers.testing.protocols.interactions import InteractionsDialect
from hfs_providers.wrapper.wrapper import ProviderWrapper

pytest.importorskip("google.genai", reason="google-genai is not installed")

# As `new-plugin` writes them.
PLUGINS = {
    "generate": KeyedProvider(
        name="acme",
        model_class="agno.models.google:Gemini",
        sdk="google-genai",
        base_url="https://generativelanguage.googleapis.com",
        models=(ModelDefault("acme-large"),),
        sdk_module="google.genai",
        client="google_genai",
    ),
    "interactions": KeyedProvider(
        name="acme",
        model_class="agno.models.google:GeminiInteractions",
        sdk="google-genai",
        base_url="https://generativelanguage.googleapis.com",
        models=(ModelDefault("acme-large"),),
        sdk_module="google.genai",
        client="google_interactions",
        model_params={"store": False},
    ),
}
DIALECTS = {"generate": GeminiDialect, "interactions": InteractionsDialect}


@pytest.fixture(params=PLUGINS)
def api(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(api: str) -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[DIALECTS[api]("acme")]) as server:
        yield server


@pytest.fixture
def manager(api: str, server: LoopbackServer) -> Iterator[ProviderManager]:
    with ProviderManager(env=server.env({"acme": 1}), plugins=[PLUGINS[api]]) as manager:
        yield manager


def verdict_on(manager: ProviderManager, server: LoopbackServer, code: int, status: str, *details: Any) -> Verdict:
    error = {"code": code, "message": "as Google words it", "status": status, "details": list(details)}
    server.script("acme", "*", [Raw(code, {"error": error})])
    with pytest.raises((ModelCallError, KeysExhaustedError)) as caught:
        manager.get_model("acme", wait=False, max_retries=0).response(messages=hello())
    if isinstance(caught.value, ModelCallError):
        return caught.value.verdict
    assert caught.value.__cause__ is not None
    return judge(caught.value.__cause__, traits_of(manager).errors)


def traits_of(manager: ProviderManager) -> ProviderTraits:
    wrapper = manager.wrapper("acme")
    assert isinstance(wrapper, ProviderWrapper)
    return wrapper.backend.traits


def hello() -> list[Message]:
    """What is asked; a call adds its answer."""
    return [Message(role="user", content="hello")]


def test_an_invalid_key_is_dead(manager: ProviderManager, server: LoopbackServer) -> None:
    verdict = verdict_on(manager, server, 400, "INVALID_ARGUMENT", {"reason": "API_KEY_INVALID"})
    assert (verdict.kind, verdict.code) == ("dead", "API_KEY_INVALID")
    assert [key.state for key in manager.health("acme").keys] == ["dead"]


def test_a_quota_says_for_what_and_how_long(manager: ProviderManager, server: LoopbackServer) -> None:
    quota = {"violations": [{"quotaId": "GenerateRequestsPerMinutePerProject", "quotaValue": "20"}]}
    verdict = verdict_on(manager, server, 429, "RESOURCE_EXHAUSTED", quota, {"retryDelay": "34.5s"})
    assert (verdict.kind, verdict.scope, verdict.retry_after) == ("rate_limited", "key", 34.5)


def test_each_code_means_what_google_says(manager: ProviderManager, server: LoopbackServer) -> None:
    for path, table in GOOGLE_ERRORS.fields.items():
        for value, meaning in table.items():
            manager.wrapper("acme").pool.revive("acme#1")
            detail, status = ({}, value) if path == "status" else ({"reason": value}, "INVALID_ARGUMENT")
            verdict = verdict_on(manager, server, 400, status, detail)
            assert (verdict.kind, verdict.credits, verdict.code) == (meaning.kind, meaning.credits, value)


def test_a_leaked_key_is_only_known_to_the_plugin_of_the_hosted_api(
    manager: ProviderManager, server: LoopbackServer
) -> None:
    assert verdict_on(manager, server, 403, "PERMISSION_DENIED").kind == "rate_limited"
    assert gemini.plugin.errors.fields["status"]["PERMISSION_DENIED"].kind == "dead"
    assert not set(gemini.plugin.errors.fields["status"]) & set(GOOGLE_ERRORS.fields["status"])


@pytest.mark.parametrize("api", ["generate"])
def test_its_tokens_are_counted_once(manager: ProviderManager, server: LoopbackServer) -> None:
    rows: list[UsageRow] = []
    manager.observe(lambda event: rows.append(event.usage) if event.usage else None)
    parts = [{"text": "hi"}]
    counts = {"promptTokenCount": 100, "candidatesTokenCount": 5, "thoughtsTokenCount": 20, "totalTokenCount": 125}
    candidate = {"content": {"parts": parts, "role": "model"}, "finishReason": "STOP", "index": 0}
    body = {"candidates": [candidate], "usageMetadata": {**counts, "cachedContentTokenCount": 60}}
    server.script("acme", "*", [Raw(200, body)])
    assert manager.get_model("acme").response(messages=hello()).content == "hi"
    row = rows[-1]
    assert (row.tokens_in, row.tokens_out, row.tokens, row.tokens_cached) == (100, 25, 125, 60)


@pytest.mark.parametrize("api", ["generate"])
def test_its_models_get_signed_tool_calls(manager: ProviderManager) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    signed = traits_of(manager).messages.tool_calls("gemini-3-pro", [call, call])
    assert ["thought_signature" in each for each in signed] == [True, False]


@pytest.mark.parametrize("api", ["generate"])
def test_its_server_refuses_in_googles_words(server: LoopbackServer) -> None:
    key = server.new_key("acme")
    server.script("acme", key, [Unauthorized(), Unauthorized()])
    native = f"{server.base_url('acme')}/v1beta/models/m:generateContent"
    compatible = f"{server.base_url('acme')}/v1beta/openai/chat/completions"
    hello = [{"role": "user", "content": "hello"}]
    answers = [
        httpx.post(native, json={"contents": []}, headers={"x-goog-api-key": key}),
        httpx.post(compatible, json={"model": "m", "messages": hello}, headers={"authorization": f"Bearer {key}"}),
    ]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert [answer.json()["error"]["details"][0]["reason"] for answer in answers] == ["API_KEY_INVALID"] * 2
