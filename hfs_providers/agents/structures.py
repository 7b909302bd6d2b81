"""The structure of `WorkResult.data` for each role, which its model has to fill.

The schemas of these models go to providers, so they use only what all of them take: types, lists, enumerations and
descriptions. Anthropic, for one, refuses bounds of numbers in a schema.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field


def _from_0_to_1(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("it has to be from 0 to 1")
    return value


class Step(BaseModel):
    """A step of a plan."""

    title: str
    instructions: str = Field(description="what the executor has to do")
    acceptance: str = Field(description="how to check that it is done")


class Plan(BaseModel):
    """What an orchestrator gives."""

    summary: str
    steps: list[Step]


class Change(BaseModel):
    """A change that an optimizer made."""

    what: str
    why: str


class Improvement(BaseModel):
    """What an optimizer gives."""

    summary: str
    improved: str = Field(description="the whole improved text")
    changes: list[Change]


class Issue(BaseModel):
    """Something that a reviewer found."""

    severity: Literal["blocker", "major", "minor"]
    description: str


class Verdict(BaseModel):
    """What a reviewer gives."""

    approved: bool
    confidence: Annotated[float, AfterValidator(_from_0_to_1)] = Field(
        description="how sure the verdict is, from 0 (a guess) to 1 (certain)"
    )
    feedback: str = Field(description="what has to change, or why it is good")
    issues: list[Issue]


class Artifact(BaseModel):
    """Something that an executor made."""

    name: str = Field(description="a file name or a title")
    content: str = Field(description="the whole of it")


class Artifacts(BaseModel):
    """What an executor gives."""

    summary: str
    artifacts: list[Artifact]


ROLE_DATA: tuple[type[BaseModel], ...] = (Plan, Improvement, Artifacts, Verdict)
"""One for each role."""
