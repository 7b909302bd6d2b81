"""keycycle's clients over leases: the OpenAI client, any SDK's client, and keys handed out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import groq
import pytest

from hfs_providers import Event, KeysExhaustedError, ProviderManager, StreamInterruptedError
from hfs_providers.calls._keycycle import KeyNotFoundError
from hfs_providers.keys import Lease
from hfs_providers.testing import HalfStream, LoopbackServer, RateLimited, ServerError, Unauthorized

MESSAGES: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    env = server.env({"groq": 3, "cerebras": 3, "openrouter": 3})
    with ProviderManager(env=env) as manager:
        for wrapper in manager.wrappers.values():
            wrapper.backend.sleep = lambda seconds: None  # type: ignore[attr-defined]
        yield manager


@pytest.fixture
def wrapper(manager: ProviderManager) -> Any:
    return manager.wrappers["groq"]


@pytest.fixture
def keys(wrapper: Any) -> list[str]:
    return [credential.secret.reveal() for credential in wrapper.pool.credentials]


def complete(client: Any, **kwargs: Any) -> Any:
    return client.chat.completions.create(model="m", messages=MESSAGES, **kwargs)


@pytest.mark.parametrize("name", ["groq", "cerebras", "openrouter"])
def test_the_openai_client_reaches_the_providers_own_endpoint(manager: ProviderManager, name: str) -> None:
    answer = complete(manager.wrappers[name].get_openai_client())  # type: ignore[attr-defined]
    assert answer.choices[0].message.content == f"[{name}/m] You said: hello"


def test_the_async_openai_client_answers(wrapper: Any) -> None:
    async def ask() -> Any:
        return await complete(wrapper.get_async_openai_client())

    assert "hello" in asyncio.run(ask()).choices[0].message.content


def test_calls_spread_over_the_keys_on_one_connection(wrapper: Any, server: LoopbackServer, keys: list[str]) -> None:
    client = wrapper.get_openai_client(affinity=None)
    for _ in range(6):
        complete(client)
    assert server.hits("groq") == dict.fromkeys(keys, 2)
    assert server.connections == 1


def test_limited_and_dead_keys_are_passed_by(wrapper: Any, server: LoopbackServer, keys: list[str]) -> None:
    server.script("groq", keys[0], [RateLimited(retry_after=40)])
    server.script("groq", keys[1], [Unauthorized()])
    assert "hello" in complete(wrapper.get_openai_client(affinity=None)).choices[0].message.content
    assert [status.state for status in wrapper.pool.statuses()] == ["cooling", "dead", "ready"]


def test_transient_failures_are_repeated(wrapper: Any, server: LoopbackServer) -> None:
    server.script("groq", "*", [ServerError(503), ServerError(500)])
    assert "hello" in complete(wrapper.get_openai_client()).choices[0].message.content


def test_an_exhausted_pool_says_so(wrapper: Any, server: LoopbackServer) -> None:
    server.script("groq", "*", [], then=RateLimited(retry_after=40))
    with pytest.raises(KeysExhaustedError):
        complete(wrapper.get_openai_client())


def test_a_stream_holds_its_lease_to_the_end(wrapper: Any) -> None:
    stream = complete(wrapper.get_openai_client(), stream=True)
    next(stream)
    assert wrapper.pool.counts("m").in_flight == 1
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert wrapper.pool.counts("m").in_flight == 0


def test_a_closed_stream_ends_its_lease(wrapper: Any) -> None:
    with complete(wrapper.get_openai_client(), stream=True) as stream:
        next(stream)
    assert wrapper.pool.counts("m").in_flight == 0


def test_an_async_stream_ends_its_lease(wrapper: Any) -> None:
    async def text() -> str:
        stream = await complete(wrapper.get_async_openai_client(), stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    assert "hello" in asyncio.run(text())
    assert wrapper.pool.counts("m").in_flight == 0


def test_a_stream_that_breaks_is_an_error(wrapper: Any, server: LoopbackServer) -> None:
    server.script("groq", "*", [HalfStream(how="reset")])
    with pytest.raises(StreamInterruptedError):
        list(complete(wrapper.get_openai_client(), stream=True))
    assert wrapper.pool.counts("m").in_flight == 0


def test_any_sdk_can_be_rotated(wrapper: Any, server: LoopbackServer) -> None:
    client = wrapper.get_rotating_client(groq.Groq, base_url=server.base_url("groq"))
    assert "hello" in complete(client).choices[0].message.content


def test_an_async_sdk_is_known_by_its_name(wrapper: Any, server: LoopbackServer) -> None:
    client = wrapper.get_rotating_client(groq.AsyncGroq, base_url=server.base_url("groq"))

    async def ask() -> Any:
        return await complete(client)

    assert "hello" in asyncio.run(ask()).choices[0].message.content


def test_usage_is_recorded(manager: ProviderManager, wrapper: Any) -> None:
    events: list[Event] = []
    manager.observe(events.append)
    answer = complete(wrapper.get_openai_client())
    rows = [event.usage for event in events if event.usage is not None]
    assert [row.tokens for row in rows] == [answer.usage.total_tokens]


def test_usage_can_be_read_by_a_function(manager: ProviderManager, server: LoopbackServer, wrapper: Any) -> None:
    events: list[Event] = []
    manager.observe(events.append)
    complete(
        wrapper.get_rotating_client(groq.Groq, base_url=server.base_url("groq"), usage_extractor=lambda answer: 42)
    )
    assert [event.usage.tokens for event in events if event.usage is not None] == [42]


class Spoken:
    """What an SDK of nobody's answers, after its key."""

    answer: Any = None

    def __init__(self, api_key: str) -> None:
        self.told = self.answer

    def ask(self) -> Any:
        return self.told


