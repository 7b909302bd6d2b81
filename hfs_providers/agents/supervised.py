"""One agent under supervision: the starts of its worker, its work, and its errors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from hfs_providers import HfsProvidersError, __version__
from hfs_providers.agents import wire
from hfs_providers.agents.bridge import Bridge, Notified, WorkerDiedError
from hfs_providers.agents.contract import (
    CANCELLED,
    Active,
    AgentConfig,
    AgentEvent,
    AgentSnapshot,
    AgentState,
    ContractError,
    EventKind,
    Idle,
    Role,
    Unavailable,
    Waiting,
    WorkResult,
    state_after,
    timed_out,
)
from hfs_providers.agents.queueing import Job
from hfs_providers.agents.state import MOST_RESTARTS, Clock, Record, Restarts

_log = logging.getLogger("hfs_providers.agents")

START_WITHIN: Final = 60.0
"""Seconds that a worker may take until it has a session."""
SILENT_HEARTBEATS: Final = 3
"""A worker that misses this many heartbeats counts as stuck."""


Connect = Callable[[Role, Notified], Awaitable[Bridge]]
"""Starts a worker of a role."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the agents of one supervisor share.

    Args:
        changed: called when an agent can do more or less than before.
        heartbeat: seconds between a worker's heartbeats.
        grace: seconds that a worker has to obey, before it is killed.
    """

    connect: Connect
    publish: Callable[[AgentEvent], object]
    changed: Callable[[], object]
    heartbeat: float
    grace: float
    clock: Clock
    sleep: Callable[[float], Awaitable[object]]

    async def within(self, work: asyncio.Future[Any], seconds: float) -> bool:
        """Wait for something for at most that long, without cancelling it. Returns whether it is done."""
        timer = asyncio.ensure_future(self.sleep(seconds))
        try:
            await asyncio.wait([work, timer], return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
        return work.done()


class SupervisedAgent:
    """An agent, in whichever process it runs at the moment. Its name looks like `executor#1`."""

    def __init__(self, name: str, role: Role, config: AgentConfig, around: Surroundings) -> None:
        self.name = name
        self.role = role
        self._config = config
        self._around = around
        self._link: Bridge | None = None
        self._session_id: str | None = None
        self._jobs: dict[str, Job] = {}
        self._resting: AgentState = Waiting(reason="not started yet")
        self._record = Record(around.clock)
        self._restarts = Restarts(around.clock)
        self._last_restart: float | None = None
        self._started = False
        self._heard = 0.0
        self._tired = asyncio.Event()
        self._quiet = asyncio.Event()
        self._wanted = asyncio.Event()
        self.settled = asyncio.Event()
        """Set when it is first known whether it can work."""
        self._life: asyncio.Task[None] | None = None

    # What others see

    @property
    def ready(self) -> bool:
        """Whether it takes work."""
        return self._session_id is not None and not self._tired.is_set()

    @property
    def working(self) -> int:
        """How many items it works on."""
        return len(self._jobs)

    @property
    def unavailable(self) -> str | None:
        """Why it cannot work and will not recover by itself, or None."""
        return self._resting.reason if isinstance(self._resting, Unavailable) else None

    @property
    def state(self) -> AgentState:
        """What it is doing."""
        return Active(task=next(iter(self._jobs))) if self._jobs else self._resting

    @property
    def pid(self) -> int | None:
        """The process id of its worker."""
        return None if self._link is None else self._link.pid

    def snapshot(self) -> AgentSnapshot:
        """Its state at this moment."""
        health = self._record.health(self.ready, self.state, last_restart=self._last_restart)
        return AgentSnapshot(agent=self.name, role=self.role, pid=self.pid, working=self.working, health=health)

    def _tell(self, kind: EventKind, message: str | None = None, item_id: str | None = None) -> None:
        event = AgentEvent(
            kind=kind,
            at=time.time(),
            agent=self.name,
            role=self.role,
            pid=self.pid,
            item_id=item_id,
            state=self.state,
            error_count=self._record.errors,
            message=message,
        )
        self._around.publish(event)

    # Its life

    def start(self) -> None:
        """Start its supervision; see `settled`."""
        self._life = asyncio.create_task(self._live(), name=f"supervise {self.name}")

    def try_again(self) -> bool:
        """Let an unavailable agent try to start once more, if its pause is over. Returns whether it will."""
        if self.unavailable is None or self._restarts.given_up:
            return False
        self._resting = Waiting(reason="starting again")
        self._wanted.set()
        return True

    async def stop(self) -> None:
        """End its worker; its work is answered as cancelled. Takes a bounded time, and is safe to call twice."""
        self._session_id = None
        if self._life is not None:
            self._life.cancel()
            await asyncio.wait([self._life])
        if self._link is not None:
            await self._link.stop(self._around.grace)
        self._link = None
        self._resting = Waiting(reason="stopped")
        self.settled.set()
        self._tell("agent_stopped")

    async def _live(self) -> None:
        while True:
            try:
                reason = await self._live_until_given_up()
            except Exception as error:
                # A bug here must not leave work waiting for an agent that is not supervised.
                _log.exception("the supervision of %s failed", self.name)
                await self._end_worker()
                reason = f"its supervision failed: {type(error).__name__}"
            self._restarts.give_up()
            self._resting = Unavailable(reason=reason)
            self._wanted.clear()
            self._tell("agent_unavailable", reason)
            self.settled.set()
            self._around.changed()
            await self._wanted.wait()

    async def _live_until_given_up(self) -> str:
        """Start the worker, and replace it as often as is allowed. Returns why it is not replaced any more."""
        failed_starts = 0
        while True:
            problem = await self._begin()
            if problem is None:
                failed_starts = 0
                self._tell("agent_restarted" if self._started else "agent_started")
                self._started = True
                self._around.changed()
                why = await self._until_it_has_to_begin_anew()
            else:
                why = problem.reason
                if problem.hopeless:
                    return why
                self._failed(why)
                failed_starts += 1
            # Slow starts that fail are never too many within the window.
            if not self._restarts.allow() or failed_starts > MOST_RESTARTS:
                return f"given up after {MOST_RESTARTS} restarts; last error: {why}"

    async def _begin(self) -> _Problem | None:
        """Start a worker and its session. Returns why that failed, or None."""
        self._resting = Waiting(reason="starting")
        self._heard = self._around.clock()
        try:
            self._link = await self._around.connect(self.role, self._notified)
        except OSError as error:
            return _Problem(f"its worker cannot be started: {error.strerror or error}", hopeless=True)
        opening = asyncio.create_task(self._open_session(self._link))
        try:
            in_time = await self._around.within(opening, START_WITHIN)
            problem = opening.result() if in_time else _Problem(f"it did not start within {START_WITHIN:g} s", True)
        except WorkerDiedError as error:
            problem = _Problem(f"its worker did not start: {error}")
        except HfsProvidersError as error:
            problem = _Problem(f"its worker did not start: {error}", hopeless=True)
        finally:
            opening.cancel()
        if problem is None:
            self._record.clear_errors()
            self._tired.clear()
            self._resting = Idle()
            self._last_restart = time.time() if self._started else None
            self.settled.set()
            return None
        await self._end_worker()
        return problem

    async def _open_session(self, link: Bridge) -> _Problem | None:
        client = {"name": "hfs-providers", "version": __version__}
        await link.call("initialize", {"protocol_versions": [wire.PROTOCOL_VERSION], "client": client})
        answer = await link.call("start_session", {"config": self._config.model_dump(mode="json", exclude_none=True)})
        session_id = answer.get("session_id") if isinstance(answer, dict) else None
        if isinstance(session_id, str):
            self._session_id = session_id
            return None
        state = answer.get("state") if isinstance(answer, dict) else None
        reason = state.get("reason") if isinstance(state, dict) else None
        return _Problem(str(reason or "its worker returned neither a session nor a reason"), hopeless=True)

    async def _until_it_has_to_begin_anew(self) -> str:
        """Wait until the worker has gone. Returns why it has to be replaced."""
        link = self._link
        assert link is not None
        tired: asyncio.Future[Any] = asyncio.create_task(self._tired.wait())
        silent: asyncio.Future[Any] = asyncio.create_task(self._until_silent())
        ends: list[asyncio.Future[Any]] = [link.ended, tired, silent]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if link.ended.done():
                why = f"worker process {link.pid} {link.ended.result()}"
                self._failed(why)
            elif silent.done():
                why = f"no sign of life for {SILENT_HEARTBEATS * self._around.heartbeat:g} s"
                self._failed(why)
                link.kill()
            else:
                why = self._record.last_error or "it was ended from outside"
                await self._until_quiet(link)
        finally:
            tired.cancel()
            silent.cancel()
        await self._end_worker()
        return why

    async def _until_quiet(self, link: Bridge) -> None:
        """Wait until the work in progress has ended; its timeouts bound the wait."""
        while self._jobs and not link.ended.done():
            self._quiet.clear()
            quiet = asyncio.create_task(self._quiet.wait())
            ends: list[asyncio.Future[Any]] = [link.ended, quiet]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            quiet.cancel()

    async def _until_silent(self) -> None:
        bound = SILENT_HEARTBEATS * self._around.heartbeat
        while (left := self._heard + bound - self._around.clock()) > 0:
            await self._around.sleep(left)

    async def _end_worker(self) -> None:
        link, self._session_id = self._link, None
        self._resting = Waiting(reason="restarting")
        if link is not None:
            await link.stop(self._around.grace)
        self._link = None

    def _notified(self, method: str, params: Mapping[str, Any]) -> None:
        self._heard = self._around.clock()
        if method == "heartbeat":
            self._tell("heartbeat")
        elif method == "progress":
            item_id = params.get("item_id")
            known = item_id if isinstance(item_id, str) and item_id in self._jobs else None
            self._tell("progress", f"{params.get('stage')}: {params.get('message')}", known)

    def _failed(self, error: str, item_id: str | None = None) -> None:
        degraded = self._record.error(error)
        self._tell("agent_error_recorded", error, item_id)
        if degraded:
            self._tell("agent_health_degraded", f"{self._record.errors} errors since the last success", item_id)
        if self._record.ask_for_restart:
            self._tired.set()

    # Its work

    def work(self, job: Job) -> Awaitable[bool]:
        """Do a job and answer it. Returns False if its worker died and the job is to be done again."""
        assert self._link is not None
        # At once, so that the next dispatch sees it.
        self._jobs[job.item.id] = job
        return self._work(job, self._link, self._session_id)

    async def _work(self, job: Job, link: Bridge, session_id: str | None) -> bool:
        item = job.item
        begun = self._around.clock()
        params = {"session_id": session_id, "item": item.dump(), "timeout": item.timeout}
        call = asyncio.ensure_future(link.call("send_work", params))

        def gone(answer: asyncio.Future[WorkResult]) -> None:
            if answer.cancelled():
                self._cancel_soon(link, job)

        job.answer.add_done_callback(gone)
        try:
            in_time = await self._around.within(call, item.timeout)
            if not in_time:
                self._cancel_soon(link, job)
                if not await self._around.within(call, self._around.grace):
                    # It does not react to the cancellation either.
                    link.kill()
                    await asyncio.wait([call])
            result = self._result_of(call, job, in_time, self._around.clock() - begun)
        finally:
            call.cancel()
            del self._jobs[item.id]
            self._quiet.set()
        if result is None:
            return False
        self._note(result, died=link.ended.done())
        job.finish(result)
        return True

    def _result_of(self, call: asyncio.Future[Any], job: Job, in_time: bool, duration: float) -> WorkResult | None:
        """The result of the call; None if its worker died and the job may be done again."""
        item = job.item
        try:
            result = WorkResult.read(call.result())
            if result.item_id != item.id:
                raise ContractError("WorkResult", (f"item_id: it is not {item.id!r}",))
            if result.error == CANCELLED and in_time and self._session_id is not None and not job.answer.done():
                # Nobody here cancelled it: the worker is being ended from outside, as by a SIGTERM.
                self._tired.set()
                raise WorkerDiedError(self.pid or 0, "was ended from outside")
        except WorkerDiedError as error:
            if in_time and item.idempotent and not job.retried and not job.answer.done():
                return None
            told = f"its worker died: {error}" if in_time else timed_out(item)
            return WorkResult.failed(item.id, told, duration)
        except HfsProvidersError as error:
            return WorkResult.failed(item.id, str(error), duration)
        if not in_time and not result.success:
            return result.model_copy(update={"error": timed_out(item)})
        return result

    def _note(self, result: WorkResult, died: bool) -> None:
        """What the result means for the agent; its worker may have died."""
        if self.ready:
            self._resting = state_after(result)
        self._record.note(result)
        if result.success:
            self._restarts.worked()
            self._tell("agent_completed", item_id=result.item_id)
            return
        self._tell("agent_failed", result.error, result.item_id)
        # The death of a worker is one error, however many items it had.
        if result.error != CANCELLED and not died:
            self._failed(result.error or "no reason given", result.item_id)

    def _cancel_soon(self, link: Bridge, job: Job) -> None:
        if job.item.id in self._jobs and not link.ended.done():
            params = {"session_id": self._session_id, "item_id": job.item.id}
            asking = asyncio.ensure_future(_quietly(link.call("cancel", params)))
            _BACKGROUND.add(asking)
            asking.add_done_callback(_BACKGROUND.discard)


@dataclass(frozen=True, slots=True)
class _Problem:
    """Why an agent did not start. If it is hopeless, another try at once would fail in the same way."""

    reason: str
    hopeless: bool = False


# The loop itself holds tasks weakly.
_BACKGROUND: set[asyncio.Future[None]] = set()


async def _quietly(call: Awaitable[Any]) -> None:
    with suppress(HfsProvidersError):
        await call
