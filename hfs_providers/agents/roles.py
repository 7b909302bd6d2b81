"""The four roles: their instructions, and the Agno agent behind each. `structures` has the data of their results.

agent = create_agent("reviewer")
await agent.start_session()
result = await agent.work(item)
await agent.stop_session()
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from hfs_providers import HfsProvidersError, ProviderManager, get_provider_manager
from hfs_providers.agents.contract import (
    CANCELLED,
    ROLES,
    Active,
    AgentConfig,
    AgentState,
    ContractError,
    Idle,
    Role,
    Server,
    Unavailable,
    WorkItem,
    WorkResult,
    read_item,
    state_after,
    texts_of,
    timed_out,
)
from hfs_providers.agents.structures import Artifacts, Improvement, Plan, Verdict
from hfs_providers.contract.environment import TIER

if TYPE_CHECKING:
    from agno.agent import Agent

    from hfs_providers import FallbackChain

Progress = Callable[[str, str], object]
"""Receives a stage and a message."""

_MOST_MISFITS = 5


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """What makes a role: instructions for the model, and the structure of the result's data."""

    instructions: str
    output: type[BaseModel]


ROLE_SPECS: Mapping[Role, RoleSpec] = {
    "orchestrator": RoleSpec(
        "You plan. Divide the work into the fewest steps that one executor can carry out one after the other. "
        "Each step is complete in itself and says how one sees that it is done.",
        Plan,
    ),
    "optimizer": RoleSpec(
        "You improve what you are given, be it a prompt, a specification or a plan: clearer, complete, without "
        "contradictions. Keep its intent. Return the whole improved text and say what you changed and why.",
        Improvement,
    ),
    "reviewer": RoleSpec(
        "You review work against what was asked for. Approve it only if it is complete and right. Otherwise say in "
        "the feedback exactly what has to change, so that whoever did it can do it without asking. Say how sure you "
        "are of the verdict. An earlier_verdict in the context was too unsure: check again what it was unsure of.",
        Verdict,
    ),
    "executor": RoleSpec(
        "You carry out the work and return its artifacts in full, never an outline of them. Where a reviewer's "
        "feedback on an earlier attempt is given, every point of it has to be met.",
        Artifacts,
    ),
}


class AgentUnavailableError(HfsProvidersError):
    """An agent that cannot work; `reason` says why, with the fix."""

    def __init__(self, role: str, reason: str) -> None:
        self.role = role
        self.reason = reason
        super().__init__(f"the {role} is unavailable: {reason}")


def create_agent(
    role: str, config: AgentConfig | Mapping[str, Any] | None = None, *, manager: ProviderManager | None = None
) -> RoleAgent:
    """An agent of a role, over a fallback chain of this library's models.

    Args:
        role: orchestrator, optimizer, reviewer or executor.
        config: see `AgentConfig`.
        manager: makes the models; by default the manager of the process.

    Raises:
        ContractError: there is no such role, or the config does not fit.
    """
    known = next((name for name in ROLES if name == role), None)
    if known is None:
        raise ContractError("role", (f"{role!r} is none of {', '.join(ROLES)}",))
    return RoleAgent(known, config if isinstance(config, AgentConfig) else AgentConfig.read(config or {}), manager)


