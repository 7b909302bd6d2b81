"""Who is in a chain, what it claims, and how a request crosses from one entry to another."""

from __future__ import annotations

import base64
import copy
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from agno.agent import Agent
from agno.compression.manager import CompressionManager
from agno.exceptions import ContextWindowExceededError
from agno.models.message import Message
from agno.run.agent import RunOutput
from pydantic import BaseModel

from hfs_providers import (
    ChainExhaustedError,
    MissingKeyError,
    ProviderManager,
    ProviderUnavailableError,
    SettingsError,
    UnknownProviderError,
)
from hfs_providers.calls.model_errors import ContextOverflowError
from hfs_providers.fallback.messages import converted
from hfs_providers.testing import ContextTooLong, LoopbackServer, Ok, RateLimited, ServerError
from tests.fallback.chains import PROVIDERS, WAYS, House, ask, house, lookup, seen_by, server

__all__ = ["house", "server"]

DOWN = ServerError(503)
PAIRS = list(itertools.permutations(PROVIDERS, 2))
MODELS = {"gemini": "gemini/gemini-3.5-flash-lite"}


class City(BaseModel):
    """A city."""

    name: str
    people: int


SCHEMA = {"type": "json_schema", "json_schema": {"name": "City", "schema": City.model_json_schema()}}


def form_of(body: dict[str, Any]) -> Any:
    """How a request asks for structured output."""
    config = body.get("generationConfig", {})
    return body.get("response_format"), config.get("responseMimeType"), config.get("responseSchema")


def pair(house: House, first: str, second: str, **options: Any) -> Any:
    return house.chain(MODELS.get(first, first), MODELS.get(second, second), **options)


@pytest.mark.parametrize(("first", "second"), PAIRS)
class TestEachOrderedPair:
    @pytest.mark.parametrize("streamed", [False, True])
    def test_keeps_an_output_schema_across_a_switch(
        self, house: House, first: str, second: str, streamed: bool
    ) -> None:
        house.script(first, DOWN)
        bot = Agent(model=pair(house, first, second), output_schema=City, telemetry=False)
        if streamed:
            *_, result = bot.run("a city", stream=True, yield_run_output=True)
        else:
            result = bot.run("a city")
        assert isinstance(result.content, City)
        assert (house.asked(first), house.asked(second)) == (1, 1)

    @pytest.mark.parametrize("streamed", [False, True])
    def test_keeps_a_tool_call_made_before_the_switch(
        self, house: House, first: str, second: str, streamed: bool
    ) -> None:
        house.script(first, Ok(tool_calls=[("capital_of", {"country": "Nowhere"})]), DOWN)
        tool, called = lookup()
        bot = Agent(model=pair(house, first, second), tools=[tool], telemetry=False)
        if streamed:
            *_, result = bot.run("the capital?", stream=True, yield_run_output=True)
        else:
            result = bot.run("the capital?")
        assert called == ["Nowhere"]
        assert f"[{second}/" in result.content
        assert "Zenith" in result.content
        assert (house.asked(first), house.asked(second)) == (2, 1)

    def test_takes_a_schema_that_is_given_directly(self, house: House, first: str, second: str) -> None:
        house.script(first, DOWN)
        assert City.model_validate_json(ask(pair(house, first, second), response_format=City))


