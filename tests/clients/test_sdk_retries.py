"""The retries of SDKs whose clients the model classes build themselves."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from hfs_providers import KeyedProvider, ModelDefault
from hfs_providers.authoring import Clients, Credential
from hfs_providers.clients.sdk_retries import turn_off_retries
from hfs_providers.contract.secret import Secret


class Refusing:
    """A server that answers each request with 429."""

    def __init__(self) -> None:
        self.requests = 0
        refusing = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                refusing.requests += 1
                self.rfile.read(int(self.headers.get("content-length", 0)))
                body = json.dumps({"message": "slow down"}).encode()
                self.send_response(429)
                self.send_header("x-amzn-ErrorType", "ThrottlingException")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def refusing() -> Iterator[Refusing]:
    refusing = Refusing()
    thread = threading.Thread(target=refusing.server.serve_forever, args=(0.01,))
    thread.start()
    yield refusing
    refusing.server.shutdown()
    refusing.server.server_close()
    thread.join()


TEXT: Any = [{"role": "user", "content": "x"}]


def bedrock(mode: str) -> Callable[[str], tuple[Any, Callable[[], object]]]:
    def make(url: str) -> tuple[Any, Callable[[], object]]:
        boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
        retries = pytest.importorskip("botocore.config").Config(retries={"mode": mode})
        keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK", "region_name": "us-east-1"}
        client = boto3.client("bedrock-runtime", endpoint_url=url, config=retries, **keys)
        return client, lambda: client.converse(modelId="m", messages=[{"role": "user", "content": [{"text": "x"}]}])

    return make


def cohere(url: str) -> tuple[Any, Callable[[], object]]:
    client = pytest.importorskip("cohere", reason="cohere is not installed").ClientV2(api_key="k", base_url=url)
    return client, lambda: client.chat(model="m", messages=TEXT)


def anthropic(url: str) -> tuple[Any, Callable[[], object]]:
    client = pytest.importorskip("anthropic", reason="anthropic is not installed").Anthropic(api_key="k", base_url=url)
    return client, lambda: client.messages.create(model="m", max_tokens=3, messages=TEXT)


def openai(url: str) -> tuple[Any, Callable[[], object]]:
    client = pytest.importorskip("openai").OpenAI(api_key="k", base_url=url)
    return client, lambda: client.chat.completions.create(model="m", messages=TEXT)


def azure(url: str) -> tuple[Any, Callable[[], object]]:
    inference = pytest.importorskip("azure.ai.inference", reason="azure-ai-inference is not installed")
    key = pytest.importorskip("azure.core.credentials").AzureKeyCredential("k")
    client = inference.ChatCompletionsClient(url, key)
    return client, lambda: client.complete(model="m", messages=TEXT)


@pytest.mark.parametrize(
    "make",
    [bedrock("legacy"), bedrock("standard"), bedrock("adaptive"), cohere, anthropic, openai, azure],
    ids=["boto3, legacy", "boto3, standard", "boto3, adaptive", "cohere", "anthropic", "openai", "azure"],
)
def test_a_real_client_sends_a_request_once(
    refusing: Refusing, make: Callable[[str], tuple[Any, Callable[[], object]]]
) -> None:
    client, call = make(refusing.url)
    turn_off_retries(client)
    with pytest.raises(Exception):  # noqa: B017, PT011  each SDK's own
        call()
    assert refusing.requests == 1


def test_the_attributes_by_which_an_sdk_is_known() -> None:
    stainless = SimpleNamespace(max_retries=2)
    fern = SimpleNamespace(_client_wrapper=SimpleNamespace(httpx_client=SimpleNamespace(base_max_retries=2)))
    azure_core = SimpleNamespace(_config=SimpleNamespace(retry_policy=SimpleNamespace(total_retries=10)))
    for client in (stainless, fern, azure_core):
        turn_off_retries(client)
    assert stainless.max_retries == 0
    assert fern._client_wrapper.httpx_client.base_max_retries == 0
    assert azure_core._config.retry_policy.total_retries == 0


def test_the_event_by_which_botocore_repeats_a_request_has_no_handler_then() -> None:
    gone: list[tuple[str, str]] = []
    client = SimpleNamespace(
        meta=SimpleNamespace(
            events=SimpleNamespace(unregister=lambda event, unique_id: gone.append((event, unique_id))),
            service_model=SimpleNamespace(service_id=SimpleNamespace(hyphenize=lambda: "bedrock-runtime")),
        )
    )
    turn_off_retries(client)
    assert gone == [("needs-retry.bedrock-runtime", "retry-config-bedrock-runtime")]


@pytest.mark.parametrize("client", [object(), None, SimpleNamespace(max_retries="many"), SimpleNamespace(meta=None)])
def test_any_other_client_stays_as_it_is(client: Any) -> None:
    before = dict(getattr(client, "__dict__", {}))
    turn_off_retries(client)
    assert dict(getattr(client, "__dict__", {})) == before


class Bound:
    """As much of a model as `Clients` needs."""

    def __init__(self) -> None:
        self.provider = "corp"
        self.api_key = None

    def get_client(self) -> Any:
        return SimpleNamespace(max_retries=2)

    def get_async_client(self) -> Any:
        return SimpleNamespace(max_retries=2)


def test_a_client_that_the_model_class_builds_has_its_retries_off() -> None:
    provider = KeyedProvider(name="corp", model_class="corp:Model", models=(ModelDefault("m"),), client="own")
    clients = Clients(provider, provider.configure_env({"NUM_CORP": "1", "CORP_API_KEY_1": "key-0123456789"}))
    credential = Credential("corp#1", Secret("key-0123456789"))
    bound: Any = Bound()
    clients.bind(bound, credential)
    asyncio.run(clients.abind(bound, credential))
    assert (bound.client.max_retries, bound.async_client.max_retries) == (0, 0)
