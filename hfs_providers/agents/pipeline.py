"""A piece of work from end to end: it is planned, carried out and reviewed, and done again if the review says so."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import count
from typing import Any, Final, Protocol

from pydantic import JsonValue

from hfs_providers.agents.contract import CANCELLED, Phase, Role, WorkItem, WorkResult, read_item

PIPELINE: Final[tuple[Role, ...]] = ("orchestrator", "executor", "reviewer")
"""The roles that a supervisor needs for it."""
MOST_ATTEMPTS: Final = 3
MIN_CONFIDENCE: Final = 0.5
"""The reviewer is asked again if its confidence, 0 to 1, is below this."""
MOST_REVIEWS: Final = 2
"""How often one attempt is reviewed."""
_MOST_FEEDBACK: Final = 50_000


class Works(Protocol):
    """Something that gives work to agents, such as a `Supervisor`."""

    async def work(self, role: Role, item: WorkItem | Mapping[str, Any]) -> WorkResult:
        """Have a piece of work done."""


async def run_pipeline(
    supervisor: Works,
    item: WorkItem | Mapping[str, Any],
    attempts: int = MOST_ATTEMPTS,
    min_confidence: float = MIN_CONFIDENCE,
) -> WorkResult:
    """Plan, carry out and review a piece of work. After an attempt that the reviewer rejects there is another, which
    gets `review_feedback`, `review_attempt` and the earlier artifacts. A reviewer that is not confident is asked once
    more and sees its first verdict; an approval that is still not confident counts as a rejection.

    Args:
        supervisor: has agents of the three roles.
        item: the work; its timeout holds for each step.
        attempts: the largest number of times that it is carried out.
        min_confidence: the confidence, 0 to 1, under which the reviewer is asked again; 0 never asks again.

    Returns:
        A result that succeeded if an attempt was approved. Its data has those of `plan`, `artifacts`, `verdict` and
        `attempts` that were reached, and `served_by` is who served the last step.

    Raises:
        ContractError: the item does not fit, or one with its id is pending.
        ValueError: `min_confidence` is not from 0 to 1.
    """
    if not 0 <= min_confidence <= 1:
        raise ValueError("min_confidence must be from 0 to 1")
    run = _Run(supervisor, read_item(item), min_confidence)
    try:
        return await run.through(attempts)
    except _StepFailedError as failed:
        last = failed.result
        return run.ended(last, CANCELLED if last.error == CANCELLED else f"the {failed.role} failed: {last.error}")


class _StepFailedError(Exception):
    """A step ended without the data that the next step needs."""

    def __init__(self, role: Role, result: WorkResult) -> None:
        super().__init__(role)
        self.role = role
        self.result = result


class _Run:
    """One piece of work in progress."""

    def __init__(self, supervisor: Works, item: WorkItem, min_confidence: float) -> None:
        self._supervisor = supervisor
        self._item = item
        self._min_confidence = min_confidence
        self._begun = time.monotonic()
        self._made: dict[str, JsonValue] = {}

    async def through(self, attempts: int) -> WorkResult:
        """Plan it once, then carry it out and review it, up to `attempts` times."""
        item, made = self._item, self._made
        planned = await self._step("orchestrator", "full_spec_to_plan", review_feedback=None, review_attempt=None)
        made["plan"] = planned.data
        feedback, turned_down = item.review_feedback, item.review_attempt
        for attempt in count(1):
            context: dict[str, JsonValue] = {**item.context, "plan": planned.data}
            if "artifacts" in made:
                context["artifacts"] = made["artifacts"]
            done = await self._step(
                "executor", "plan_to_artifacts", context=context, review_feedback=feedback, review_attempt=turned_down
            )
            made["artifacts"], made["attempts"] = done.data, attempt
            reviewed, verdict, confident = await self._review({**context, "artifacts": done.data})
            approved = verdict.get("approved") is True
            if approved and confident:
                return self.ended(reviewed, None)
            feedback, turned_down = _feedback(verdict), (turned_down or 0) + 1
            if approved:
                doubt = f"The reviewer approved this with a confidence below {self._min_confidence:g}."
                feedback = f"{doubt}\n{feedback}"[:_MOST_FEEDBACK]
            if attempt == attempts:
                break
        return self.ended(reviewed, f"the reviewer turned down {attempts} attempts, the last with: {feedback}")

    def ended(self, last: WorkResult, error: str | None) -> WorkResult:
        """The result of the whole, after its last step."""
        return WorkResult(
            item_id=self._item.id,
            success=error is None,
            data=self._made,
            error=error,
            duration=time.monotonic() - self._begun,
            served_by=last.served_by,
        )

    async def _review(self, context: dict[str, JsonValue]) -> tuple[WorkResult, dict[str, Any], bool]:
        """The reviewer's result, its verdict, and whether it is confident."""
        for _ in range(MOST_REVIEWS):
            reviewed = await self._step(
                "reviewer", "complete", context=context, review_feedback=None, review_attempt=None
            )
            if reviewed.data is None:
                raise _StepFailedError("reviewer", reviewed)
            self._made["verdict"] = verdict = reviewed.data
            confident = _confidence(verdict) >= self._min_confidence
            if confident:
                break
            context = {**context, "earlier_verdict": verdict}
        return reviewed, verdict, confident

    async def _step(self, role: Role, phase: Phase, **changes: object) -> WorkResult:
        result = await self._supervisor.work(role, self._item.model_copy(update={"phase": phase, **changes}))
        if not result.success:
            raise _StepFailedError(role, result)
        return result


def _confidence(verdict: Mapping[str, Any]) -> float:
    confidence = verdict.get("confidence")
    # A worker of another implementation may leave it out.
    return confidence if isinstance(confidence, (int, float)) else 1.0


def _feedback(verdict: Mapping[str, Any]) -> str:
    """The feedback for the next attempt, from a reviewer's verdict."""
    issues = [f"- {issue['severity']}: {issue['description']}" for issue in verdict.get("issues", ())]
    return "\n".join([str(verdict.get("feedback", "")), *issues])[:_MOST_FEEDBACK]