class TestWhatIsSent:
    @pytest.mark.parametrize(("model", "signed"), [("gemini-3.5-flash-lite", True), ("gemini-2.5-flash", False)])
    def test_gemini_3_gets_a_signature_on_a_call_that_another_made(
        self, house: House, model: str, signed: bool
    ) -> None:
        house.script("groq", Ok(tool_calls=[("capital_of", {"country": "Nowhere"})]), DOWN)
        seen = seen_by(house)
        Agent(model=house.chain("groq", f"gemini/{model}"), tools=[lookup()[0]], telemetry=False).run("?")
        parts = [part for content in seen[-1].body["contents"] for part in content["parts"] if "functionCall" in part]
        signature = base64.b64encode(b"skip_thought_signature_validator").decode()
        assert [part.get("thoughtSignature") for part in parts] == [signature if signed else None]

    def test_others_get_no_signature_that_gemini_made(self, house: House) -> None:
        house.script("gemini", Ok(tool_calls=[("capital_of", {"country": "Nowhere"})]), DOWN)
        seen = seen_by(house)
        Agent(model=house.chain("gemini/gemini-3.5-flash-lite", "groq"), tools=[lookup()[0]], telemetry=False).run("?")
        calls = [call for message in seen[-1].body["messages"] for call in message.get("tool_calls") or ()]
        assert [sorted(call) for call in calls] == [["function", "id", "type"]]

    def test_the_caller_s_messages_are_not_written_to(self, house: House) -> None:
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra": 1}
        messages = [Message(role="user", content="x"), Message(role="assistant", tool_calls=[call])]
        before = [message.model_dump() for message in messages]
        for name, entry in zip(PROVIDERS, house.chain(*PROVIDERS).entries, strict=True):
            converted(entry, messages, {"response_format": City}, house.rules(name))
        assert [message.model_dump() for message in messages] == before

    def test_a_json_schema_is_described_to_who_takes_none(self, house: House) -> None:
        wanted = {"type": "json_schema", "json_schema": {"name": "City", "schema": City.model_json_schema()}}
        messages = [Message(role="system", content="Be brief."), Message(role="user", content="x")]
        forms = {}
        for name in PROVIDERS:
            sent, options = converted(
                house.chain(name).primary, messages, {"response_format": wanted}, house.rules(name)
            )
            forms[name] = (options["response_format"]["type"], "JSON schema" in str(sent[0].content))
            again, _ = converted(house.chain(name).primary, sent, {"response_format": wanted}, house.rules(name))
            assert [message.content for message in again] == [message.content for message in sent]
            assert [message.role for message in sent] == ["system", "user"]
        assert forms == {
            "cerebras": ("json_schema", False),
            "groq": ("json_object", True),
            "gemini": ("json_object", True),
            "openrouter": ("json_schema", False),
        }

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_a_format_without_a_schema_is_everybody_s(self, house: House, provider: str) -> None:
        messages, wanted = [Message(role="user", content="x")], {"response_format": {"type": "json_object"}}
        assert converted(house.chain(provider).primary, messages, wanted, house.rules(provider)) == (messages, wanted)


class TestStructuredOutputs:
    @pytest.mark.parametrize("provider", PROVIDERS)
    @pytest.mark.parametrize("schema", [City, SCHEMA])
    def test_are_asked_for_as_without_a_chain(self, house: House, provider: str, schema: Any) -> None:
        seen = seen_by(house)
        name = MODELS.get(provider, provider)
        others = [MODELS.get(other, other) for other in PROVIDERS if other != provider]
        Agent(model=house.chain(name), output_schema=schema, telemetry=False).run("a city")
        Agent(model=house.chain(name, *others), output_schema=schema, telemetry=False).run("a city")
        alone, in_company = (form_of(request.body) for request in seen)
        assert in_company == alone

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_have_the_form_that_a_bare_model_gives_them(self, house: House, provider: str) -> None:
        seen = seen_by(house)
        bare = house.manager.get_model(*MODELS.get(provider, provider).split("/"))
        Agent(model=bare, output_schema=City, telemetry=False).run("a city")
        Agent(model=house.chain(MODELS.get(provider, provider), "groq"), output_schema=City, telemetry=False).run("?")
        assert form_of(seen[0].body) == form_of(seen[1].body)

    def test_do_not_write_to_a_schema_of_the_caller(self, house: House) -> None:
        before = copy.deepcopy(SCHEMA)
        Agent(model=house.chain("cerebras", "openrouter"), output_schema=SCHEMA, telemetry=False).run("a city")
        assert before == SCHEMA


