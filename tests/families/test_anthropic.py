"""The family of the anthropic SDK: what goes into its clients, and what its answers are worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from agno.agent import Agent
from agno.models.message import Message
from pydantic import BaseModel

from hfs_providers import ProviderManager, StreamInterruptedError
from hfs_providers.authoring import ErrorRules, Evidence, KeyedProvider, Meaning, ModelDefault, UsageFields, UsageRow
from hfs_providers.errors import ModelCallError
from hfs_providers.families.anthropic import AnthropicClients
from hfs_providers.testing import AnthropicDialect, HalfStream, LoopbackServer, Ok, RateLimited, ServerError

pytest.importorskip("anthropic", reason="anthropic is not installed")

PLUGIN = KeyedProvider(
    name="claude",
    model_class="agno.models.anthropic:Claude",
    sdk="anthropic",
    client="anthropic",
    base_url="https://claude.example",
    models=(ModelDefault("claude-sonnet-5-5"),),
)


def hello() -> list[Message]:
    """What is asked; a call adds its answer."""
    return [Message(role="user", content="hello")]


class City(BaseModel):
    city: str


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[AnthropicDialect("claude")]) as server:
        yield server


@pytest.fixture
def manager(server: LoopbackServer) -> Iterator[ProviderManager]:
    with ProviderManager(env=server.env({"claude": 2}), plugins=[PLUGIN]) as manager:
        yield manager


def test_the_sdk_sends_a_request_once_over_one_connection(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("claude", "*", [ServerError(500)])
    with pytest.raises(ModelCallError):
        manager.get_model("claude", max_retries=0).response(messages=hello())
    server.script("claude", "*", [RateLimited()])
    manager.get_model("claude").response(messages=hello())
    assert (len(server.seen), server.connections) == (3, 1)


def test_no_token_of_the_process_gets_in(manager: ProviderManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "token-of-the-process")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "key-of-the-process")
    assert "hello" in str(manager.get_model("claude").response(messages=hello()).content)
    with pytest.raises(TypeError, match="auth_token"):
        manager.get_model("claude", auth_token="mine")


def test_the_sdk_logs_no_key_of_azure(
    server: LoopbackServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_FOUNDRY_RESOURCE", "of-the-process")
    plugin = replace(PLUGIN, model_class="agno.models.azure:AzureFoundryClaude")
    env = server.env({"claude": 1})
    caplog.set_level("DEBUG")
    with ProviderManager(env=env, plugins=[plugin]) as manager:
        assert "hello" in str(manager.get_model("claude").response(messages=hello()).content)
    assert "Request options" in caplog.text
    assert env["CLAUDE_API_KEY_1"] not in caplog.text


def test_an_address_of_the_callers_own_goes_first(manager: ProviderManager) -> None:
    model = manager.get_model("claude", client_params={"base_url": "https://mine.example"})
    assert "mine.example" in str(model.get_client().base_url)  # type: ignore[attr-defined]


def test_a_beta_stream_that_is_cut_off_is_known(manager: ProviderManager, server: LoopbackServer) -> None:
    server.script("claude", "*", [HalfStream(chunks=2)])
    deltas = manager.get_model("claude", betas=["some-beta"]).response_stream(messages=hello())
    with pytest.raises(StreamInterruptedError):
        list(deltas)


def test_cached_tokens_are_counted_once(manager: ProviderManager, server: LoopbackServer) -> None:
    rows: list[UsageRow] = []
    manager.observe(lambda event: rows.append(event.usage) if event.usage else None)
    server.script("claude", "*", [], then=Ok(text="hi", usage=(100, 5), cached=60))
    model = manager.get_model("claude")
    model.response(messages=hello())
    list(model.response_stream(messages=hello()))
    assert [(row.tokens_in, row.tokens_out, row.tokens, row.tokens_cached) for row in rows] == [(100, 5, 105, 60)] * 2


def test_a_schema_reaches_it_in_a_chain(manager: ProviderManager) -> None:
    agent = Agent(model=manager.get_chain("claude"), output_schema=City, telemetry=False)
    assert isinstance(agent.run("hello").content, City)


def test_a_plugin_has_the_last_word() -> None:
    own = UsageFields(cached=("elsewhere",))
    plugin = KeyedProvider("claude", "agno.models.anthropic:Claude", client="anthropic", usage_fields=own)
    completed = AnthropicClients.complete(plugin)
    assert completed.usage_fields == own
    assert completed.limit_headers == AnthropicClients.defaults["limit_headers"]
    assert plugin.limit_headers == {}


def test_rules_for_errors_are_added_to_those_of_the_plugin() -> None:
    own = ErrorRules(codes={"a": Meaning("dead")}, statuses={404: Meaning("refused")}, wait_headers=("mine",))
    base = ErrorRules(codes={"a": Meaning("empty"), "b": Meaning("local")}, wait_headers=("theirs",), modules=("sdk",))
    both = own.over(base)
    assert both.codes == {"a": Meaning("dead"), "b": Meaning("local")}
    assert (both.statuses, both.wait_headers, both.modules) == (own.statuses, ("mine", "theirs"), {"sdk"})


def test_rules_for_a_field_are_added_value_by_value() -> None:
    dead, gone, limited = Meaning("dead"), Meaning("model_gone"), Meaning("rate_limited")
    own = ErrorRules(fields={"status": {"A": dead}, "cause": {"C": gone}})
    base = ErrorRules(fields={"reason": {"R": limited}, "status": {"A": limited, "B": limited}})
    both = own.over(base).fields
    assert both == {"cause": {"C": gone}, "reason": {"R": limited}, "status": {"A": dead, "B": limited}}
    # The plugin's own field is read first; one that both have stays behind the family's more specific one.
    assert list(both) == ["cause", "reason", "status"]


def no_idea(evidence: Evidence) -> Meaning | None:
    return None


def fails(evidence: Evidence) -> Meaning | None:
    raise KeyError("body")


@pytest.mark.parametrize("own", [no_idea, fails])
def test_what_the_plugin_cannot_decide_the_family_does(own: Any) -> None:
    base = ErrorRules(decide=lambda evidence: Meaning("refused"))
    evidence = Evidence(400, {}, {}, "sdk", None, 0.0)
    for rules in (ErrorRules(decide=own).over(base), ErrorRules().over(base)):
        assert rules.decide is not None
        assert rules.decide(evidence) == Meaning("refused")
    last = ErrorRules(decide=lambda evidence: Meaning("dead")).over(base).decide
    assert last is not None
    assert last(evidence) == Meaning("dead")
