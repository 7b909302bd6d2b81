"""Transport recovery of Agno models that are not ours, and after an entry's own retries."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from typing import Any

import httpx
import pytest
from agno.agent import Agent
from agno.exceptions import ModelProviderError
from agno.models.cerebras import Cerebras
from agno.models.google import Gemini
from agno.models.groq import Groq
from agno.models.message import Message
from agno.models.openai.like import OpenAILike
from agno.models.openrouter import OpenRouter

from hfs_providers.authoring import ErrorRules, KeyedProvider, Meaning
from hfs_providers.fallback.builder import ChainSources, entries_of
from hfs_providers.testing import Ok, RateLimited, Raw, Reset, ServerError, Step, StreamError
from tests.fallback.chains import WAYS, House, ask, house, lookup, seen_by, server

__all__ = ["house", "server"]

KEY = "of-my-own"


def bare(house: House, provider: str, **options: Any) -> Any:
    """An Agno model of the caller's own, with retries of its SDK off."""
    address = house.env[f"{provider.upper()}_BASE_URL"]
    if provider == "gemini":
        http = {"base_url": address, "retry_options": {"attempts": 1}}
        return Gemini(id="gemini-3.5-flash", api_key=KEY, client_params={"http_options": http})
    if provider == "cerebras":
        options["client_params"] = {"warm_tcp_connection": False}
    kind = {"groq": Groq, "cerebras": Cerebras, "openrouter": OpenRouter}[provider]
    return kind(id="mine", api_key=KEY, base_url=address, max_retries=0, **options)


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_no_other_follows_a_model_of_one_s_own_once_a_part_of_its_answer_was_passed_on(house: House, way: str) -> None:
    house.server.script("groq", KEY, [StreamError(chunks=2)])
    with pytest.raises(ModelProviderError):
        ask(house.chain(bare(house, "groq"), "openrouter"), way)
    assert house.asked("openrouter") == 0


@pytest.mark.parametrize("way", WAYS)
class TestAModelOfOnesOwn:
    @pytest.mark.parametrize("provider", ["groq", "cerebras", "gemini"])
    def test_recovers(self, house: House, way: str, provider: str) -> None:
        chain = house.chain(bare(house, provider), "openrouter")
        house.server.script(provider, KEY, [Reset()])
        assert f"[{provider}/" in ask(chain, way)
        assert (house.waits, house.asked("openrouter")) == ([3.0], 0)
        assert house.kinds() == ["transport_recovered"]

    def test_recovers_once_a_call(self, house: House, way: str) -> None:
        chain = house.chain(bare(house, "groq"), "openrouter")
        house.server.script("groq", KEY, [Reset(), Reset()])
        assert "[openrouter/" in ask(chain, way)
        assert (house.waits, house.asked("groq")) == ([3.0], 2)

    def test_of_an_aggregator_does_not(self, house: House, way: str) -> None:
        chain = house.chain(bare(house, "openrouter"), "groq")
        house.server.script("openrouter", KEY, [Reset()])
        assert "[groq/" in ask(chain, way)
        assert (house.waits, house.asked("openrouter")) == ([], 1)


def test_a_model_of_one_s_own_gets_tool_calls_as_its_plugin_says(house: House) -> None:
    house.script("groq", Ok(tool_calls=[("capital_of", {"country": "Nowhere"})]), ServerError(503))
    seen = seen_by(house)
    Agent(model=house.chain("groq", bare(house, "gemini")), tools=[lookup()[0]], telemetry=False).run("?")
    assert (
        "skip_thought_signature_validator"
        in b64decode(
            next(
                part["thoughtSignature"]
                for content in seen[-1].body["contents"]
                for part in content["parts"]
                if "functionCall" in part
            )
        ).decode()
    )


def test_a_model_of_one_s_own_gets_a_schema_as_its_plugin_says(house: House) -> None:
    seen = seen_by(house)
    schema = {"type": "json_schema", "json_schema": {"name": "X", "schema": {"type": "object", "title": "Unusual"}}}
    ask(house.chain(bare(house, "gemini")), response_format=schema)
    assert "Unusual" in str(seen[-1].body["systemInstruction"])


@pytest.mark.parametrize(
    ("provider", "refusal"),
    [
        ("groq", {"message": "busy", "type": "x", "code": "capacity_exceeded"}),
        # Known by the family of its SDK.
        ("gemini", {"message": "no", "code": 400, "details": [{"reason": "API_KEY_INVALID"}]}),
    ],
)
def test_an_error_of_a_model_of_one_s_own_means_what_its_plugin_says(
    house: House, provider: str, refusal: dict[str, Any]
) -> None:
    house.server.script(provider, KEY, [], then=Raw(400, {"error": refusal}))
    assert "[openrouter/" in ask(house.chain(bare(house, provider), "openrouter"))


