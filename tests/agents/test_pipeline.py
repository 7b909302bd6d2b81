"""Orchestrator to executor to reviewer: with agents that say what the test wants, and over a real chain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from hfs_providers.agents import PIPELINE, ContractError, Role, Supervisor, WorkItem, WorkResult, run_pipeline
from hfs_providers.testing import LoopbackServer
from hfs_providers.testing.answers import Request, think
from hfs_providers.testing.scripts import Ok
from tests.agents.fleet import run
from tests.agents.workers import item

APPROVED = {"approved": True, "confidence": 0.9, "feedback": "Good.", "issues": []}
UNSURE = {**APPROVED, "confidence": 0.4}
REJECTED = {
    "approved": False,
    "confidence": 0.9,
    "feedback": "The second chapter is missing.",
    "issues": [{"severity": "blocker", "description": "No second chapter."}],
}


class Agents:
    """Answers by role, in order; the last goes on."""

    def __init__(self, **answers: Sequence[dict[str, Any] | str]) -> None:
        made: dict[str, Sequence[dict[str, Any] | str]] = {
            "orchestrator": [{"summary": "a plan", "steps": []}],
            "executor": [{"summary": "made", "artifacts": []}],
            "reviewer": [APPROVED],
        }
        self._answers = {role: list(given) for role, given in {**made, **answers}.items()}
        self.seen: list[tuple[Role, WorkItem]] = []

    async def work(self, role: Role, item: WorkItem | Mapping[str, Any]) -> WorkResult:
        assert isinstance(item, WorkItem)
        self.seen.append((role, WorkItem.read(item.dump())))
        left = self._answers[role]
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, str):
            return WorkResult.failed(item.id, answer)
        return WorkResult(item_id=item.id, success=True, data=answer)

    def items(self, role: Role) -> list[WorkItem]:
        return [item for seen, item in self.seen if seen == role]


def test_work_that_is_approved_is_done_once() -> None:
    async def main() -> None:
        agents = Agents()
        result = await run_pipeline(agents, item())
        assert result.success
        assert result.data is not None
        assert result.data["attempts"] == 1
        assert [role for role, _ in agents.seen] == list(PIPELINE)
        assert agents.items("executor")[0].context["plan"] == {"summary": "a plan", "steps": []}
        assert agents.items("reviewer")[0].context["artifacts"] == {"summary": "made", "artifacts": []}

    run(main())


def test_work_that_is_turned_down_is_done_again_with_the_feedback() -> None:
    async def main() -> None:
        agents = Agents(reviewer=[REJECTED, APPROVED], executor=[{"draft": 1}, {"draft": 2}])
        result = await run_pipeline(agents, item())
        assert result.success
        assert result.data is not None
        assert (result.data["attempts"], result.data["artifacts"]) == (2, {"draft": 2})
        first, second = agents.items("executor")
        assert (first.review_feedback, first.review_attempt) == (None, None)
        assert second.review_feedback == "The second chapter is missing.\n- blocker: No second chapter."
        assert second.review_attempt == 1
        assert second.context["artifacts"] == {"draft": 1}

    run(main())


def test_work_that_is_never_approved_is_no_success_and_keeps_what_was_made() -> None:
    async def main() -> None:
        agents = Agents(reviewer=[REJECTED])
        result = await run_pipeline(agents, item(), attempts=2)
        assert not result.success
        assert "turned down 2 attempts" in str(result.error)
        assert "second chapter" in str(result.error)
        assert result.data is not None
        assert (result.data["attempts"], result.data["verdict"]) == (2, REJECTED)

    run(main())


class TestAReviewerThatIsNotConfident:
    def test_is_asked_again_and_sees_its_first_verdict(self) -> None:
        async def main() -> None:
            agents = Agents(reviewer=[UNSURE, APPROVED])
            result = await run_pipeline(agents, item())
            assert result.success
            assert result.data is not None
            assert (result.data["attempts"], result.data["verdict"]) == (1, APPROVED)
            first, second = agents.items("reviewer")
            assert "earlier_verdict" not in first.context
            assert second.context["earlier_verdict"] == UNSURE

        run(main())

    def test_is_asked_twice_at_most_for_an_attempt_and_then_counts_as_having_turned_it_down(self) -> None:
        async def main() -> None:
            agents = Agents(reviewer=[UNSURE])
            result = await run_pipeline(agents, item(), attempts=2)
            assert not result.success
            assert len(agents.items("reviewer")) == 4
            feedback = agents.items("executor")[1].review_feedback
            assert str(feedback).startswith("The reviewer approved this with a confidence below 0.5.")

        run(main())

    @pytest.mark.parametrize(("threshold", "reviews"), [(0.0, 1), (0.4, 1), (0.41, 2)])
    def test_is_one_under_the_threshold(self, threshold: float, reviews: int) -> None:
        async def main() -> None:
            agents = Agents(reviewer=[UNSURE])
            await run_pipeline(agents, item(), attempts=1, min_confidence=threshold)
            assert len(agents.items("reviewer")) == reviews

        run(main())

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
    def test_has_a_threshold_from_0_to_1(self, threshold: float) -> None:
        async def main() -> None:
            with pytest.raises(ValueError, match="from 0 to 1"):
                await run_pipeline(Agents(), item(), min_confidence=threshold)

        run(main())


@pytest.mark.parametrize("role", PIPELINE)
def test_a_step_that_fails_ends_it(role: Role) -> None:
    async def main() -> None:
        agents = Agents(**{role: ["it broke"]})
        result = await run_pipeline(agents, item())
        assert (result.success, result.error) == (False, f"the {role} failed: it broke")
        assert agents.seen[-1][0] == role

    run(main())


def test_a_step_that_was_cancelled_cancels_it() -> None:
    async def main() -> None:
        assert (await run_pipeline(Agents(executor=["cancelled"]), item())).error == "cancelled"

    run(main())


def test_the_item_has_to_fit() -> None:
    async def main() -> None:
        with pytest.raises(ContractError):
            await run_pipeline(Agents(), {"id": "1"})

    run(main())


@pytest.mark.usefixtures("warm_workers")
def test_over_a_real_chain_a_rejection_leads_to_a_second_attempt(bare: Mapping[str, str]) -> None:
    prompts: list[str] = []
    verdicts = [REJECTED, APPROVED]

    def answer(request: Request) -> Ok:
        prompts.append(request.prompt)
        properties = (request.schema or {}).get("properties", {})
        if "approved" in properties:
            return Ok(text=json.dumps(verdicts.pop(0)))
        return (
            Ok(text=json.dumps({"summary": "A book.", "artifacts": []}))
            if "artifacts" in properties
            else think(request)
        )

    async def main() -> None:
        with LoopbackServer(answer=answer) as server:
            env = {**bare, **server.env({"groq": 1}), "GROQ_LIMITS": "none"}
            async with Supervisor(dict.fromkeys(PIPELINE, 1), env=env) as supervisor:
                result = await run_pipeline(supervisor, item(description="Write a book."))
            assert result.success, result.error
            assert result.data is not None
            assert (result.data["attempts"], result.data["verdict"]) == (2, APPROVED)
            assert result.served_by is not None
            assert sum(server.hits("groq").values()) == 5

    run(main())
    # Plan, attempt, review, attempt with the feedback, review.
    assert ["The second chapter is missing." in prompt for prompt in prompts] == [False, False, False, True, False]
    assert "turned down attempt 1" in prompts[3]
    assert all("Write a book." in prompt for prompt in prompts)
