"""What keycycle's users do with its clients and tables: each request has a key of its own and leaves one row."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import groq
import openai
import pytest

from hfs_providers import ProviderManager, StreamInterruptedError
from hfs_providers.calls import _keycycle
from hfs_providers.testing import HalfStream, LoopbackServer, OpenAIDialect, RateLimited, Raw, Unauthorized
from hfs_providers.usage import UsageRow
from tests.sharing.redis_server import eventually

MESSAGES: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    with ProviderManager(env=server.env({"groq": 3, "openrouter": 1})) as manager:
        yield manager


@pytest.fixture
def wrapper(manager: ProviderManager) -> Any:
    made: Any = manager.wrappers["groq"]
    made.backend.sleep = lambda seconds: None
    return made


@pytest.fixture
def rows(manager: ProviderManager) -> list[UsageRow]:
    found: list[UsageRow] = []
    manager.observe(lambda event: found.append(event.usage) if event.usage is not None else None)
    return found


@pytest.fixture
def keys(wrapper: Any) -> list[str]:
    return [credential.secret.reveal() for credential in wrapper.pool.credentials]


def text(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# The model and a stream's usage, as keycycle fills them in.


def test_a_call_that_names_no_model_is_made_with_the_default_one(wrapper: Any, server: LoopbackServer) -> None:
    wrapper.get_openai_client().chat.completions.create(messages=MESSAGES)
    assert [seen.model for seen in server.seen] == [wrapper.default_model_id]


def test_an_async_call_that_names_no_model_is_made_with_the_default_one(wrapper: Any, server: LoopbackServer) -> None:
    async def ask() -> None:
        await wrapper.get_async_openai_client().chat.completions.create(messages=MESSAGES)

    asyncio.run(ask())
    assert [seen.model for seen in server.seen] == [wrapper.default_model_id]


def test_a_default_model_that_is_gone_is_replaced_for_a_client_as_well(wrapper: Any, server: LoopbackServer) -> None:
    gone = wrapper.default_model_id
    server.retire("groq", gone)
    wrapper.get_openai_client().chat.completions.create(messages=MESSAGES)
    assert server.seen[-1].model == wrapper.default_model_id != gone


def test_listing_the_models_is_given_no_model(wrapper: Any, server: LoopbackServer) -> None:
    assert [model.id for model in wrapper.get_openai_client().models.list()] == list(server.models("groq"))


def test_a_stream_is_counted_though_its_caller_does_not_ask_for_usage() -> None:
    silent = LoopbackServer(dialects=[OpenAIDialect("openrouter", "/api/v1")])
    with silent, ProviderManager(env=silent.env({"openrouter": 1})) as manager:
        rows: list[UsageRow] = []
        manager.observe(lambda event: rows.append(event.usage) if event.usage is not None else None)
        wrapper: Any = manager.wrappers["openrouter"]
        stream = wrapper.get_openai_client().chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert "hello" in text(stream)
    assert [row.tokens for row in rows] == [silent.seen[0].tokens]
    assert rows[0].tokens > 0


def test_what_a_caller_says_of_a_streams_usage_holds() -> None:
    silent = LoopbackServer(dialects=[OpenAIDialect("openrouter", "/api/v1")])
    with silent, ProviderManager(env=silent.env({"openrouter": 1})) as manager:
        wrapper: Any = manager.wrappers["openrouter"]
        client = wrapper.get_openai_client()
        asked = {"stream_options": {"include_usage": False}}
        chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True, **asked))
    assert all(chunk.usage is None for chunk in chunks)


# Clients made of clients.


def test_with_options_sends_nothing_and_rotates(wrapper: Any, server: LoopbackServer, rows: list[UsageRow]) -> None:
    client = wrapper.get_openai_client(affinity=None).with_options(timeout=5)
    assert (server.seen, rows) == ([], [])
    for _ in range(3):
        client.chat.completions.create(messages=MESSAGES)
    assert sorted(server.hits("groq").values()) == [1, 1, 1]
    assert [row.outcome for row in rows] == ["ok"] * 3


def test_with_options_of_an_async_client_rotates(wrapper: Any, server: LoopbackServer, keys: list[str]) -> None:
    server.script("groq", keys[0], [RateLimited(retry_after=40)])

    async def ask() -> None:
        await (
            wrapper.get_async_openai_client(affinity=None)
            .with_options(timeout=5)
            .chat.completions.create(messages=MESSAGES)
        )

    asyncio.run(ask())
    assert server.hits("groq") == {keys[0]: 1, keys[1]: 1}


def test_with_options_leaves_retries_to_the_rotation(wrapper: Any, server: LoopbackServer, keys: list[str]) -> None:
    server.script("groq", "*", [RateLimited(retry_after=40)])
    wrapper.get_openai_client().with_options(max_retries=3).chat.completions.create(messages=MESSAGES)
    assert sorted(server.hits("groq").values()) == [1, 1]


def test_with_options_takes_no_key(wrapper: Any) -> None:
    with pytest.raises(TypeError, match="api_key"):
        wrapper.get_openai_client().with_options(api_key="another")


def test_closing_a_client_is_no_request(wrapper: Any, rows: list[UsageRow]) -> None:
    client = wrapper.get_openai_client()
    client.chat.completions.create(messages=MESSAGES)
    client.close()
    assert len(rows) == 1
    with pytest.raises(Exception, match=r"closed|Connection"):
        client.with_options(max_retries=0).chat.completions.create(messages=MESSAGES)


# Requests that are sent when a block is entered.


@pytest.fixture(params=["chat.completions.stream", "beta.chat.completions.stream"])
def opening(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    def find(client: Any) -> Any:
        for name in request.param.split("."):
            client = getattr(client, name)
        return client

    return find


def test_a_streaming_block_rotates_and_is_counted(
    wrapper: Any, server: LoopbackServer, keys: list[str], rows: list[UsageRow], opening: Callable[[Any], Any]
) -> None:
    server.script("groq", keys[0], [RateLimited(retry_after=40)])
    server.script("groq", keys[1], [Unauthorized()])
    block = opening(wrapper.get_openai_client(affinity=None))(model="m", messages=MESSAGES)
    assert rows == []
    with block as stream:
        for event in stream:
            assert event.type
        final = stream.get_final_completion()
    assert "hello" in final.choices[0].message.content
    assert [row.outcome for row in rows] == ["rate_limited", "dead", "ok"]
    assert rows[-1].tokens == server.seen[-1].tokens > 0
    assert wrapper.pool.counts("m").in_flight == 0


def test_an_async_streaming_block_rotates_and_is_counted(
    wrapper: Any, server: LoopbackServer, keys: list[str], rows: list[UsageRow], opening: Callable[[Any], Any]
) -> None:
    server.script("groq", keys[0], [RateLimited(retry_after=40)])

    async def ask() -> str:
        async with opening(wrapper.get_async_openai_client(affinity=None))(messages=MESSAGES) as stream:
            return str((await stream.get_final_completion()).choices[0].message.content)

    assert "hello" in asyncio.run(ask())
    assert [row.outcome for row in rows] == ["rate_limited", "ok"]
    assert rows[-1].tokens == server.seen[-1].tokens > 0


def test_a_block_that_is_never_entered_leaves_nothing(wrapper: Any, server: LoopbackServer) -> None:
    wrapper.get_openai_client().chat.completions.stream(model="m", messages=MESSAGES)
    assert server.seen == []
    assert wrapper.pool.counts("m").in_flight == 0


def test_a_stream_that_breaks_inside_a_block_is_an_error(
    wrapper: Any, server: LoopbackServer, rows: list[UsageRow]
) -> None:
    server.script("groq", "*", [HalfStream(how="reset")])
    with (
        pytest.raises(StreamInterruptedError),
        wrapper.get_openai_client().chat.completions.stream(model="m", messages=MESSAGES) as stream,
    ):
        stream.until_done()
    assert [row.outcome for row in rows] == ["transport"]


def test_an_error_of_the_block_itself_is_raised_as_it_is(wrapper: Any, rows: list[UsageRow]) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        wrapper.get_openai_client().chat.completions.stream(model="m", messages=MESSAGES),
    ):
        raise ZeroDivisionError
    assert [row.outcome for row in rows] == ["abandoned"]


def test_a_streaming_response_rotates_and_is_counted(
    wrapper: Any, server: LoopbackServer, keys: list[str], rows: list[UsageRow]
) -> None:
    server.script("groq", keys[0], [RateLimited(retry_after=40)])
    completions = wrapper.get_openai_client(affinity=None).chat.completions
    with completions.with_streaming_response.create(messages=MESSAGES) as response:
        assert "hello" in response.parse().choices[0].message.content
    assert [row.outcome for row in rows] == ["rate_limited", "ok"]
    assert rows[-1].tokens == server.seen[-1].tokens > 0


def test_an_async_streaming_response_rotates_and_is_counted(
    wrapper: Any, server: LoopbackServer, keys: list[str], rows: list[UsageRow]
) -> None:
    server.script("groq", keys[0], [RateLimited(retry_after=40)])

    async def ask() -> str:
        completions = wrapper.get_async_openai_client(affinity=None).chat.completions
        async with completions.with_streaming_response.create(messages=MESSAGES) as response:
            return str((await response.parse()).choices[0].message.content)

    assert "hello" in asyncio.run(ask())
    assert [row.outcome for row in rows] == ["rate_limited", "ok"]
    assert rows[-1].tokens == server.seen[-1].tokens > 0


# Raw responses and parsed answers.


def test_a_raw_response_is_counted(wrapper: Any, server: LoopbackServer, rows: list[UsageRow]) -> None:
    raw = wrapper.get_openai_client().chat.completions.with_raw_response.create(messages=MESSAGES)
    assert raw.headers["content-type"] == "application/json"
    assert "hello" in raw.parse().choices[0].message.content
    assert [row.tokens for row in rows] == [server.seen[0].tokens]


@pytest.mark.parametrize("sdk", [openai.AsyncOpenAI, groq.AsyncGroq])
def test_an_async_raw_response_is_counted(
    wrapper: Any, server: LoopbackServer, rows: list[UsageRow], sdk: type[Any]
) -> None:
    base_url = server.base_url("groq") + ("/openai/v1" if sdk is openai.AsyncOpenAI else "")

    async def ask() -> None:
        client = wrapper.get_rotating_client(sdk, base_url=base_url)
        await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)

    asyncio.run(ask())
    assert [row.tokens for row in rows] == [server.seen[0].tokens]


def test_a_raw_response_of_a_stream_holds_its_lease_to_the_end(
    wrapper: Any, server: LoopbackServer, rows: list[UsageRow]
) -> None:
    completions = wrapper.get_openai_client().chat.completions
    stream = completions.with_raw_response.create(model="m", messages=MESSAGES, stream=True).parse()
    gc.collect()
    assert wrapper.pool.counts("m").in_flight == 1
    assert "hello" in text(stream)
    assert [(row.outcome, row.tokens) for row in rows] == [("ok", server.seen[0].tokens)]


def test_a_parsed_answer_rotates_and_is_counted(
    wrapper: Any, server: LoopbackServer, keys: list[str], rows: list[UsageRow]
) -> None:
    from pydantic import BaseModel

    class Answer(BaseModel):
        said: str

    server.script("groq", keys[0], [RateLimited(retry_after=40)])
    client = wrapper.get_openai_client(affinity=None)
    for parse in (client.chat.completions.parse, client.beta.chat.completions.parse):
        assert parse(messages=MESSAGES, response_format=Answer).choices[0].message.parsed.said
    assert [row.outcome for row in rows] == ["rate_limited", "ok", "ok"]


# Streams that are not read to their end.


def test_a_stream_that_is_dropped_half_read_leaves_a_row(wrapper: Any, rows: list[UsageRow]) -> None:
    stream = wrapper.get_openai_client().chat.completions.create(model="m", messages=MESSAGES, stream=True)
    next(stream)
    del stream
    eventually(lambda: [row.outcome for row in rows] == ["abandoned"])
    eventually(lambda: wrapper.pool.counts("m").in_flight == 0)
    assert rows[0].charged == 1000


def test_an_async_stream_that_is_dropped_half_read_leaves_a_row(wrapper: Any, rows: list[UsageRow]) -> None:
    async def ask() -> None:
        stream = await wrapper.get_async_openai_client().chat.completions.create(
            model="m", messages=MESSAGES, stream=True
        )
        await anext(stream)

    asyncio.run(ask())
    eventually(lambda: bool(rows))
    assert [row.outcome for row in rows] == ["abandoned"]


def test_what_was_dropped_is_written_down_by_the_end_of_the_manager(
    manager: ProviderManager, wrapper: Any, rows: list[UsageRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hfs_providers.wrapper.rotating_streams._watch", lambda: None)
    next(wrapper.get_openai_client().chat.completions.create(model="m", messages=MESSAGES, stream=True))
    gc.collect()
    manager.shutdown()
    assert [row.outcome for row in rows] == ["abandoned"]


def test_what_the_watching_thread_is_writing_down_is_waited_for(
    manager: ProviderManager, wrapper: Any, rows: list[UsageRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = threading.Event()

    def slowly(call: Any, lease: Any) -> None:
        taken.set()
        time.sleep(0.2)
        call.settle(lease, GeneratorExit())

    monkeypatch.setattr("hfs_providers.wrapper.rotating_streams._abandon", slowly)
    next(wrapper.get_openai_client().chat.completions.create(model="m", messages=MESSAGES, stream=True))
    gc.collect()
    assert taken.wait(30)
    manager.shutdown()
    assert [row.outcome for row in rows] == ["abandoned"]


def test_an_async_stream_is_an_iterator(wrapper: Any, rows: list[UsageRow]) -> None:
    async def ask() -> list[Any]:
        stream = await wrapper.get_async_openai_client().chat.completions.create(
            model="m", messages=MESSAGES, stream=True
        )
        found = []
        while (chunk := await anext(stream, None)) is not None:
            found.append(chunk)
        return found

    assert "hello" in text(asyncio.run(ask()))
    assert [row.outcome for row in rows] == ["ok"]


def test_a_stream_that_fails_before_its_first_chunk_is_an_error(wrapper: Any, server: LoopbackServer) -> None:
    event = b'data: {"error": {"message": "overloaded", "code": 503}}\n\n'
    server.script("groq", "*", [Raw(200, event, {"content-type": "text/event-stream"})])
    with pytest.raises(openai.APIError):
        list(wrapper.get_openai_client().chat.completions.create(model="m", messages=MESSAGES, stream=True))


# Tracking, and tables.


def test_usage_is_tracked_until_it_is_turned_off(server: LoopbackServer, tmp_path: Any) -> None:
    path = tmp_path / "usage.db"
    with ProviderManager(env={**server.env({"groq": 1}), "HFS_USAGE_DB": str(path)}) as manager:
        wrapper: Any = manager.wrappers["groq"]
        create = wrapper.get_openai_client().chat.completions.create
        told: list[str | None] = []
        manager.observe(lambda event: told.append(event.model))
        assert wrapper.track_usage
        create(model="written", messages=MESSAGES)
        create(model="unwritten", messages=MESSAGES, track_usage=False)
        wrapper.track_usage = False
        assert not wrapper.track_usage
        create(model="unwritten", messages=MESSAGES)
        create(model="written", messages=MESSAGES, track_usage=True)
        assert wrapper.manager.get_global_stats().total.total_requests == 4
        wrapper.track_usage = True
        create(model="written", messages=MESSAGES)
        create(model="written", messages=MESSAGES, track_usage=True)
    assert told == ["written", "unwritten", "unwritten", "written", "written", "written"]
    import sqlite3

    connection = sqlite3.connect(path)
    found = connection.execute("SELECT model, count(*) FROM usage JOIN series ON series = series.id GROUP BY 1")
    assert found.fetchall() == [("written", 4)]
    connection.close()


@pytest.mark.parametrize("print_", ["print_key_stats", "print_granular_stats"])
def test_the_tables_find_a_key_and_do_not_print_it(
    wrapper: Any, keys: list[str], capsys: pytest.CaptureFixture[str], print_: str
) -> None:
    more = ["m"] if print_ == "print_granular_stats" else []
    getattr(wrapper, print_)(keys[1], *more)
    printed = capsys.readouterr().out
    assert wrapper.pool.credentials[1].fingerprint in printed
    assert keys[1][-6:] not in printed


@pytest.mark.parametrize("print_", ["print_key_stats", "print_granular_stats"])
def test_the_tables_do_not_print_a_key_that_they_do_not_find(
    wrapper: Any, capsys: pytest.CaptureFixture[str], print_: str
) -> None:
    more = ["m"] if print_ == "print_granular_stats" else []
    getattr(wrapper, print_)("gsk_of_somebody_else_0123456789", *more)
    printed = capsys.readouterr().out
    assert "not found" in printed
    assert "somebody" not in printed


def test_what_stands_in_for_a_module_has_the_names_that_others_take_from_it() -> None:
    stand_in = _keycycle._late("keycycle.config.models")
    assert stand_in.__name__ == "keycycle.config.models"
    assert {"MODEL_LIMITS", "PROVIDER_STRATEGIES"} <= vars(stand_in).keys()
    from keycycle.config.models import MODEL_LIMITS

    assert stand_in.MODEL_LIMITS["groq"] is MODEL_LIMITS["groq"]
    assert type(_keycycle.MultiProviderWrapper.MODEL_LIMITS) is type(stand_in.MODEL_LIMITS)


def test_what_stands_in_for_a_class_makes_the_real_one() -> None:
    from keycycle.usage.db_logic import UsageDatabase

    assert type(_keycycle._late("keycycle.usage.db_logic").UsageDatabase("sqlite://")) is UsageDatabase


def test_logging_is_not_set_up_by_keycycle() -> None:
    assert sys.modules["keycycle.config.log_config"].__doc__ == _keycycle._quiet_log_config().__doc__