class RoleAgent:
    """An agent with at most one session; made by `create_agent`. Any number of items may be worked on at once."""

    def __init__(self, role: Role, config: AgentConfig, manager: ProviderManager | None) -> None:
        self.role = role
        self.config = config
        self.session_id: str | None = None
        self._manager = manager
        self._chain: FallbackChain | None = None
        self._pending: dict[str, asyncio.Task[WorkResult]] = {}
        self._resting: AgentState = Idle()

    def __repr__(self) -> str:
        return f"RoleAgent({self.role}, {self.state.state})"

    @property
    def state(self) -> AgentState:
        """What it is doing."""
        oldest = next(iter(self._pending), None)
        return self._resting if oldest is None else Active(task=oldest)

    @property
    def pending(self) -> frozenset[str]:
        """The ids of the items that it works on."""
        return frozenset(self._pending)

    async def start_session(self) -> str:
        """Make the chain, unless there is a session already. Returns the id of the session. Raises
        AgentUnavailableError."""
        if self.session_id is None:
            try:
                # SDKs are imported here, which takes time.
                self._chain = await asyncio.to_thread(self._build)
            except AgentUnavailableError as error:
                self._resting = Unavailable(reason=error.reason)
                raise
            self.session_id = uuid.uuid4().hex
            self._resting = Idle()
        return self.session_id

    def _build(self) -> FallbackChain:
        import agno.agent  # noqa: F401  not at the first work, where it would count against the work's time

        manager = self._manager or get_provider_manager()
        try:
            if self.config.models is not None:
                return manager.get_chain(*self.config.models)
            tier = self.config.tier or (self.role if _has_tier(manager, self.role) else None)
            if tier is not None:
                return manager.get_chain(tier=tier)
            if not manager.available_providers:
                raise AgentUnavailableError(self.role, _why_none(manager))
            return manager.get_chain()
        except AgentUnavailableError:
            raise
        except HfsProvidersError as error:
            raise AgentUnavailableError(self.role, str(error)) from error
        except Exception as error:
            # An SDK that is broken may raise anything while it is imported.
            raise AgentUnavailableError(self.role, f"{type(error).__name__}: {error}") from error

    async def work(self, item: WorkItem | Mapping[str, Any], progress: Progress | None = None) -> WorkResult:
        """Do a piece of work within its timeout. Errors of the work are in the result; they are not raised.

        Args:
            progress: called with a stage (`started`, `answered`) and a message.

        Raises:
            ContractError: the item does not fit, or one with its id is being worked on.
            AgentUnavailableError: no session was started.
        """
        item = read_item(item)
        if self._chain is None:
            raise AgentUnavailableError(self.role, "no session was started")
        if item.id in self._pending:
            raise ContractError("WorkItem", (f"id: {item.id!r} is being worked on",))
        begun = time.monotonic()
        task = asyncio.create_task(self._done(item, self._chain, begun, progress or _ignored))
        self._pending[item.id] = task
        try:
            await asyncio.wait([task])
        finally:
            # Only cancelling the caller leads here, not cancelling the item.
            task.cancel()
            del self._pending[item.id]
        cancelled = WorkResult.failed(item.id, CANCELLED, time.monotonic() - begun)
        result = cancelled if task.cancelled() else task.result()
        if self.session_id is not None:
            self._resting = state_after(result)
        return result

    async def _done(self, item: WorkItem, chain: FallbackChain, begun: float, progress: Progress) -> WorkResult:
        progress("started", f"{self.role} begins {item.id}")
        try:
            async with asyncio.timeout(item.timeout):
                content, error = await self._asked(item, chain)
        except TimeoutError:
            content, error = None, timed_out(item)
        except Exception as failure:
            # Whatever a model or an SDK raises fails this work alone.
            content, error = None, f"{type(failure).__name__}: {failure}"
        duration = time.monotonic() - begun
        by = chain.served_by
        server = None if by is None else Server(provider=by.provider, model=by.model, others=dict(by.others))
        if content is None:
            return WorkResult.failed(item.id, error, duration, server)
        progress("answered", f"{item.id} was answered" + (f" by {by.provider}/{by.model}" if by else ""))
        data = content.model_dump(mode="json")
        return WorkResult(item_id=item.id, success=True, data=data, duration=duration, served_by=server)

    async def _asked(self, item: WorkItem, chain: FallbackChain) -> tuple[BaseModel | None, str]:
        """The structured answer, or None and why there is none."""
        from agno.run.base import RunStatus

        # One agent for each item: items at work at once share nothing but the chain.
        run = await self._agno_agent(chain).arun(prompt_of(item), session_id=f"{self.session_id}:{item.id}")
        if run.status != RunStatus.completed:
            # Agno returns a run with error status, whose content is the error's message.
            return None, str(run.content or run.status.value)
        expected = ROLE_SPECS[self.role].output
        if not isinstance(run.content, expected):
            why = _why_it_does_not_fit(run.content, expected)
            return None, f"the model's answer does not have the structure of {expected.__name__}: {why}"
        return run.content, ""

    def _agno_agent(self, chain: FallbackChain) -> Agent:
        from agno.agent import Agent

        spec = ROLE_SPECS[self.role]
        return Agent(
            name=self.role,
            model=chain,
            instructions=[spec.instructions, *([self.config.instructions] if self.config.instructions else ())],
            output_schema=spec.output,
            # It would post each run to Agno.
            telemetry=False,
        )

    def cancel(self, item_id: str) -> bool:
        """Cancel the work on an item, which then fails. Returns whether there was such work."""
        task = self._pending.get(item_id)
        return task is not None and not task.done() and task.cancel()

    async def stop_session(self) -> bool:
        """Cancel all work and end the session. Returns whether there was one."""
        existed = self.session_id is not None
        self.session_id = self._chain = None
        tasks = list(self._pending.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._resting = Idle()
        return existed


def prompt_of(item: WorkItem) -> str:
    """The message to the model about a piece of work."""
    parts = [f"Phase: {item.phase}", item.description]
    if item.context:
        parts.append(f"Context:\n{json.dumps(item.context, indent=2, ensure_ascii=False)}")
    if item.review_feedback is not None:
        attempts = item.review_attempt or 1
        parts.append(f"A reviewer turned down attempt {attempts}. The feedback to meet:\n{item.review_feedback}")
    return "\n\n".join(parts)


def _why_it_does_not_fit(content: object, expected: type[BaseModel]) -> str:
    """The fields of an answer that break its structure, without any text of the answer."""
    text = str(content or "").rpartition("</think>")[2]
    # Models put fences and sentences around their JSON.
    begin, end = text.find("{"), text.rfind("}")
    if not text.strip():
        return "it is empty"
    if begin < 0 or end < begin:
        return "it is not a JSON object"
    try:
        expected.model_validate_json(text[begin : end + 1])
    except ValidationError as error:
        texts = texts_of(error)
        more = len(texts) - _MOST_MISFITS
        return "; ".join(texts[:_MOST_MISFITS]) + (f"; and {more} more" if more > 0 else "")
    return "there is text around it"


def _ignored(stage: str, message: str) -> None:
    """The default for `progress`: does nothing."""


def _has_tier(manager: ProviderManager, name: str) -> bool:
    tiers = {tier.lower() for tier in manager.inventory.file.tiers}
    variable = manager.inventory.settings.env.get(f"{TIER}{name.upper()}", "")
    return name in tiers or bool(variable.strip())


def _why_none(manager: ProviderManager) -> str:
    reasons = [problem.message for problem in manager.problems if problem.level == "error"]
    installed = ", ".join(manager.installed_providers) or "none is installed"
    return (
        f"no provider can be used ({'; '.join(reasons) or 'no API key is set'}; installed: {installed}). "
        "Set for example NUM_GROQ=1 and GROQ_API_KEY_1, or run `hfs-providers doctor`"
    )
