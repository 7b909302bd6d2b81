"""What is told of a call while it goes on: events that name their call, the key that answered a chain, the log."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from agno.models.message import Message

from hfs_providers import Event, KeysExhaustedError, ProviderManager
from hfs_providers.testing import LoopbackServer, RateLimited, ServerError, Unauthorized
from tests.fallback.chains import WAYS, House, ask, house, server

__all__ = ["house", "server"]


class Shop:
    """A manager of Groq with three keys: one that is dead, one that is limited, one that fails once."""

    def __init__(self, server: LoopbackServer) -> None:
        env = {**server.env({"groq": 3}), "GROQ_LIMITS": "none", "HFS_USAGE_DB": "off"}
        self.keys = [env[f"GROQ_API_KEY_{number}"] for number in (1, 2, 3)]
        for key, step in zip(self.keys, [Unauthorized(), RateLimited(retry_after=600), ServerError(500)], strict=True):
            server.script("groq", key, [step])
        self.manager = ProviderManager(env=env)
        self.events: list[Event] = []
        self.manager.observe(self.events.append)
        wrapper: Any = self.manager.wrappers["groq"]
        wrapper.backend.sleep = lambda seconds: None
        wrapper.backend.async_sleep = lambda seconds: asyncio.sleep(0)
        self.model: Any = self.manager.get_model("groq", "m", affinity=None)


@pytest.fixture
def shop(server: LoopbackServer) -> Iterator[Shop]:
    shop = Shop(server)
    with shop.manager:
        yield shop


class TestCallIds:
    @pytest.mark.parametrize("way", WAYS)
    def test_all_events_of_a_call_have_the_same(self, shop: Shop, way: str) -> None:
        assert "hello" in ask(shop.model, way)
        assert [event.kind for event in shop.events] == [
            *("call_finished", "key_dead", "key_rotated"),
            *("call_finished", "key_cooling", "key_rotated"),
            *("call_finished", "call_retried"),
            "call_finished",
        ]
        assert len({event.call_id for event in shop.events}) == 1
        assert shop.events[0].call_id

    def test_no_other_call_has_it(self, shop: Shop) -> None:
        for _ in range(3):
            ask(shop.model)
        assert len({event.call_id for event in shop.events}) == 3

    def test_calls_side_by_side_keep_their_own(self, shop: Shop) -> None:
        async def both() -> None:
            messages = [Message(role="user", content="hello")]
            await asyncio.gather(*(shop.model.aresponse(messages=list(messages)) for _ in range(20)))

        asyncio.run(both())
        finished = [event.call_id for event in shop.events if event.kind == "call_finished" and event.reason == "ok"]
        assert len(set(finished)) == 20
        assert {event.call_id for event in shop.events} == set(finished)

    def test_so_has_the_end_of_a_call_that_finds_no_key(self, shop: Shop, server: LoopbackServer) -> None:
        server.script("groq", "*", [], then=RateLimited(retry_after=600))
        for key in shop.keys:
            server.script("groq", key, [], then=RateLimited(retry_after=600))
        with pytest.raises(KeysExhaustedError):
            ask(shop.model)
        assert shop.events[-1].kind == "keys_exhausted"
        assert len({event.call_id for event in shop.events}) == 1

    def test_a_key_that_a_call_revives_is_an_event_of_that_call(self, shop: Shop) -> None:
        pool = shop.manager.wrappers["groq"].pool
        ask(shop.model)
        shop.events.clear()
        lease = pool.acquire("m", key_id="groq#3")
        lease.dead("refused")
        key = pool._keyring.keys["groq#3"]
        key.retry_at = 0.0
        pool._keyring.changed(key.account)
        ask(shop.manager.get_model("groq", "m", key_id="groq#3"))
        dead, finished, revived = shop.events
        assert (dead.kind, dead.call_id) == ("key_dead", None)
        assert (revived.kind, revived.call_id) == ("key_revived", finished.call_id)

    def test_what_belongs_to_no_call_has_none(self, shop: Shop) -> None:
        shop.manager.wrappers["groq"].pool.retire("groq#1", "by hand")
        assert [(event.kind, event.call_id) for event in shop.events] == [("key_dead", None)]


class TestServedBy:
    @pytest.mark.parametrize("way", WAYS)
    def test_names_the_key(self, house: House, way: str) -> None:
        chain = house.chain("groq", "cerebras")
        ask(chain, way)
        if way in ("sync", "stream"):  # asyncio.run has a context of its own
            assert chain.served_by.key_id == "groq#1"

    def test_names_the_fallback_s_key(self, house: House) -> None:
        chain = house.chain("groq", "cerebras")
        house.script("groq", then=RateLimited(retry_after=600))
        ask(chain)
        assert (chain.served_by.provider, chain.served_by.key_id) == ("cerebras", "cerebras#1")

    def test_names_it_in_a_task(self, house: House) -> None:
        chain = house.chain("groq", "cerebras")

        async def served() -> Any:
            await chain.aresponse(messages=[Message(role="user", content="hello")])
            return chain.served_by.key_id

        assert asyncio.run(served()) == "groq#1"

    def test_names_none_where_the_model_is_not_ours(self, house: House) -> None:
        from agno.models.groq import Groq

        ask(house.chain("cerebras"))  # its key is not this entry's
        own = Groq(id="m", api_key=house.env["GROQ_API_KEY_1"], base_url=house.server.base_url("groq"))
        chain = house.chain(own)
        ask(chain)
        assert chain.served_by.key_id is None


class TestLog:
    def test_a_key_that_dies_or_cools_and_each_further_attempt_are_logged(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "hfs_providers")
        ask(shop.model)
        call = shop.events[0].call_id
        said = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "hfs_providers"]
        levels, texts = zip(*said, strict=True)
        assert levels == ("WARNING", "DEBUG", "INFO", "DEBUG", "DEBUG")
        assert re.fullmatch(r"groq#1 is dead: \w+; one call may try it in \d+ s", texts[0])
        assert texts[1] == f"groq/m: dead with groq#1; trying the next key [call {call}]"
        assert texts[2].startswith("groq#2 is cooling for 600.0 s: ")
        assert texts[3] == f"groq/m: rate_limited with groq#2; trying the next key [call {call}]"
        assert re.fullmatch(rf"groq/m: server_error with groq#3; retry in 0\.\d s \[call {call}\]", texts[4])

    def test_a_call_without_trouble_logs_nothing(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
        ask(shop.model)
        caplog.clear()
        caplog.set_level(logging.DEBUG, "hfs_providers")
        ask(shop.model)
        assert [record for record in caplog.records if record.name == "hfs_providers"] == []

    def test_no_key_is_logged(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "hfs_providers")
        lease = shop.manager.wrappers["groq"].pool.acquire("m")
        lease.dead(f"invalid_{shop.keys[0]}")
        ask(shop.model)
        assert not any(key[4:] in caplog.text for key in shop.keys)
        assert not any(key in repr(shop.events) for key in shop.keys)