class AsyncSpoken:
    """An SDK whose streams are async generators."""

    def __init__(self, api_key: str) -> None:
        self.api_key = api_key

    async def ask(self) -> Any:
        async def pieces() -> Any:
            yield {"usage": None}
            yield {"usage": {"total_tokens": 7}}

        return pieces()


@pytest.mark.parametrize(
    "answer",
    [
        {"usage": {"total_tokens": 7}},
        {"usage": {"input_tokens": 3, "output_tokens": 4}},
        SimpleNamespace(meta=SimpleNamespace(billed_units=SimpleNamespace(input_tokens=3, output_tokens=4))),
    ],
    ids=["a dict", "its parts", "Cohere's"],
)
def test_usage_is_found_where_keycycle_finds_it(
    manager: ProviderManager, wrapper: Any, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    events: list[Event] = []
    manager.observe(events.append)
    monkeypatch.setattr(Spoken, "answer", answer)
    wrapper.get_rotating_client(Spoken).ask()
    assert [event.usage.tokens for event in events if event.usage is not None] == [7]


def test_an_async_generator_holds_its_lease_to_the_end(manager: ProviderManager, wrapper: Any) -> None:
    events: list[Event] = []
    manager.observe(events.append)

    async def read() -> None:
        stream = await wrapper.get_rotating_client(AsyncSpoken).ask()
        assert wrapper.pool.counts("m").in_flight == 1
        assert len([piece async for piece in stream]) == 2

    asyncio.run(read())
    assert [event.usage.tokens for event in events if event.usage is not None] == [7]
    assert wrapper.pool.counts("m").in_flight == 0


def test_a_key_that_is_handed_out_is_counted_and_holds_nothing(wrapper: Any, keys: list[str]) -> None:
    handed = [wrapper.get_api_key() for _ in range(3)]
    assert sorted(handed) == sorted(keys)
    counts = wrapper.pool.counts("m")
    assert (counts.in_flight, counts.reserved_tokens) == (0, 0)


@pytest.mark.parametrize("which", [1, "groq#2", "the key", "its fingerprint"])
def test_one_key_can_be_asked_for(wrapper: Any, keys: list[str], which: Any) -> None:
    named = {"the key": keys[1], "its fingerprint": wrapper.pool.credentials[1].fingerprint}
    assert wrapper.get_api_key(key_id=named.get(which, which)) == keys[1]


@pytest.mark.parametrize("key", ["gsk_mistyped_secret", "gsk#mistyped"])
def test_a_key_that_is_not_there_is_not_shown(wrapper: Any, key: str) -> None:
    with pytest.raises(KeyNotFoundError) as caught:
        wrapper.get_api_key(key_id=key)
    assert "mistyped" not in str(caught.value)


def test_the_context_of_a_key_is_its_lease(wrapper: Any, keys: list[str]) -> None:
    key, lease = wrapper.get_api_key_with_context()
    assert key in keys
    assert isinstance(lease, Lease)
    assert wrapper.pool.counts("m").in_flight == 1
    lease.commit(5)
    assert wrapper.pool.counts("m").in_flight == 0


def test_what_a_handed_out_key_cost_can_be_written_down(
    manager: ProviderManager, wrapper: Any, keys: list[str]
) -> None:
    events: list[Event] = []
    manager.observe(events.append)
    wrapper.record_key_usage(keys[2], "m", actual_tokens=450)
    assert [(e.key_id, e.usage.tokens) for e in events if e.usage is not None] == [("groq#3", 450)]
