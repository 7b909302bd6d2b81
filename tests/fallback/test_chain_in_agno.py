"""What Agno does with a model besides asking it: reasoning, caching; and the entries that are given as dicts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from agno.agent import Agent
from agno.models.openai.like import OpenAILike
from agno.reasoning.openai import is_openai_reasoning_model

from hfs_providers import FallbackChain, UnknownProviderError
from hfs_providers.testing import HalfStream, Ok, ServerError
from tests.fallback.chains import WAYS, House, ask, house, server

__all__ = ["house", "server"]

DOWN = ServerError(503)
REASONERS = ("groq/openai/gpt-oss-120b", "gemini/gemini-3.5-flash", "openrouter/deepseek/deepseek-r1")


def thought(house: House, chain: Any, stream: bool = False) -> str:
    """What an agent with a chain as its reasoning model has thought."""
    bot = Agent(model=house.manager.get_model("cerebras"), reasoning_model=chain, telemetry=False)
    if stream:
        *_, result = bot.run("why?", stream=True, yield_run_output=True)
    else:
        result = bot.run("why?")
    return str(result.reasoning_content or "")


class TestAReasoningModel:
    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("name", REASONERS[::2])
    def test_reasons_where_the_primary_would(self, house: House, name: str, stream: bool) -> None:
        assert f"[{name.partition('/')[0]}/" in thought(house, house.chain(name, "cerebras"), stream)

    @pytest.mark.parametrize("name", REASONERS[::2])
    def test_reasons_with_its_fallback(self, house: House, name: str) -> None:
        house.script(name.partition("/")[0], DOWN)
        assert "[cerebras/" in thought(house, house.chain(name, "cerebras"))

    def test_may_be_a_tier(self, server: Any) -> None:
        house = House(server, HFS_TIER_REASONING="groq/openai/gpt-oss-120b,cerebras")
        with house.manager:
            assert "[groq/" in thought(house, house.chain(tier="reasoning"))

    @pytest.mark.parametrize("name", REASONERS)
    def test_bears_the_name_of_the_primary_s_class(self, house: House, name: str) -> None:
        from agno.reasoning.manager import ReasoningConfig, ReasoningManager

        provider, _, model = name.partition("/")
        bare = house.manager.get_model(provider, model)
        chain = house.chain(name, "cerebras")
        assert type(chain).__name__ == type(bare).__name__
        assert isinstance(chain, FallbackChain)
        manager = ReasoningManager(ReasoningConfig())
        assert manager._detect_model_type_uncached(chain) == manager._detect_model_type_uncached(bare) is not None

    def test_that_is_known_by_isinstance_alone_is_known(self, house: House) -> None:
        own = OpenAILike(id="deepseek-r1", api_key="k", base_url=house.env["OPENROUTER_BASE_URL"])
        assert is_openai_reasoning_model(house.chain(own, "groq"))
        assert not is_openai_reasoning_model(house.chain("groq", own))

    def test_shows_what_its_primary_has(self, house: House) -> None:
        chain = house.chain("openrouter", "groq", temperature=0.25)
        assert (chain.base_url, chain.temperature) == (chain.primary.base_url, 0.25)
        for other in (copy.copy(chain), copy.deepcopy(chain)):
            assert other.temperature == 0.25
        with pytest.raises(AttributeError):
            chain.nonsense  # noqa: B018


@pytest.mark.parametrize("way", WAYS)
class TestACachedAnswer:
    def test_is_not_asked_for_again(self, house: House, way: str, tmp_path: Path) -> None:
        chain = house.chain("groq", "cerebras", cache_response=True, cache_dir=str(tmp_path))
        first = ask(chain, way)
        assert ask(chain, way) == first
        assert house.asked("groq") == 1

    def test_may_be_a_fallback_s(self, house: House, way: str, tmp_path: Path) -> None:
        house.script("groq", DOWN)
        chain = house.chain("groq", "cerebras", cache_response=True, cache_dir=str(tmp_path))
        assert [ask(chain, way)[:10] for _ in range(2)] == ["[cerebras/"] * 2
        assert house.asked("groq") == 1


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_stream_that_began_again_is_not_cached(house: House, way: str, tmp_path: Path) -> None:
    house.script("groq", HalfStream(chunks=2))
    options: dict[str, Any] = {"cache_response": True, "cache_dir": str(tmp_path), "on_interrupt": "restart"}
    chain = house.chain("groq", "cerebras", **options)
    ask(chain, way)
    assert ask(chain, way).startswith("[groq/")
    assert house.asked("groq") == 2


class TestADict:
    def test_is_an_entry(self, house: House) -> None:
        chain = house.chain({"provider": "groq", "model": "openai/gpt-oss-120b"}, {"provider": "Cerebras"})
        assert repr(chain) == "FallbackChain(groq/openai/gpt-oss-120b -> cerebras/gpt-oss-120b)"
        house.script("groq", DOWN)
        assert "[cerebras/" in ask(chain)

    def test_has_arguments_for_its_entry_alone(self, house: House) -> None:
        chain = house.chain({"provider": "groq", "temperature": 0.5, "max_retries": 1}, "cerebras", temperature=0.25)
        assert [model.temperature for model in chain.entries] == [0.5, 0.25]
        house.script("groq", DOWN, Ok(text="again"))
        assert ask(chain) == "again"

    @pytest.mark.parametrize(
        "given",
        [{}, {"model": "x"}, {"provider": None}, {"provider": "groq", "model": 3}, {"provider": "groq", "id": "x"}],
    )
    def test_without_a_provider_is_a_clear_error(self, house: House, given: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="must have a `provider` and can have a `model`"):
            house.chain(given)

    def test_shows_no_key_in_an_error(self, house: House) -> None:
        with pytest.raises((TypeError, ValueError)) as caught:
            house.chain({"provider": "groq", "api_key": "sk-secret"})
        with pytest.raises(ValueError, match="has: api_key") as also:
            house.chain({"api_key": "sk-secret"})
        assert "api_key" in str(caught.value)
        assert "sk-secret" not in f"{caught.value}{also.value}"

    def test_of_an_unknown_provider_is_an_error(self, house: House) -> None:
        with pytest.raises(UnknownProviderError):
            house.chain({"provider": "grok"})


@pytest.mark.parametrize("given", [None, 3, ["groq"], ("groq", "x")])
def test_what_is_no_entry_is_a_clear_error(house: House, given: Any) -> None:
    with pytest.raises(TypeError, match="an entry of a chain is"):
        house.chain("groq", given)