class TestTheEntries:
    def test_are_all_that_are_available_in_order(self, server: LoopbackServer) -> None:
        house = House(server, HFS_PROVIDER_ORDER="openrouter,gemini")
        assert [model.provider for model in house.chain().entries][:2] == ["OpenRouter", "Google"]
        assert len(house.chain().entries) == 4

    def test_may_be_models(self, house: House) -> None:
        model = house.manager.get_model("groq", max_retries=0)
        chain = house.chain(model, "cerebras")
        house.script("groq", DOWN)
        assert "[cerebras/" in ask(chain)
        assert "[groq/" in ask(model)

    def test_may_be_agno_models_of_one_s_own(self, house: House) -> None:
        from agno.models.openrouter import OpenRouter

        own = OpenRouter(id="mine", api_key="k", base_url=house.env["OPENROUTER_BASE_URL"], max_retries=0)
        house.server.script("openrouter", "k", [DOWN, Ok(text="mine again")])
        chain = house.chain(own, "groq")
        assert "[groq/" in ask(chain)
        assert ask(chain) == "mine again"

    def test_may_be_pairs_of_provider_and_model(self, house: House) -> None:
        chain = house.chain("groq/openai/gpt-oss-120b", "cerebras/llama3.1-8b")
        assert [model.id for model in chain.entries] == ["openai/gpt-oss-120b", "llama3.1-8b"]

    def test_that_nobody_knows_are_an_error(self, house: House) -> None:
        with pytest.raises(UnknownProviderError):
            house.chain("grok")

    def test_without_a_key_are_an_error_where_they_are_named(self, server: LoopbackServer) -> None:
        with ProviderManager(env=server.env({"groq": 1})) as manager:
            with pytest.raises(MissingKeyError):
                manager.get_chain("groq", "cerebras")
            assert len(manager.get_chain().entries) == 1

    def test_there_must_be_one(self) -> None:
        with ProviderManager(env={}) as manager, pytest.raises(ProviderUnavailableError):
            manager.get_chain()

    @pytest.mark.parametrize("tier", ["reasoning", "general", "fast"])
    def test_of_a_tier_come_from_the_file(self, server: LoopbackServer, tmp_path: Path, tier: str) -> None:
        path = tmp_path / "mine.toml"
        path.write_text(f'[tiers]\n{tier} = ["groq/openai/gpt-oss-120b", "cerebras"]\n')
        chain = House(server, HFS_CONFIG=str(path)).chain(tier=tier)
        assert [model.id for model in chain.entries] == ["openai/gpt-oss-120b", "gpt-oss-120b"]

    def test_of_a_tier_come_from_the_environment_first(self, server: LoopbackServer, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text('[tiers]\nfast = ["groq"]\n')
        house = House(server, HFS_CONFIG=str(path), HFS_TIER_FAST="cerebras/llama3.1-8b, groq")
        assert [model.id for model in house.chain(tier="fast").entries] == ["llama3.1-8b", "llama-3.3-70b-versatile"]

    def test_of_a_tier_that_are_unknown_are_skipped_with_a_warning(
        self, server: LoopbackServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        house = House(server, HFS_TIER_FAST="grok/grok-9,groq")
        assert len(house.chain(tier="fast").entries) == 1
        assert "grok" in caplog.text

    def test_of_a_tier_that_is_not_there_are_an_error(self, server: LoopbackServer) -> None:
        house = House(server, HFS_TIER_FAST="grok/grok-9")
        with pytest.raises(SettingsError, match="HFS_TIER_REASONING"):
            house.chain(tier="reasoning")
        with pytest.raises(SettingsError, match="none of the providers"):
            house.chain(tier="fast")
        with pytest.raises(ValueError, match="not both"):
            house.chain("groq", tier="fast")

    @pytest.mark.usefixtures("fresh_manager")
    def test_module_level_chains_are_of_the_process_s_manager(
        self, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import hfs_providers

        for name, value in server.env({"groq": 1, "cerebras": 1}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("HFS_PROVIDER_ORDER", "groq,cerebras")
        chain = hfs_providers.get_chain()
        assert isinstance(chain, hfs_providers.FallbackChain)
        assert "[groq/" in ask(chain)

    @pytest.mark.usefixtures("fresh_manager")
    def test_are_found_again_after_a_pickle_which_holds_no_key(
        self, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import hfs_providers

        env = server.env({"groq": 1, "cerebras": 1})
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        written = pickle.dumps(hfs_providers.get_chain("groq", "cerebras/llama3.1-8b", restore="never"))
        assert env["GROQ_API_KEY_1"].encode() not in written
        chain = pickle.loads(written)
        assert repr(chain) == "FallbackChain(groq/llama-3.3-70b-versatile -> cerebras/llama3.1-8b)"
        assert "[groq/" in ask(chain)

    def test_of_an_explicit_environment_refuse_to_be_pickled(self, house: House) -> None:
        with pytest.raises(TypeError, match="explicit environment"):
            pickle.dumps(house.chain("groq", "cerebras"))


@pytest.mark.parametrize("way", WAYS)
class TestAContextOverflow:
    def test_goes_to_an_entry_with_a_larger_window(self, house: House, way: str) -> None:
        house.script("groq", ContextTooLong())
        # OpenRouter declares the same window as Groq, so it is passed by.
        assert "[gemini/" in ask(house.chain("groq", "openrouter", "gemini"), way)
        assert house.asked("openrouter") == 0

    @pytest.mark.parametrize(("first", "second"), [("gemini", "groq"), ("openrouter", "cerebras")])
    def test_is_raised_as_agno_knows_it_where_no_window_is_larger(
        self, house: House, way: str, first: str, second: str
    ) -> None:
        house.script(first, ContextTooLong())
        with pytest.raises(ContextWindowExceededError):
            ask(house.chain(first, second), way)
        assert house.asked(second) == 0


class TestWindows:
    def test_a_turn_that_agno_repeats_after_an_overflow_goes_on(self, house: House) -> None:
        house.script("groq", DOWN)
        house.script("cerebras", ContextTooLong())
        chain = house.chain("groq", "cerebras")
        messages, run = [Message(role="user", content="hello")], RunOutput(run_id="1")
        with pytest.raises(ContextOverflowError):
            chain.response(messages=messages, run_response=run)
        assert "[cerebras/" in chain.response(messages=messages, run_response=run).content
        assert "[groq/" in chain.response(messages=messages, run_response=run).content

    def test_compression_is_limited_to_the_entry_that_serves(self, house: House) -> None:
        house.script("groq", DOWN)
        given = CompressionManager(compress_token_limit=120_000)
        limits: list[int | None] = []

        class Watching(CompressionManager):
            def should_compress(self, *args: Any, **kwargs: Any) -> bool:
                limits.append(self.compress_token_limit)
                return False

        given.__class__ = Watching
        house.script("groq", Ok(tool_calls=[("capital_of", {"country": "Nowhere"})]), DOWN)
        house.script("gemini", Ok(tool_calls=[("capital_of", {"country": "Nowhere"})]))
        chain = house.chain("groq", "gemini")
        tool, _ = lookup()
        bot = Agent(model=chain, tools=[tool], compression_manager=given, telemetry=False)
        bot.run("the capital?")
        bot.run("the capital?")
        # Groq (131 072) until the switch, Gemini (1 048 576) after it, and the next turn has Groq's again.
        assert limits == [104_857, 104_857, 120_000, 104_857, 104_857]
        assert given.compress_token_limit == 120_000
        assert bot.compression_manager is given

    def test_compaction_fits_the_smallest(self, house: House) -> None:
        assert house.chain("gemini", "groq").compaction().compact_at_tokens == 104_857
        assert house.chain("gemini").compaction(compact_at_tokens=7).compact_at_tokens == 7


class TestErrors:
    def test_an_exhausted_chain_is_pickled_whole(self, house: House) -> None:
        for name in ("groq", "cerebras"):
            house.script(name, RateLimited(retry_after=40))
        with pytest.raises(ChainExhaustedError) as caught:
            ask(house.chain("groq", "cerebras"))
        again = pickle.loads(pickle.dumps(caught.value))
        assert again.reasons == caught.value.reasons
        assert again.status_code == 503
        assert json.dumps(again.reasons)
