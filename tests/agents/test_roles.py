"""The four roles in this process, over real chains and the real SDKs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from hfs_providers import ProviderManager
from hfs_providers.agents import ROLES, AgentUnavailableError, ContractError, WorkItem, create_agent
from hfs_providers.agents.roles import ROLE_SPECS, prompt_of
from hfs_providers.testing import LoopbackServer, Ok, ServerError
from tests.agents.fleet import run
from tests.agents.workers import item


@pytest.fixture(scope="module")
def manager(env: Mapping[str, str]) -> Iterator[ProviderManager]:
    with ProviderManager(env) as manager:
        yield manager


@pytest.fixture(autouse=True)
def no_scripts(server: LoopbackServer) -> Iterator[None]:
    yield
    server.reset()


@pytest.mark.parametrize("role", ROLES)
def test_each_role_gives_its_own_structure_and_who_served_it(role: str, manager: ProviderManager) -> None:
    async def main() -> None:
        agent = create_agent(role, manager=manager)
        await agent.start_session()
        result = await agent.work(item())
        assert result.success
        assert result.data is not None
        ROLE_SPECS[agent.role].output.model_validate(result.data)
        assert result.served_by is not None
        assert result.served_by.provider == "groq"
        assert agent.state.state == "completed"
        assert await agent.stop_session()

    run(main())


def test_an_answer_without_the_structure_is_a_failure_and_not_parsed_prose(
    manager: ProviderManager, server: LoopbackServer
) -> None:
    async def main() -> None:
        agent = create_agent("reviewer", manager=manager)
        await agent.start_session()
        server.script("groq", "*", [Ok(text="Looks good to me, approved: true!")])
        result = await agent.work(item())
        assert (result.success, result.data) == (False, None)
        assert "structure of Verdict" in str(result.error)
        assert agent.state.state == "failed"

    run(main())


VERDICT = {"approved": True, "confidence": 0.9, "feedback": "Good.", "issues": []}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (json.dumps({**VERDICT, "approved": "secret words"}), "approved: Input should be a valid boolean"),
        (json.dumps({**VERDICT, "confidence": 85}), "confidence: Value error, it has to be from 0 to 1"),
        (json.dumps({**VERDICT, "issues": [{"severity": "huge", "description": "x"}]}), "issues.0.severity: Input"),
        ("```json\n" + json.dumps({"approved": True}) + "\n```", "confidence: Field required; feedback: Field req"),
        ("secret words", "it is not a JSON object"),
    ],
)
def test_an_answer_that_breaks_its_structure_is_told_the_field(
    text: str, told: str, manager: ProviderManager, server: LoopbackServer
) -> None:
    async def main() -> None:
        agent = create_agent("reviewer", manager=manager)
        await agent.start_session()
        server.script("groq", "*", [Ok(text=text)])
        result = await agent.work(item())
        assert f"does not have the structure of Verdict: {told}" in str(result.error)
        assert "secret" not in str(result.error)

    run(main())


def test_a_model_is_sent_no_bounds_of_numbers() -> None:
    # Anthropic refuses a schema that has them.
    for spec in ROLE_SPECS.values():
        assert not {"minimum", "maximum"} & set(json.dumps(spec.output.model_json_schema()).split('"'))


def test_a_fallback_shows_in_who_served_it(manager: ProviderManager, server: LoopbackServer) -> None:
    async def main() -> None:
        agent = create_agent("executor", {"models": ["groq", "cerebras"]}, manager=manager)
        await agent.start_session()
        server.script("groq", "*", [], then=ServerError(503))
        served = (await agent.work(item())).served_by
        assert served is not None
        assert served.provider == "cerebras"
        assert list(served.others) == ["groq/llama-3.3-70b-versatile"]

    run(main())


def test_a_chain_that_is_exhausted_is_a_failure(manager: ProviderManager, server: LoopbackServer) -> None:
    async def main() -> None:
        agent = create_agent("executor", {"models": ["cerebras"]}, manager=manager)
        await agent.start_session()
        server.script("cerebras", "*", [], then=ServerError(500))
        result = await agent.work(item())
        assert not result.success
        assert "cerebras" in str(result.error)

    run(main())


class TestTheChain:
    """Config, then the tier with the role's name, then everything."""

    @pytest.mark.parametrize(
        ("config", "variables", "served"),
        [
            ({}, {}, "groq"),
            ({}, {"HFS_TIER_REVIEWER": "cerebras"}, "cerebras"),
            ({"tier": "fast"}, {"HFS_TIER_REVIEWER": "groq", "HFS_TIER_FAST": "cerebras"}, "cerebras"),
            ({"models": ["cerebras/gpt-oss-120b"]}, {"HFS_TIER_REVIEWER": "groq"}, "cerebras"),
        ],
    )
    def test_is_chosen(
        self, config: dict[str, Any], variables: dict[str, str], served: str, env: Mapping[str, str]
    ) -> None:
        async def main() -> None:
            with ProviderManager({**env, **variables}) as manager:
                agent = create_agent("reviewer", config, manager=manager)
                await agent.start_session()
                by = (await agent.work(item())).served_by
                assert by is not None
                assert by.provider == served

        run(main())

    def test_may_come_from_a_tier_of_the_file(self, env: Mapping[str, str], tmp_path: Any) -> None:
        async def main() -> None:
            (tmp_path / "tiers.toml").write_text('[tiers]\noptimizer = ["cerebras"]\n')
            with ProviderManager({**env, "HFS_CONFIG": str(tmp_path / "tiers.toml")}) as manager:
                agent = create_agent("optimizer", manager=manager)
                await agent.start_session()
                by = (await agent.work(item())).served_by
                assert by is not None
                assert by.provider == "cerebras"

        run(main())


