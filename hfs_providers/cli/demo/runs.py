"""The real side of the demo: Agno agents over the public API, and the manager's events of their calls."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hfs_providers.cli.agno_runs import agno_agent, error_of, read_stream
from hfs_providers.cli.demo.stage import Stage

if TYPE_CHECKING:
    from hfs_providers import Event, ProviderManager
    from hfs_providers.usage import UsageRow

ANY_PROVIDER = "any provider"
# One round over the providers each; the plain runs come first in every phase's share.
_PATTERN = ("sync", "stream", "tool", "async", "async", "sync", "sync", "async")
_SCENES = {
    "sync": "Agents, one after another",
    "stream": "Streaming",
    "tool": "With a tool",
    "async": "All at once (async)",
}
# An observer records the calls, and learns from it whose call it is: each task has its own.
_running: ContextVar[str] = ContextVar("hfs_demo_agent")


@dataclass
class AgentLog:
    """What one agent did. `served` counts the answered calls by provider, model and key id."""

    runs: int = 0
    answered: int = 0
    served: Counter[tuple[str, str, str]] = field(default_factory=Counter)


def weather(city: str) -> str:
    """Say what the weather is like in a city."""
    return f"sunny, 21 degrees, in {city}"


class Runs:
    """Runs the demo and records what happened; `say` gets each line as it happens."""

    def __init__(
        self, manager: ProviderManager, stage: Stage, providers: Sequence[str], say: Callable[[str], object]
    ) -> None:
        self._manager = manager
        self._stage = stage
        self._say = say
        self.providers = list(providers)
        self.agents: dict[str, AgentLog] = {}
        self.rows: list[UsageRow] = []
        self.rotations: Counter[str] = Counter()
        self.errors: list[str] = []

    def observe(self, event: Event) -> None:
        """Record an event of the manager."""
        row = event.usage
        if row is not None:
            self.rows.append(row)
            agent = _running.get(None)
            if row.outcome == "ok" and agent is not None:
                self.agents[agent].served[row.provider, row.model, row.key_id] += 1
        elif event.kind == "key_rotated" and event.key_id is not None:
            self.rotations[event.key_id] += 1
        elif event.kind == "key_cooling":
            self._say(f"  {event.key_id} cools down for {event.seconds or 0:.0f} s: {event.reason}")
        elif event.kind == "key_dead":
            self._say(f"  {event.key_id} is dead: {event.reason}")

    def play(self, calls: int) -> None:
        """Run the agents `calls` times in all."""
        at_the_end = max(1, calls // 10)
        shares: dict[str, list[str]] = {kind: [] for kind in _SCENES}
        for number in range(calls - at_the_end):
            lap, place = divmod(number, len(self.providers))
            shares[_PATTERN[lap % len(_PATTERN)]].append(self.providers[place])
        # All runs begin alike: as one conversation they would show one key of each provider.
        models = {name: self._manager.get_model(name, affinity=None) for name in self.providers}
        for kind, share in shares.items():
            if share:
                self._say(f"{_SCENES[kind]}: {len(share)} runs")
            for provider in share:
                # In the order of the play, not in that in which concurrent calls end.
                self.agents.setdefault(f"{provider}, {kind}", AgentLog())
            if kind == "async":
                asyncio.run(self._together(models, share))
                continue
            for provider in share:
                agent = f"{provider}, {kind}"
                _running.set(agent)
                self._count(agent, self._run(models[provider], kind))
        self._wherever_a_key_is_free(at_the_end)

    async def _together(self, models: dict[str, Any], share: Sequence[str]) -> None:
        async def one(provider: str) -> None:
            agent = f"{provider}, async"
            _running.set(agent)
            run = await agno_agent(models[provider]).arun("Say hello.")
            try:
                error = error_of(run)
            except KeyboardInterrupt:
                # Among tasks, the event loop itself passes Ctrl-C on to the caller.
                raise asyncio.CancelledError from None
            self._count(agent, error)

        await asyncio.gather(*(one(provider) for provider in share))

    def _wherever_a_key_is_free(self, runs: int) -> None:
        """The last scene: the first provider's keys run out, so `get_any_model` turns to the next one."""
        self._say(f"Any provider: {runs} runs")
        first = self._manager.available_providers[0]
        if len(self.providers) > 1:
            self._say(f"  (from here on, every key of {first} answers 429)")
            self._stage.run_out(first)
        _running.set(ANY_PROVIDER)
        self.agents[ANY_PROVIDER] = AgentLog()
        for _ in range(runs):
            error: str | None = None
            for provider, model in self._choices():
                error = self._run(model, "sync")
                if error is None:
                    break
                self._say(f"  {provider} could not serve; asking for any model again")
            self._count(ANY_PROVIDER, error)

    def _choices(self) -> Iterator[tuple[str, Any]]:
        # Each provider can turn out exhausted once.
        for _ in self.providers:
            yield self._manager.get_any_model(affinity=None)

    def _run(self, model: Any, kind: str) -> str | None:
        """Run an agent once. Returns the error, or None."""
        if kind == "stream":
            return read_stream(agno_agent(model).run("Say hello.", stream=True), lambda piece: None)[0]
        if kind == "tool":
            run = agno_agent(model, tools=[weather]).run("Bergen")
            used = [tool.result for tool in run.tools or ()]
            return error_of(run) or (None if weather("Bergen") in used else "the tool was not called")
        return error_of(agno_agent(model).run("Say hello."))

    def _count(self, agent: str, error: str | None) -> None:
        self.agents[agent].runs += 1
        if error is None:
            self.agents[agent].answered += 1
        else:
            self.errors.append(f"{agent}: {error}")
            self._say(f"  {agent} failed: {error}")