def test_a_plugin_whose_client_is_no_family_keeps_its_own_rules(house: House) -> None:
    rules = ErrorRules(codes={"busy": Meaning("overloaded")})
    broken = KeyedProvider("broken", "agno.models.openai.like:OpenAILike", client="nowhere:Clients", errors=rules)
    sources = ChainSources(house.manager.get_model, (), {}, [broken], lambda: house.now)
    [entry] = entries_of(sources, [OpenAILike(id="mine", api_key=KEY)], None, {})
    assert entry.errors.codes == rules.codes


@pytest.mark.parametrize(
    "step", [StreamError(chunks=0), Raw(200, b"data: {\n\n", {"content-type": "text/event-stream"})]
)
def test_an_error_of_a_model_without_a_plugin_is_known_by_its_sdk(house: House, step: Step) -> None:
    own = OpenAILike(id="mine", api_key=KEY, base_url=house.env["OPENROUTER_BASE_URL"], max_retries=0)
    house.server.script("openrouter", KEY, [], then=step)
    assert "[groq/" in ask(house.chain(own, "groq"), "stream")


class TestTheClient:
    def test_that_agno_made_is_replaced(self, house: House) -> None:
        own = bare(house, "groq")
        chain = house.chain(own, "openrouter")
        ask(chain)
        before = own.client
        house.server.script("groq", KEY, [Reset()])
        assert "[groq/" in ask(chain)
        assert own.client not in (None, before)
        assert not before.is_closed()

    def test_that_the_caller_set_stays(self, house: House) -> None:
        import groq

        client = groq.Groq(api_key=KEY, base_url=house.env["GROQ_BASE_URL"], max_retries=0)
        own = bare(house, "groq", client=client)
        house.server.script("groq", KEY, [Reset()])
        assert "[groq/" in ask(house.chain(own, "openrouter"))
        assert own.client is client
        assert house.waits == [3.0]

    @pytest.mark.parametrize("provider", ["groq", "gemini"])
    def test_that_is_replaced_lets_calls_in_flight_finish(self, house: House, provider: str) -> None:
        chain = house.chain(bare(house, provider), "openrouter")

        async def while_in_flight() -> list[str]:
            with house.server.hold() as gate:
                calls = [
                    asyncio.create_task(chain.aresponse(messages=[Message(role="user", content="hello")]))
                    for _ in range(3)
                ]
                assert await asyncio.to_thread(gate.wait_for, 3)
                assert await chain.arecover_transport(httpx.ReadTimeout("slow"))
            return [(await call).content for call in calls]

        assert all(f"[{provider}/" in text for text in asyncio.run(while_in_flight()))


def test_a_chain_within_a_chain_recovers_by_itself(house: House) -> None:
    house.script("groq", then=Reset())
    assert "[cerebras/" in ask(house.chain(house.chain("groq"), "cerebras"))
    assert (house.waits, house.asked("groq")) == ([3.0], 2)


@pytest.mark.parametrize("way", WAYS)
class TestAfterAnEntrysOwnTries:
    @pytest.mark.parametrize(("retries", "wait"), [(0, 3.0), (1, 4.0), (3, 6.0), (6, 8.0)])
    def test_the_wait_counts_them(self, house: House, way: str, retries: int, wait: float) -> None:
        house.script("groq", *[Reset()] * (retries + 1))
        assert "[groq/" in ask(house.chain("groq", "cerebras", max_retries=retries), way)
        assert house.waits[-1] == wait
        assert house.asked("groq") == retries + 2
        assert house.kinds()[-1:] == ["transport_recovered"]

    def test_the_wait_counts_those_of_another_kind(self, house: House, way: str) -> None:
        house.script("groq", ServerError(503), ServerError(503), Reset())
        assert "[groq/" in ask(house.chain("groq", "cerebras", max_retries=2), way)
        assert house.waits[-1] == 5.0

    def test_one_more_is_made_and_no_further(self, house: House, way: str) -> None:
        house.script("groq", then=Reset())
        assert "[cerebras/" in ask(house.chain("groq", "cerebras", max_retries=2), way)
        assert house.asked("groq") == 4

    def test_of_a_model_that_was_given_they_are_its_own(self, house: House, way: str) -> None:
        house.script("groq", *[Reset()] * 4)
        assert "[groq/" in ask(house.chain(house.manager.get_model("groq", max_retries=3), "cerebras"), way)
        assert house.waits[-1] == 6.0

    def test_a_further_entry_has_its_own(self, house: House, way: str) -> None:
        house.script("groq", then=Reset())
        house.script("cerebras", Reset(), Reset())
        assert "[cerebras/" in ask(house.chain("groq", "cerebras", max_retries=2), way)
        assert house.asked("cerebras") == 3


def test_keys_that_were_refused_before_count_too(server: Any) -> None:
    house = House(server, GROQ_API_KEY_2="second", NUM_GROQ="2")
    with house.manager:
        server.script("groq", house.env["GROQ_API_KEY_1"], [RateLimited(40)])
        server.script("groq", "second", [Reset()])
        assert "[groq/" in ask(house.chain("groq", "cerebras"))
    assert house.waits == [4.0]
