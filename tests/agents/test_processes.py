"""A supervisor over real worker processes, real SDKs and a real server."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.agents import ROLES, Role, Supervisor, WorkResult
from hfs_providers.agents.bridge import Bridge, WorkerDiedError, worker_command
from hfs_providers.testing import LoopbackServer, ServerError
from tests.agents.fleet import run
from tests.agents.workers import DEADLINE, item
from tests.long import takes_long

posix = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


def alive(pid: int) -> bool:
    """Whether there is such a process; a zombie is one."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pid_of(supervisor: Supervisor, role: Role) -> int:
    pid = next(shot.pid for shot in supervisor.snapshot() if shot.role == role)
    assert pid is not None
    return pid


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that other processes bring about."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)


async def held(gate: Any, number: int) -> bool:
    return await asyncio.to_thread(gate.wait_for, number, DEADLINE)


@posix
@pytest.mark.usefixtures("warm_workers")
def test_from_start_to_end(env: Mapping[str, str], server: LoopbackServer) -> None:
    """One supervisor for all, because each of its workers takes a while to start."""

    async def main() -> None:
        async with Supervisor(env=env, heartbeat=0.5) as supervisor:
            events = supervisor.events()
            await four_healthy_agents(supervisor)
            await an_item_is_served_and_the_server_saw_it(supervisor)
            await three_at_once_and_never_more_than_four(supervisor)
            await a_killed_worker_costs_one_failure_or_one_retry(supervisor)
            await five_failures_restart_the_agent(supervisor)
            await heartbeats_are_seen(supervisor)
            pids = [shot.pid for shot in supervisor.snapshot()]
        assert all(pid is not None and not alive(pid) for pid in pids)
        told = [event.kind async for event in events]
        assert told[-1] == "supervisor_stopped"
        assert told.count("agent_stopped") == len(ROLES)

    async def four_healthy_agents(supervisor: Supervisor) -> None:
        shots = supervisor.snapshot()
        assert [shot.role for shot in shots] == list(ROLES)
        assert all(shot.health.is_healthy for shot in shots)
        assert len({shot.pid for shot in shots}) == 4

    async def heartbeats_are_seen(supervisor: Supervisor) -> None:
        seen = set()
        with supervisor.events() as events:
            async for event in events:
                if event.kind == "heartbeat":
                    seen.add(event.role)
                if seen == {*ROLES}:
                    return

    async def an_item_is_served_and_the_server_saw_it(supervisor: Supervisor) -> None:
        before = len(server.seen)
        result = await supervisor.work("optimizer", item())
        assert result.success
        assert result.served_by is not None
        seen = [(seen.provider, seen.model) for seen in server.seen[before:]]
        assert seen == [(result.served_by.provider, result.served_by.model)]

    async def three_at_once_and_never_more_than_four(supervisor: Supervisor) -> None:
        with server.hold() as gate:
            works = [asyncio.create_task(supervisor.work("executor", item(n))) for n in range(3)]
            assert await held(gate, 3)
            works += [asyncio.create_task(supervisor.work("reviewer", item(n))) for n in range(9)]
            assert await held(gate, 4)
            assert sum(shot.working for shot in supervisor.snapshot()) == 4
            # A fifth would show itself within this time.
            assert not await asyncio.to_thread(gate.wait_for, 5, 0.3)
        assert all(result.success for result in await asyncio.gather(*works))

    async def a_killed_worker_costs_one_failure_or_one_retry(supervisor: Supervisor) -> None:
        killed = pid_of(supervisor, "executor")
        before = sum(server.hits().values())
        with server.hold() as gate:
            lost = asyncio.create_task(supervisor.work("executor", item("lost")))
            again = asyncio.create_task(supervisor.work("executor", item("again", idempotent=True)))
            assert await held(gate, 2)
            os.kill(killed, signal.SIGKILL)
            assert "killed by signal 9" in str((await lost).error)
        assert (await again).success
        assert pid_of(supervisor, "executor") != killed
        assert not alive(killed)
        assert sum(server.hits().values()) == before + 3

    async def five_failures_restart_the_agent(supervisor: Supervisor) -> None:
        first = pid_of(supervisor, "orchestrator")
        server.script("groq", "*", [], then=ServerError(500))
        server.script("cerebras", "*", [], then=ServerError(500))
        with supervisor.events() as events:
            for number in range(5):
                assert not (await supervisor.work("orchestrator", item(number))).success
            server.reset()
            async for event in events:
                if event.kind == "agent_restarted":
                    break
        assert pid_of(supervisor, "orchestrator") != first
        assert event.pid == pid_of(supervisor, "orchestrator")
        # The circuits of the chain are the process's own, so a new one asks anew.
        assert (await supervisor.work("orchestrator", item())).success

    run(main())


