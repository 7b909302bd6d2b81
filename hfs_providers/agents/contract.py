"""What agents, workers and supervisors say to one another: work in, results out, states, health, events.

The models are strict: data that does not fit raises `ContractError` and is never coerced. `json_schema()` gives them
all as one JSON schema for supervisors in other languages; it is kept in `docs/agents.schema.json`. Instants are Unix
seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, model_validator
from pydantic.json_schema import models_json_schema

from hfs_providers import HfsProvidersError
from hfs_providers.agents.structures import ROLE_DATA

CANCELLED = "cancelled"
"""The error of a result whose work was cancelled."""

Role = Literal["orchestrator", "optimizer", "reviewer", "executor"]
ROLES: tuple[Role, ...] = get_args(Role)
Phase = Literal["prompt_to_spec", "spec_to_full_spec", "full_spec_to_plan", "plan_to_artifacts", "complete"]
EventKind = Literal[
    "agent_started",
    "agent_completed",
    "agent_failed",
    "agent_error_recorded",
    "agent_health_degraded",
    "agent_restarted",
    "agent_unavailable",
    "agent_stopped",
    "heartbeat",
    "progress",
    "events_lost",
    "supervisor_stopped",
]


_MOST_PARTS = 8


class ContractError(HfsProvidersError):
    """Data that breaks the contract.

    Args:
        what: what the data should have been.
        errors: where it is wrong and how, one text for each error; no value of the data is repeated.
    """

    def __init__(self, what: str, errors: tuple[str, ...]) -> None:
        self.what = what
        self.errors = errors
        super().__init__(f"not a valid {what}: {'; '.join(errors)}. The contract is in docs/agents.schema.json")


class Contract(BaseModel):
    """Base of what goes over the wire: strict, immutable, closed to unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    @classmethod
    def read(cls, data: object) -> Self:
        """The model for decoded JSON. Raises ContractError if the data does not fit."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ContractError(cls.__name__, texts_of(error)) from None

    def dump(self) -> dict[str, Any]:
        """As a value that JSON can hold."""
        return self.model_dump(mode="json")


def texts_of(error: ValidationError) -> tuple[str, ...]:
    """Where data is wrong and how, one text for each error, without any value of the data."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # The place in deeply nested data can be as long.
    return tuple(f"{'.'.join(map(str, item['loc'][:_MOST_PARTS])) or 'it'}: {item['msg']}" for item in found)


class WorkItem(Contract):
    """A piece of work.

    Args:
        id: identifies it among the pending work.
        phase: of the larger task that it belongs to.
        priority: 10 is the most urgent.
        review_feedback: what a reviewer said about the previous attempt.
        review_attempt: how many attempts a reviewer has rejected.
        context: anything else that the agent should know.
        timeout: seconds that the work may take.
        idempotent: whether it may be done again if its worker died.
    """

    id: str = Field(min_length=1, max_length=256)
    description: str = Field(min_length=1, max_length=50_000)
    phase: Phase
    priority: int = Field(default=5, ge=0, le=10)
    review_feedback: str | None = Field(default=None, max_length=50_000)
    review_attempt: int | None = Field(default=None, ge=0)
    context: dict[str, JsonValue] = Field(default_factory=dict)
    timeout: float = Field(default=60.0, gt=0, le=86_400, allow_inf_nan=False)
    idempotent: bool = False


class AgentConfig(Contract):
    """How an agent of a role is made.

    Args:
        models: its chain, as `provider` or `provider/model`, in order of preference.
        tier: instead, the tier that the chain is taken from. Without either, it is the tier with the role's name if
            there is one, else every provider that can be used.
        instructions: added to the role's own instructions.
    """

    models: list[str] | None = Field(default=None, min_length=1)
    tier: str | None = Field(default=None, min_length=1)
    instructions: str | None = Field(default=None, max_length=50_000)

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.models is not None and self.tier is not None:
            raise ValueError("give models or a tier, not both")
        return self


class Server(Contract):
    """Who answered the model call, and why the chain's other entries did not.

    Args:
        provider, model: which answered.
        others: by `provider/model`, why entries that were asked or passed over before it did not answer.
    """

    provider: str
    model: str
    others: dict[str, str] = Field(default_factory=dict)


class WorkResult(Contract):
    """The result of a piece of work.

    Args:
        data: the role's structured result: a `Plan`, `Improvement`, `Artifacts` or `Verdict`.
        error: why it was not done; `cancelled` if it was cancelled.
        memory_ids: of what the agent remembered. The four roles keep no memory, so their list is always empty.
        duration: seconds.
        served_by: the provider and model that answered.
    """

    item_id: str
    success: bool
    data: dict[str, JsonValue] | None = None
    error: str | None = None
    memory_ids: list[str] = Field(default_factory=list)
    duration: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    served_by: Server | None = None

    @classmethod
    def failed(cls, item_id: str, error: str, duration: float = 0.0, served_by: Server | None = None) -> WorkResult:
        """The result of work that was not done."""
        return cls(item_id=item_id, success=False, error=error, duration=duration, served_by=served_by)


