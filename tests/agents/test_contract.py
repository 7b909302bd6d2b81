"""The contract: its limits, its strictness, and the schema that others read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.agents import (
    ROLES,
    AgentConfig,
    AgentEvent,
    AgentHealth,
    ContractError,
    WorkItem,
    WorkResult,
    json_schema,
)
from hfs_providers.agents.contract import state_after
from hfs_providers.cli.agents.command import RoleName
from tests.agents.workers import item, nested

SCHEMA = Path(__file__).parents[2] / "docs" / "agents.schema.json"


class TestAWorkItem:
    def test_has_defaults_for_what_need_not_be_said(self) -> None:
        read = WorkItem.read(item())
        assert (read.priority, read.timeout, read.idempotent, read.context) == (5, 60.0, False, {})
        assert (read.review_feedback, read.review_attempt) == (None, None)

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("id", "x" * 256),
            ("description", "x" * 50_000),
            ("priority", 0),
            ("priority", 10),
            ("context", {"any": ["thing", {"at": None}]}),
            ("review_attempt", 0),
            ("timeout", 1),
        ],
    )
    def test_may_go_to_its_limits(self, field: str, value: object) -> None:
        assert getattr(WorkItem.read({**item(), field: value}), field) == value

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("id", ""),
            ("id", "x" * 257),
            ("id", 7),
            ("id", "\ud800"),
            ("description", ""),
            ("description", "x" * 50_001),
            ("description", None),
            ("phase", "whatever"),
            ("priority", -1),
            ("priority", 11),
            ("priority", "5"),
            ("priority", True),
            ("context", []),
            ("context", {1: 2}),
            ("review_attempt", -1),
            ("review_feedback", 3),
            ("timeout", 0),
            ("timeout", float("inf")),
            ("idempotent", "yes"),
            ("unknown", 1),
        ],
    )
    def test_may_not_go_beyond_them(self, field: str, value: object) -> None:
        with pytest.raises(ContractError, match=field):
            WorkItem.read({**item(), field: value})

    @pytest.mark.parametrize("data", [None, [], "text", 3, {}])
    def test_is_nothing_else(self, data: Any) -> None:
        with pytest.raises(ContractError):
            WorkItem.read(data)

    def test_error_names_the_fields_and_repeats_no_value(self) -> None:
        with pytest.raises(ContractError) as caught:
            WorkItem.read(item(priority="gsk_secret", phase="gsk_secret"))
        assert {text.partition(":")[0] for text in caught.value.errors} == {"priority", "phase"}
        assert "gsk_secret" not in str(caught.value)

    def test_that_is_nested_too_deeply_is_refused_in_a_few_words(self) -> None:
        with pytest.raises(ContractError, match="context") as caught:
            WorkItem.read(item(context={"deep": nested(900)}))
        assert len(str(caught.value)) < 500


class TestAResult:
    def test_has_to_say_whether_it_succeeded(self) -> None:
        with pytest.raises(ContractError, match="success"):
            WorkResult.read({"item_id": "1"})

    @pytest.mark.parametrize("success", ["true", 1, None])
    def test_says_so_with_a_boolean(self, success: object) -> None:
        with pytest.raises(ContractError, match="success"):
            WorkResult.read({"item_id": "1", "success": success})

    def test_goes_there_and_back(self) -> None:
        result = WorkResult(item_id="1", success=True, data={"a": [1, None]}, memory_ids=["m"], duration=0.5)
        assert WorkResult.read(json.loads(json.dumps(result.dump()))) == result

    def test_is_the_state_afterwards_without_its_data(self) -> None:
        done = state_after(WorkResult(item_id="1", success=True, data={"long": "text"}))
        assert (done.state, done.dump()["result"]["data"]) == ("completed", None)
        assert state_after(WorkResult.failed("1", "it broke")).dump() == {"state": "failed", "error": "it broke"}


@pytest.mark.parametrize(
    "state",
    [
        {"state": "idle"},
        {"state": "active", "task": "1"},
        {"state": "waiting", "reason": "restarting"},
        {"state": "failed", "error": "it broke"},
        {"state": "unavailable", "reason": "no key"},
        {"state": "completed", "result": WorkResult(item_id="1", success=True).dump()},
    ],
)
def test_a_state_is_told_apart_by_its_name(state: dict[str, Any]) -> None:
    health = AgentHealth.read({"is_healthy": True, "error_count": 0, "state": state})
    assert health.state.dump() == state


@pytest.mark.parametrize(
    "state", [{"state": "busy"}, {"state": "active"}, {"state": "idle", "reason": "x"}, {}, "idle"]
)
def test_there_is_no_other_state(state: object) -> None:
    with pytest.raises(ContractError):
        AgentHealth.read({"is_healthy": True, "error_count": 0, "state": state})


def test_an_event_is_of_a_known_kind() -> None:
    assert AgentEvent.read({"kind": "heartbeat", "at": 1.5}).at == 1.5
    with pytest.raises(ContractError, match="kind"):
        AgentEvent.read({"kind": "rumour", "at": 1.5})


def test_a_config_names_models_or_a_tier_and_not_both() -> None:
    assert AgentConfig.read({"models": ["groq/m"]}).models == ["groq/m"]
    with pytest.raises(ContractError, match="not both"):
        AgentConfig.read({"models": ["groq"], "tier": "fast"})


class TestTheSchema:
    def test_that_is_kept_is_current(self) -> None:
        wanted = json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"
        assert SCHEMA.read_text(encoding="utf-8") == wanted, "write docs/agents.schema.json anew, as this test has it"

    def test_holds_every_model_and_state(self) -> None:
        names = {"WorkItem", "WorkResult", "AgentConfig", "AgentState", "AgentHealth", "AgentSnapshot", "AgentEvent"}
        states = {"Idle", "Active", "Waiting", "Completed", "Failed", "Unavailable"}
        data = {"Plan", "Step", "Improvement", "Change", "Artifacts", "Artifact", "Verdict", "Issue"}
        assert names | states | data <= set(json_schema()["$defs"])

    def test_bounds_the_reviewer_s_confidence(self) -> None:
        confidence = json_schema()["$defs"]["Verdict"]["properties"]["confidence"]
        assert (confidence["minimum"], confidence["maximum"]) == (0, 1)

    def test_resolves_within_itself(self) -> None:
        schema = json_schema()
        text = json.dumps(schema)
        used = {part.split('"')[0] for part in text.split("#/$defs/")[1:]}
        assert used <= set(schema["$defs"])


def test_the_command_line_knows_the_same_roles() -> None:
    assert tuple(role.value for role in RoleName) == ROLES
