"""The base of the checks: the server, an environment with three keys, a manager, and what a provider may lack."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import pytest
from agno.agent import Agent
from agno.models.message import Message
from agno.run.base import RunStatus

from hfs_providers import ProviderManager
from hfs_providers.authoring import Event, ModelDefault
from hfs_providers.contract.environment import env_name
from hfs_providers.testing.dialects import Dialect
from hfs_providers.testing.protocols import dialect_of
from hfs_providers.testing.server import LoopbackServer
from hfs_providers.testing.spoken import built_in

KEYS = 3

CAPABILITIES: Mapping[str, str] = {
    "async": "its model can be awaited",
    "streaming": "it streams",
    "tools": "its models call tools",
    "usage": "its answers say how many tokens they used",
    "stream_usage": "its streams say how many tokens they used",
    "payment": "it refuses a key without credits with 402 or a code of its own",
    "retry_after": "the SDK's error has the wait that a refusal names",
    "context_overflow": "it says so if the messages do not fit into the context window",
    "end_mark": "a stream that was cut off, and an empty answer, can be distinguished from complete ones",
    "shared_connections": "its keys share one pool of connections",
    "timeouts": "the SDK accepts a timeout",
    "successors": "the plugin names more than one default model",
    "model_listing": "its models can be listed",
}
"""The capabilities that a plugin may declare in `lacks`, each with what a provider with it can do."""

F = TypeVar("F", bound=Callable[..., Any])


def needs(*capabilities: str) -> Callable[[F], F]:
    """Mark a check that is skipped if the provider lacks one of `capabilities`."""
    unknown = set(capabilities) - set(CAPABILITIES)
    assert not unknown, unknown

    def mark(check: F) -> F:
        check.__dict__["needs"] = capabilities
        return check

    return mark


def of_type(step: object) -> str:
    """The name of a step in the name of a check."""
    status = getattr(step, "status", "")
    return f"{type(step).__name__}{status}"


class Base:
    """See `ProviderConformance`."""

    plugin: ClassVar[Any] = None
    dialect: ClassVar[Dialect | None] = None
    lacks: ClassVar[Mapping[str, str]] = {}

    # Fixtures

    @pytest.fixture(autouse=True)
    def _able(self, request: pytest.FixtureRequest) -> None:
        for capability in getattr(request.function, "needs", ()):
            if capability in self.lacks:
                pytest.skip(f"{self.name} lacks {capability}: {self.lacks[capability]}")

    @pytest.fixture
    def server(self) -> Iterator[LoopbackServer]:
        """The simulated provider."""
        dialect = self._spoken()
        with LoopbackServer(dialects=[] if dialect is None else [dialect]) as server:
            if dialect is not None:
                server.set_models(self.name, [model.id for model in self._defaults()])
            yield server

    @pytest.fixture
    def env(self, server: LoopbackServer) -> dict[str, str]:
        """An environment with three keys (or endpoints) of the provider, and no database."""
        return server.env({self.name: KEYS})

    @pytest.fixture
    def keys(self, env: dict[str, str], server: LoopbackServer) -> list[str]:
        """The keys, by the names that the server's scripts and counts use."""
        if not self._keyless():
            return [env[f"{self.upper}_API_KEY_{number}"] for number in range(1, KEYS + 1)]
        base_path = self._known(server).base_path
        urls = [env[f"{self.upper}_ENDPOINT_{number}"] for number in range(1, KEYS + 1)]
        return [url.removesuffix(base_path).rpartition("/")[2] for url in urls]

    @pytest.fixture
    def manager(self, env: dict[str, str]) -> Iterator[ProviderManager]:
        """A manager with only this provider. Pauses before retries take no time."""
        with ProviderManager(env=env, plugins=[self.plugin]) as manager:
            if self.name not in manager.wrappers:
                own = (each for each in manager.problems if each.provider == self.name)
                pytest.fail("\n".join(f"{each.message}. {each.remedy}" for each in own))
            self._wrapper(manager).backend.sleep = lambda seconds: None
            yield manager

    @pytest.fixture
    def events(self, manager: ProviderManager) -> list[Event]:
        """The events that the manager has sent to its observers."""
        seen: list[Event] = []
        manager.observe(seen.append)
        return seen

    # What checks use

    @property
    def name(self) -> str:
        """The provider's name."""
        name = getattr(self.plugin, "name", None)
        return name if isinstance(name, str) else str(getattr(self.plugin, "__name__", "")).rpartition(".")[2]

    @property
    def upper(self) -> str:
        """The provider's name in environment variables."""
        return env_name(self.name)

    def _defaults(self) -> Sequence[ModelDefault]:
        empty: Any = self.plugin.configure_env({})
        models: Sequence[ModelDefault] = self.plugin.default_model(empty)
        return models

    def _spoken(self) -> Dialect | None:
        """The dialect to add to the server, or None if the server knows the provider."""
        if self.dialect is not None:
            if self.dialect.provider != self.name:
                pytest.fail(f"the dialect is for {self.dialect.provider!r}, but the plugin is {self.name!r}")
            return self.dialect
        if self.name in built_in():
            return None
        plugin = self.plugin
        client, sdk = getattr(plugin, "client", None), getattr(plugin, "sdk", None)
        dialect = dialect_of(self.name, client, sdk, getattr(plugin, "keyless", False))
        if dialect is not None:
            return dialect
        pytest.fail(f"{type(self).__name__} needs an attribute `dialect`: the protocol of {self.name} is not known")

    def _known(self, server: LoopbackServer) -> Dialect:
        return self._spoken() or built_in()[self.name]

    def _keyless(self) -> bool:
        dialect = self._spoken()
        return dialect is not None and dialect.keyless

    def _wrapper(self, manager: ProviderManager) -> Any:
        return manager.wrappers[self.name]

    def _states(self, manager: ProviderManager) -> list[str]:
        return [status.state for status in self._wrapper(manager).pool.statuses()]

    def _nothing_held(self, manager: ProviderManager) -> bool:
        counts = self._wrapper(manager).pool.counts(manager.default_model(self.name))
        return (counts.in_flight, counts.reserved_tokens) == (0, 0)

    def _in_the_process(self, env: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        """Put `env` into the process environment, and remove what could contradict it."""
        for variable in list(os.environ):
            if variable.startswith(("HFS_", f"{self.upper}_", f"NUM_{self.upper}", f"EXPECTED_{self.upper}")):
                monkeypatch.delenv(variable)
        for variable, value in env.items():
            monkeypatch.setenv(variable, value)
        # A process that a check starts must find the same modules.
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))


def run(model: Any, prompt: str = "hello", **options: Any) -> Any:
    """One agent run. Fails the check if the run ended in an error, because Agno does not raise it."""
    result = Agent(model=model, telemetry=False, **options).run(prompt)
    assert result.status == RunStatus.completed, result.content
    return result


def contents(events: Iterable[Any]) -> list[str]:
    """The pieces of an agent's streamed answer."""
    return [str(event.content) for event in events if event.event == "RunContent"]


def hello() -> list[Message]:
    """The messages of a call below the agent."""
    return [Message(role="user", content="hello")]


def ask(model: Any, **options: Any) -> str:
    """One call below the agent, where errors are raised."""
    return str(model.response(messages=hello(), **options).content)


def stream(model: Any) -> list[str]:
    """One stream below the agent."""
    deltas = model.response_stream(messages=hello())
    return [delta.content for delta in deltas if isinstance(delta.content, str) and delta.content]
