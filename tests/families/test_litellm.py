"""The family of LiteLLM as a library."""

from __future__ import annotations

import asyncio

import pytest
from agno.models.message import Message

from hfs_providers import ProviderManager, StreamInterruptedError
from hfs_providers.authoring import KeyedProvider, ModelDefault
from hfs_providers.errors import ModelCallError
from hfs_providers.testing import (
    AnthropicDialect,
    Dialect,
    HalfStream,
    LoopbackServer,
    OpenAIDialect,
    RateLimited,
    ServerError,
)

with pytest.MonkeyPatch.context() as patch:
    # Else its import asks the network for prices.
    patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    pytest.importorskip("litellm", reason="litellm is not installed")

PLUGIN = KeyedProvider(
    name="lite",
    model_class="agno.models.litellm:LiteLLM",
    sdk="litellm",
    client="litellm",
    base_url="https://lite.example/v1",
    models=(ModelDefault("m"),),
)


def hello() -> list[Message]:
    """What is asked; a call adds its answer."""
    return [Message(role="user", content="hello")]


@pytest.mark.parametrize(
    ("dialect", "model_id"),
    [(OpenAIDialect("lite"), "m"), (AnthropicDialect("lite"), "anthropic/claude-3-haiku-20240307")],
    ids=["openai", "anthropic"],
)
def test_an_id_may_name_one_of_its_providers(
    dialect: Dialect, model_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with LoopbackServer(dialects=[dialect]) as server:
        env = server.env({"lite": 2})
        server.script("lite", env["LITE_API_KEY_1"], [RateLimited(retry_after=300), ServerError(500)])
        with ProviderManager(env=env, plugins=[PLUGIN]) as manager:
            answer = manager.get_model("lite", model_id, affinity=None).response(messages=hello())
            status = manager.wrappers["lite"].pool.statuses()[0]
            manager.wrappers["lite"].pool.revive("lite#1")
            again = manager.get_model("lite", model_id, key_id="lite#1", max_retries=0)
            with pytest.raises(ModelCallError):
                again.response(messages=hello())
    assert "You said: hello" in str(answer.content)
    assert status.free_in is not None
    assert 280 < status.free_in <= 300
    assert len(server.seen) == 3
    assert capsys.readouterr().out == ""


def test_a_stream_that_it_ends_itself_was_cut_off() -> None:
    async def read(manager: ProviderManager) -> None:
        async for _ in manager.get_model("lite").aresponse_stream(messages=hello()):
            pass

    with LoopbackServer(dialects=[OpenAIDialect("lite")]) as server:
        server.script("lite", "*", [HalfStream(chunks=2)])
        with (
            ProviderManager(env=server.env({"lite": 1}), plugins=[PLUGIN]) as manager,
            pytest.raises(StreamInterruptedError),
        ):
            asyncio.run(read(manager))