class TestUnavailable:
    @pytest.mark.parametrize("role", ROLES)
    def test_is_every_role_without_any_provider(self, role: str) -> None:
        async def main() -> None:
            with ProviderManager({}) as manager:
                agent = create_agent(role, manager=manager)
                with pytest.raises(AgentUnavailableError, match="no provider can be used"):
                    await agent.start_session()
                assert agent.state.state == "unavailable"
                with pytest.raises(AgentUnavailableError, match="no session"):
                    await agent.work(item())

        run(main())

    def test_is_a_role_whose_providers_have_no_key_and_it_says_what_mends_it(self) -> None:
        async def main() -> None:
            with ProviderManager({"NUM_GROQ": "1"}) as manager:
                agent = create_agent("executor", {"models": ["groq"]}, manager=manager)
                with pytest.raises(AgentUnavailableError, match="GROQ_API_KEY_1"):
                    await agent.start_session()

        run(main())

    @pytest.mark.parametrize(("role", "config"), [("poet", {}), ("executor", {"x": 1}), ("executor", {"models": []})])
    def test_is_nothing_that_does_not_fit(self, role: str, config: dict[str, Any]) -> None:
        with pytest.raises(ContractError):
            create_agent(role, config)


def test_a_cancelled_item_is_a_result_and_the_others_go_on(manager: ProviderManager, server: LoopbackServer) -> None:
    async def main() -> None:
        agent = create_agent("executor", manager=manager)
        await agent.start_session()
        with server.hold() as gate:
            works = [asyncio.create_task(agent.work(item(number))) for number in (1, 2)]
            assert await asyncio.to_thread(gate.wait_for, 2)
            assert agent.pending == {"1", "2"}
            assert agent.cancel("1")
            assert (await works[0]).error == "cancelled"
        assert (await works[1]).success
        assert not agent.cancel("1")

    run(main())


def test_stopping_a_session_answers_what_is_pending(manager: ProviderManager, server: LoopbackServer) -> None:
    async def main() -> None:
        agent = create_agent("executor", manager=manager)
        await agent.start_session()
        with server.hold() as gate:
            work = asyncio.create_task(agent.work(item()))
            assert await asyncio.to_thread(gate.wait_for, 1)
            await agent.stop_session()
            assert (await work).error == "cancelled"
        assert not await agent.stop_session()

    run(main())


def test_the_model_is_told_the_feedback_and_the_context() -> None:
    told = prompt_of(WorkItem.read(item(review_feedback="Too long.", review_attempt=2, context={"style": "terse"})))
    for part in ("plan_to_artifacts", "Do number 1.", "Too long.", "attempt 2", json.dumps("terse")):
        assert part in told
    plain = prompt_of(WorkItem.read(item()))
    assert "reviewer" not in plain
    assert "Context" not in plain