@posix
@pytest.mark.usefixtures("warm_workers")
def test_without_any_provider_every_role_is_unavailable_and_says_why(bare: Mapping[str, str]) -> None:
    async def main() -> None:
        async with Supervisor(env=bare) as supervisor:
            for shot in supervisor.snapshot():
                assert shot.health.state.state == "unavailable"
                assert not shot.health.is_healthy
                assert "GROQ_API_KEY_1" in str(supervisor.unavailable(shot.role))
            assert not (await supervisor.work("executor", item())).success

    run(main())


@linux
@takes_long
def test_a_thousand_items_through_four_workers_are_answered_once_each_in_flat_memory(
    env: Mapping[str, str], server: LoopbackServer
) -> None:
    async def main() -> None:
        async with Supervisor({"executor": 4}, env=env) as supervisor:
            pids = [pid for shot in supervisor.snapshot() if (pid := shot.pid) is not None]
            results: list[WorkResult] = []
            grown: list[dict[int, int]] = []
            for part in range(5):
                numbers = range(200 * part, 200 * (part + 1))
                results += await asyncio.gather(*(supervisor.work("executor", item(number)) for number in numbers))
                gc.collect()
                grown.append({pid: resident_kib(pid) for pid in (*pids, os.getpid())})
        assert sorted(int(result.item_id) for result in results) == list(range(1000))
        assert all(result.success for result in results)
        # After the first 400, which fill caches, 600 more; what leaked a request each would show as more than this.
        for pid in pids:
            assert grown[-1][pid] - grown[1][pid] < 12 * 1024
        assert grown[-1][os.getpid()] - grown[1][os.getpid()] < 24 * 1024

    before = sum(server.hits().values())
    run(main())
    assert sum(server.hits().values()) == before + 1000


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


ORPHANS = """
import asyncio, os, signal, sys
from hfs_providers.agents import Supervisor

async def main():
    async with Supervisor({"executor": 2}) as supervisor:
        print(*(shot.pid for shot in supervisor.snapshot()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@posix
def test_workers_do_not_outlive_a_supervisor_that_is_killed(env: Mapping[str, str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ORPHANS], env=dict(env), cwd=tmp_path, capture_output=True, text=True)
    pids = [int(pid) for pid in done.stdout.split()]
    assert (len(pids), done.returncode) == (2, -signal.SIGKILL)

    async def main() -> None:
        await until(lambda: not any(map(running, pids)))

    run(main())


def running(pid: int) -> bool:
    """Whether it runs; who adopts an orphan may take its time to bury it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return alive(pid) and not Path("/proc").exists()
    return state != "Z"


class TestABridge:
    """To programs that are no workers."""

    @staticmethod
    async def to(program: str) -> Bridge:
        return await Bridge.start([sys.executable, "-c", program], lambda method, params: None)

    def test_says_how_its_worker_died_and_what_it_said_last(self) -> None:
        async def main() -> None:
            bridge = await self.to("import sys; sys.exit('no disk left')")
            with pytest.raises(WorkerDiedError, match="exited with code 1; it said: no disk left"):
                await bridge.call("initialize", {})
            assert bridge.ended.done()

        run(main())

    def test_passes_over_what_is_no_message(self) -> None:
        async def main() -> None:
            bridge = await self.to(
                "import sys\n"
                "print('hello'); print('[]'); print('{\"id\": 77, \"result\": 1}'); print('x' * (5 * 2**20))\n"
                'print(\'{"id": 1, "result": "here"}\', flush=True); sys.stdin.read()'
            )
            assert await bridge.call("anything", {}) == "here"
            await bridge.stop(0.05)

        run(main())

    @posix
    def test_ends_one_that_neither_listens_nor_heeds_sigterm(self) -> None:
        async def main() -> None:
            bridge = await self.to(
                "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                'print(\'{"method": "ready"}\', flush=True)\nwhile True: time.sleep(1)'
            )
            call = asyncio.create_task(bridge.call("initialize", {}))
            await asyncio.sleep(0)
            await bridge.stop(0.05)
            with pytest.raises(WorkerDiedError, match="killed by signal"):
                await call
            assert not alive(bridge.pid)

        run(main())

    def test_of_a_command_that_is_not_there_is_an_os_error(self) -> None:
        async def main() -> None:
            with pytest.raises(OSError, match="nowhere"):
                await Bridge.start(["/nowhere/at/all"], lambda method, params: None)

        run(main())

    def test_to_a_worker_of_this_installation(self, env: Mapping[str, str]) -> None:
        async def main() -> None:
            told: list[str] = []
            command = worker_command("reviewer", 30)
            bridge = await Bridge.start(command, lambda method, params: told.append(method), env)
            answer = await bridge.call("initialize", {"protocol_versions": [1]})
            assert (answer["role"], answer["pid"]) == ("reviewer", bridge.pid)
            await bridge.stop(DEADLINE)
            assert bridge.ended.result() == "exited with code 0"
            assert "heartbeat" in told

        run(main())
