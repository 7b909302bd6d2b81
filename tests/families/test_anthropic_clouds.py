"""The anthropic SDK's clients for Bedrock and Vertex AI: whose keys they use, and what they send."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from agno.models.message import Message

from hfs_providers import ProviderManager, StreamInterruptedError
from hfs_providers.authoring import KeyedProvider, ModelDefault
from hfs_providers.errors import KeysExhaustedError, ModelCallError, ModelNotFoundError
from hfs_providers.testing import (
    Forbidden,
    HalfStream,
    LoopbackServer,
    ModelGone,
    Raw,
    ServerError,
    StreamError,
    Unauthorized,
)
from hfs_providers.testing.protocols.anthropic_clouds import AnthropicBedrockDialect, AnthropicVertexDialect

pytest.importorskip("anthropic", reason="anthropic is not installed")

ID = "AKIAIOSFODNN7EXAMPLE"
BEDROCK = KeyedProvider(
    name="cloud",
    model_class="agno.models.aws:Claude",
    sdk="anthropic",
    client="anthropic_bedrock",
    base_url="https://bedrock-runtime.us-west-2.amazonaws.com",
    models=(ModelDefault("anthropic.claude-v1:0"),),
)
VERTEX = KeyedProvider(
    name="cloud",
    model_class="agno.models.vertexai.claude:Claude",
    sdk="anthropic",
    client="anthropic_vertex",
    base_url="https://vertex.example/v1",
    models=(ModelDefault("claude-sonnet-4@20250514"),),
    model_params={"project_id": "mine", "region": "global"},
)


def hello() -> list[Message]:
    """What is asked; a call adds its answer."""
    return [Message(role="user", content="hello")]


@pytest.fixture(params=["bedrock", "vertex"])
def plugin(request: pytest.FixtureRequest) -> KeyedProvider:
    if request.param == "bedrock":
        pytest.importorskip("boto3", reason="boto3 is not installed")
        return BEDROCK
    return VERTEX


@pytest.fixture
def server(plugin: KeyedProvider) -> Iterator[LoopbackServer]:
    dialect = AnthropicBedrockDialect if plugin is BEDROCK else AnthropicVertexDialect
    with LoopbackServer(dialects=[dialect("cloud")]) as server:
        yield server


@pytest.fixture
def manager(plugin: KeyedProvider, server: LoopbackServer) -> Iterator[ProviderManager]:
    with ProviderManager(env=server.env({"cloud": 2}), plugins=[plugin]) as manager:
        yield manager


def test_a_request_is_sent_once_over_one_connection(manager: ProviderManager, server: LoopbackServer) -> None:
    model = manager.get_model("cloud", affinity=None, max_retries=0)
    model.response(messages=hello())
    server.script("cloud", "*", [ServerError(500)])
    with pytest.raises(ModelCallError):
        model.response(messages=hello())
    assert (len(server.hits("cloud")), len(server.seen), server.connections) == (2, 2, 1)


def test_keys_and_models_are_judged(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("cloud", "*", [Unauthorized(), Forbidden()])
    with pytest.raises(KeysExhaustedError):
        manager.get_model("cloud", wait=False).response(messages=hello())
    assert sorted(status.state for status in manager.wrapper("cloud").pool.statuses()) == ["cooling", "dead"]


@pytest.mark.parametrize("plugin", [VERTEX], ids=["vertex"])
def test_googles_own_errors_are_read(manager: ProviderManager, server: LoopbackServer) -> None:
    suspended = {"code": 403, "status": "PERMISSION_DENIED", "details": [{"reason": "CONSUMER_SUSPENDED"}]}
    server.script("cloud", "*", [Raw(403, {"error": suspended})])
    manager.get_model("cloud").response(messages=hello())
    assert sorted(status.state for status in manager.wrapper("cloud").pool.statuses()) == ["dead", "ready"]


def test_a_model_that_is_gone_is_known(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("cloud", "*", [], then=ModelGone())
    with pytest.raises(ModelNotFoundError):
        manager.get_model("cloud", "once-was").response(messages=hello())
    assert server.seen[-1].model == "once-was"


def test_a_stream_that_fails_or_is_cut_off_is_known(manager: ProviderManager, server: LoopbackServer) -> None:
    async def read() -> None:
        async for _ in manager.get_model("cloud").aresponse_stream(messages=hello()):
            pass

    server.script("cloud", "*", [HalfStream(chunks=2), StreamError(chunks=2)])
    for _ in range(2):
        with pytest.raises(StreamInterruptedError):
            asyncio.run(read())
    assert len(server.seen) == 2


def test_nothing_of_the_process_gets_in(
    manager: ProviderManager, plugin: KeyedProvider, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_BEARER_TOKEN_BEDROCK", "AWS_BEDROCK_API_KEY", "AWS_ACCESS_KEY_ID", "ANTHROPIC_VERTEX_BASE_URL"):
        monkeypatch.setenv(name, "https://of-the-process.example")
    assert "hello" in str(manager.get_model("cloud").response(messages=hello()).content)
    assert "https://of-the-process.example" not in server.hits("cloud")
    if plugin is BEDROCK:
        with pytest.raises(TypeError, match="aws_secret_key"):
            manager.get_model("cloud", aws_secret_key="mine")
        with ProviderManager(env=server.env({"cloud": [f"{ID}:secret:token"]}), plugins=[BEDROCK]) as pairs:
            pairs.get_model("cloud").response(messages=hello())
        assert server.hits("cloud")[ID] == 1


@pytest.mark.parametrize("plugin", [VERTEX], ids=["vertex"])
def test_a_service_account_is_a_key(plugin: KeyedProvider) -> None:
    service_account: Any = pytest.importorskip("google.oauth2.service_account", reason="google-auth is not installed")
    rsa: Any = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa", reason="no cryptography")
    from cryptography.hazmat.primitives import serialization

    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {"client_email": "me@mine.example", "token_uri": "https://tokens.example", "private_key": pem.decode()}
    key = base64.b64encode(json.dumps({"type": "service_account", **account}).encode()).decode()
    env = {"NUM_CLOUD": "1", "CLOUD_API_KEY_1": key}
    with ProviderManager(env=env, plugins=[plugin]) as manager:
        client = manager.get_model("cloud").get_client()  # type: ignore[attr-defined]  # the SDK's
    assert isinstance(client.credentials, service_account.Credentials)
    assert client.credentials.service_account_email == "me@mine.example"
