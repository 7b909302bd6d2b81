"""What a worker answers to each method. It handles messages and agents, and knows nothing about pipes and processes."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hfs_providers import __version__
from hfs_providers.agents import wire
from hfs_providers.agents.contract import (
    CANCELLED,
    Active,
    AgentEvent,
    AgentState,
    ContractError,
    EventKind,
    Idle,
    Role,
    SessionInfo,
    Unavailable,
    WorkItem,
    WorkResult,
)
from hfs_providers.agents.roles import AgentUnavailableError, RoleAgent, create_agent
from hfs_providers.agents.state import Record
from hfs_providers.agents.wire import RpcError

_log = logging.getLogger("hfs_providers.agents")
# What an answer needs around its result.
_ROOM_FOR_A_RESULT = wire.LINE_LIMIT - 4096


class Service:
    """The methods of a worker of one role.

    Args:
        send: writes a line; its second argument says whether the line may be dropped while nobody reads.
        on_shutdown: called after `shutdown` was answered.
    """

    def __init__(
        self,
        role: Role,
        send: Callable[[bytes, bool], object],
        on_shutdown: Callable[[], object],
        create: Callable[[str, Mapping[str, Any]], RoleAgent] = create_agent,
    ) -> None:
        self._role = role
        self._send = send
        self._on_shutdown = on_shutdown
        self._create = create
        self._record = Record(time.monotonic)
        self._sessions: dict[str, RoleAgent] = {}
        self._resting: AgentState = Idle()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = False
        self.initialized = asyncio.Event()
        self._methods: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[Any]]] = {
            "initialize": self._initialize,
            "start_session": self._start_session,
            "send_work": self._send_work,
            "cancel": self._cancel,
            "health": self._health,
            "stop_session": self._stop_session,
            "shutdown": self._shutdown,
        }

    def receive(self, line: bytes | wire.TooLong) -> None:
        """Handle a line. Its answer is sent later; further lines may be handled before that."""
        try:
            if isinstance(line, wire.TooLong):
                raise wire.Refusal(
                    None, RpcError(wire.INVALID_REQUEST, f"invalid request: over {wire.LINE_LIMIT} bytes")
                )
            if not line.strip():
                return
            try:
                message = wire.decode(line)
            except ValueError as error:
                raise wire.Refusal(None, RpcError(wire.PARSE_ERROR, f"not JSON: {error}")) from None
            call = wire.read_call(message)
        except wire.Refusal as refusal:
            if refusal.answered:
                self._send(wire.encode(wire.error_answer(refusal.id, refusal.error)), False)
            return
        task = asyncio.get_running_loop().create_task(self._answer(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, call: wire.Call) -> None:
        try:
            line = wire.encode(wire.answer(call.id, await self._called(call)))
        except RpcError as error:
            line = wire.encode(wire.error_answer(call.id, error))
        except Exception as error:
            # A bug here must not leave the caller without an answer.
            _log.exception("%s failed", call.method)
            told = RpcError(wire.INTERNAL_ERROR, f"{call.method} failed: {type(error).__name__}")
            line = wire.encode(wire.error_answer(call.id, told))
        if call.answered:
            self._send(line, False)
        if call.method == "shutdown" and self.initialized.is_set():
            self._on_shutdown()

    async def _called(self, call: wire.Call) -> Any:
        method = self._methods.get(call.method)
        if method is None:
            raise RpcError(wire.METHOD_NOT_FOUND, "there is no such method", {"methods": list(self._methods)})
        if call.method != "initialize" and not self.initialized.is_set():
            raise RpcError(wire.NOT_INITIALIZED, "call initialize first")
        return await method(call.params)

    async def close(self) -> None:
        """Cancel all work and wait until every request is answered."""
        # A session that is being started adds itself to the sessions only when it is there.
        while self._tasks:
            await self._stop_sessions()
            if self._tasks:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    async def _stop_sessions(self) -> None:
        sessions = list(self._sessions.values())
        self._sessions.clear()
        await asyncio.gather(*(agent.stop_session() for agent in sessions))

    # Methods

    async def _initialize(self, params: Mapping[str, Any]) -> dict[str, Any]:
        versions = params.get("protocol_versions")
        if not isinstance(versions, list):
            raise RpcError(wire.INVALID_PARAMS, "protocol_versions must be a list of numbers")
        if wire.PROTOCOL_VERSION not in versions:
            supported = {"supported": [wire.PROTOCOL_VERSION]}
            raise RpcError(wire.NO_COMMON_VERSION, "no protocol version in common", supported)
        if self.initialized.is_set():
            raise RpcError(wire.INVALID_REQUEST, "initialize was called before")
        self.initialized.set()
        return {
            "protocol_version": wire.PROTOCOL_VERSION,
            "server": {"name": "hfs-providers", "version": __version__},
            "role": self._role,
            "pid": os.getpid(),
            "capabilities": {"progress": True, "cancel": True, "sessions": True},
        }

    async def _start_session(self, params: Mapping[str, Any]) -> dict[str, Any]:
        config = params.get("config", {})
        if not isinstance(config, dict):
            raise RpcError(wire.INVALID_PARAMS, "config must be an object")
        try:
            agent = self._create(self._role, config)
            session_id = await agent.start_session()
        except (AgentUnavailableError, ContractError) as error:
            reason = error.reason if isinstance(error, AgentUnavailableError) else str(error)
            self._resting = Unavailable(reason=reason)
            return {"session_id": None, "state": self._resting.dump()}
        self._sessions[session_id] = agent
        self._resting = agent.state
        self._event("agent_started")
        return {"session_id": session_id, "state": agent.state.dump()}

    async def _send_work(self, params: Mapping[str, Any]) -> dict[str, Any]:
        agent = self._session(params)
        try:
            item = WorkItem.read(_with_timeout(params))
        except ContractError as error:
            self._failed(str(error), None)
            raise RpcError(
                wire.INVALID_PARAMS, "the item breaks the contract", {"errors": list(error.errors)}
            ) from None
        if item.id in agent.pending:
            raise RpcError(wire.ALREADY_PENDING, "an item with this id is being worked on", {"item_id": item.id})
        session_id = agent.session_id

        def progress(stage: str, message: str) -> None:
            told = {"session_id": session_id, "item_id": item.id, "stage": stage, "message": message}
            self.notify("progress", {**told, "at": time.time()})

        result = _fitting(await agent.work(item, progress))
        self._resting = agent.state
        self._record.note(result)
        if result.success:
            self._event("agent_completed", item.id)
        else:
            self._event("agent_failed", item.id, result.error)
            if result.error != CANCELLED:
                self._failed(result.error or "", item.id)
        return result.dump()

    async def _cancel(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return {"cancelled": self._session(params).cancel(_text(params, "item_id"))}

    async def _health(self, params: Mapping[str, Any]) -> dict[str, Any]:
        able = not isinstance(self._state, Unavailable)
        return self._record.health(able, self._state, sessions=self._session_infos).dump()

    async def _stop_session(self, params: Mapping[str, Any]) -> dict[str, Any]:
        agent = self._session(params)
        del self._sessions[str(agent.session_id)]
        return {"stopped": await agent.stop_session()}

    async def _shutdown(self, params: Mapping[str, Any]) -> dict[str, Any]:
        if self._ending:
            return {}
        self._ending = True
        await self._stop_sessions()
        # All other callers get their answers before this one.
        others = self._tasks - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)
        return {}

    def _session(self, params: Mapping[str, Any]) -> RoleAgent:
        session_id = _text(params, "session_id")
        agent = self._sessions.get(session_id)
        if agent is None:
            raise RpcError(wire.UNKNOWN_SESSION, "there is no such session", {"session_id": session_id})
        return agent

    # Notifications

    async def beat(self, interval: float) -> None:
        """Send a heartbeat at once after `initialize`, and then every `interval` seconds."""
        await self.initialized.wait()
        while True:
            sessions = [info.dump() for info in self._session_infos]
            self.notify("heartbeat", {"at": time.time(), "state": self._state.dump(), "sessions": sessions})
            await asyncio.sleep(interval)

    def notify(self, method: str, params: Mapping[str, Any]) -> None:
        """Send the client a notification."""
        self._send(wire.encode(wire.notification(method, params)), True)

    @property
    def _state(self) -> AgentState:
        states = [agent.state for agent in self._sessions.values()]
        return next((state for state in states if isinstance(state, Active)), self._resting)

    @property
    def _session_infos(self) -> list[SessionInfo]:
        return [SessionInfo(session_id=name, state=agent.state) for name, agent in self._sessions.items()]

    def _failed(self, error: str, item_id: str | None) -> None:
        degraded = self._record.error(error)
        self._event("agent_error_recorded", item_id, error)
        if degraded:
            self._event("agent_health_degraded", item_id, f"{self._record.errors} errors since the last success")

    def _event(self, kind: EventKind, item_id: str | None = None, message: str | None = None) -> None:
        event = AgentEvent(
            kind=kind,
            at=time.time(),
            role=self._role,
            pid=os.getpid(),
            item_id=item_id,
            state=self._state,
            error_count=self._record.errors,
            message=message,
        )
        self.notify("event", event.model_dump(mode="json", exclude_none=True))


def _text(params: Mapping[str, Any], name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str):
        raise RpcError(wire.INVALID_PARAMS, f"{name} must be a text")
    return value


def _with_timeout(params: Mapping[str, Any]) -> object:
    """The item, with the timeout that the call gives it instead of its own."""
    item, timeout = params.get("item"), params.get("timeout")
    return {**item, "timeout": timeout} if isinstance(item, dict) and timeout is not None else item


def _fitting(result: WorkResult) -> WorkResult:
    """The result, or a failure if it is too long to be sent."""
    try:
        size = len(wire.encode(result.dump()))
    except ValueError as error:
        return WorkResult.failed(result.item_id, f"the result cannot be sent: {error}", result.duration)
    if size <= _ROOM_FOR_A_RESULT:
        return result
    return WorkResult.failed(result.item_id, f"the result is too long to be sent: {size} bytes", result.duration)
