"""The family of the llama-api-client SDK."""

from __future__ import annotations

import pytest
from agno.models.message import Message

from hfs_providers import ProviderManager
from hfs_providers.authoring import KeyedProvider, ModelDefault, UsageRow
from hfs_providers.errors import ModelCallError
from hfs_providers.testing import LoopbackServer, Ok, ServerError
from hfs_providers.testing.protocols.llama import LlamaDialect

pytest.importorskip("llama_api_client", reason="llama-api-client is not installed")

PLUGIN = KeyedProvider(
    name="herd",
    model_class="agno.models.meta:Llama",
    sdk="llama-api-client",
    sdk_module="llama_api_client",
    client="llama",
    base_url="https://herd.example/v1",
    models=(ModelDefault("m"),),
)


def hello() -> list[Message]:
    """What is asked; a call adds its answer."""
    return [Message(role="user", content="hello")]


def test_a_request_is_sent_once_and_a_stream_tells_its_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_API_KEY", "key-of-the-process")
    monkeypatch.setenv("LLAMA_API_CLIENT_BASE_URL", "http://127.0.0.1:9/nowhere")
    rows: list[UsageRow] = []
    with LoopbackServer(dialects=[LlamaDialect("herd")]) as server:
        env = server.env({"herd": 1})
        server.script("herd", "*", [ServerError(500)], then=Ok(text="hi there", usage=(7, 2)))
        with ProviderManager(env=env, plugins=[PLUGIN]) as manager:
            manager.observe(lambda event: rows.append(event.usage) if event.usage else None)
            model = manager.get_model("herd", max_retries=0)
            with pytest.raises(ModelCallError):
                model.response(messages=hello())
            said = [str(delta.content or "") for delta in model.response_stream(messages=hello())]
        assert [seen.key for seen in server.seen] == [env["HERD_API_KEY_1"]] * 2
    assert "".join(said) == "hi there"
    assert (rows[-1].tokens_in, rows[-1].tokens_out) == (7, 2)