def timed_out(item: WorkItem) -> str:
    """The error of work that exceeded its timeout."""
    return f"timed out after {item.timeout:g} s"


class Idle(Contract):
    """Ready for work."""

    state: Literal["idle"] = "idle"


class Active(Contract):
    """Working. Args: task: the id of the item that it has worked on the longest."""

    state: Literal["active"] = "active"
    task: str


class Waiting(Contract):
    """Not ready yet."""

    state: Literal["waiting"] = "waiting"
    reason: str


class Completed(Contract):
    """Its last work was done. The result lacks its data, which was in the answer."""

    state: Literal["completed"] = "completed"
    result: WorkResult


class Failed(Contract):
    """Its last work failed."""

    state: Literal["failed"] = "failed"
    error: str


class Unavailable(Contract):
    """It cannot work."""

    state: Literal["unavailable"] = "unavailable"
    reason: str


AgentState = Annotated[
    Idle | Active | Waiting | Completed | Failed | Unavailable,
    Field(discriminator="state"),
]
"""What an agent is doing. The field `state` names the state."""


def state_after(result: WorkResult) -> Completed | Failed:
    """The state of an agent after work with this result."""
    if result.success:
        return Completed(result=result.model_copy(update={"data": None}))
    return Failed(error=result.error or "no reason given")


class SessionInfo(Contract):
    """A session of a worker."""

    session_id: str
    state: AgentState


class AgentHealth(Contract):
    """The health of an agent.

    Args:
        is_healthy: whether it can work and has fewer than three errors in a row.
        error_count: errors since its last success.
        last_error: the latest of them.
        last_restart: when it was last restarted, or None.
        succeeded, failed: numbers of items, without those that were cancelled. A supervisor counts from its own
            start, a worker from the start of its process.
        success_rate: the share of items that succeeded, 0 to 1, or None before the first.
        mean_duration: seconds that an item took on average, or None before the first.
        sessions: of a worker, if the worker itself reports its health.
    """

    is_healthy: bool
    error_count: int = Field(ge=0)
    last_error: str | None = None
    last_restart: float | None = None
    succeeded: int = Field(default=0, ge=0)
    failed: int = Field(default=0, ge=0)
    success_rate: float | None = Field(default=None, ge=0, le=1)
    mean_duration: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    state: AgentState
    sessions: list[SessionInfo] = Field(default_factory=list)


class AgentSnapshot(Contract):
    """One agent of a supervisor at one moment.

    Args:
        agent: its name, such as `executor#1`.
        pid: of its worker's process, or None if there is none.
        working: how many items it works on.
    """

    agent: str
    role: Role
    pid: int | None
    working: int
    health: AgentHealth


class AgentEvent(Contract):
    """Something that happened to an agent.

    Args:
        agent, role, pid: the agent concerned; None if it is not about a single agent.
        item_id: the work that it is about.
        state: the agent's, afterwards.
        error_count: the agent's, afterwards.
        count: with `events_lost`, how many events were lost because this subscriber was too slow.
    """

    kind: EventKind
    at: float
    agent: str | None = None
    role: Role | None = None
    pid: int | None = None
    item_id: str | None = None
    state: AgentState | None = None
    error_count: int | None = None
    message: str | None = None
    count: int | None = None


def json_schema() -> dict[str, Any]:
    """Everything that goes over the wire, as one JSON schema (2020-12) with a definition for each model."""
    wire = (AgentConfig, WorkItem, WorkResult, AgentHealth, AgentSnapshot, AgentEvent, SessionInfo)
    models: tuple[type[BaseModel], ...] = (*wire, *ROLE_DATA)
    _, schema = models_json_schema([(model, "validation") for model in models], title="hfs-providers agents")
    schema["$defs"]["AgentState"] = TypeAdapter(AgentState).json_schema(ref_template="#/$defs/{model}")
    schema["$defs"]["AgentState"].pop("$defs", None)
    # The schema sent to a model has no bounds of numbers; see `structures`.
    schema["$defs"]["Verdict"]["properties"]["confidence"] |= {"minimum": 0, "maximum": 1}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def read_item(data: Mapping[str, Any] | WorkItem) -> WorkItem:
    """A work item from decoded JSON, or unchanged. Raises ContractError if the data does not fit."""
    return data if isinstance(data, WorkItem) else WorkItem.read(data)
