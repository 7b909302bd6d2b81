"""Three lives of a gateway under load: one ended by SIGTERM in the middle, one by SIGKILL, and one that lasts."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvloop

from tests.fleet.fleet import ROOT, clean
from tests.gateway.soak.books import read_rows, settle
from tests.gateway.soak.client import Client, Ending
from tests.gateway.soak.process import TURNS
from tests.gateway.soak.provider import SoakServer
from tests.gateway.soak.turns import late
from tests.loopback_process import LoopbackProcess
from tests.sharing.redis_server import eventually, free_port

PROVIDERS = ("cerebras", "groq", "gemini", "openrouter")
_KEYS = 8
_SAMPLED = 0.25
# From when on memory is compared: caches and connections are filled by then.
_WARM = 0.3
# Seconds.
_NOTICED = 5.0


@dataclass(frozen=True)
class Plan:
    """A soak.

    Args:
        requests: of all lives together.
        seconds: after which no more are sent.
        connections: that ask at the same time.
        seed: of every draw.
        at_risk: seconds of rows that `kill -9` may cost, on a machine where each thread gets its turn at once.
        growth: bytes by which the memory of the last life may grow: limits count a minute's requests.
    """

    requests: int
    seconds: float = float("inf")
    connections: int = 64
    seed: int = 1
    at_risk: float = 0.1
    growth: int = 16 * 2**20


@dataclass
class Report:
    """What came of it."""

    plan: Plan
    seconds: float = 0.0
    endings: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    missing: int = 0
    """Hits without a row: only a kill may cost any."""

    held: list[Mapping[str, list[int]]] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    """Resident bytes of the last life, sampled."""

    wrong: list[str] = field(default_factory=list)

    @property
    def growth(self) -> int:
        """Bytes by which the last life has grown since it was warm."""
        warm = self.memory[int(len(self.memory) * _WARM) :]
        tenth = max(1, len(warm) // 10)
        return sum(warm[-tenth:]) // tenth - sum(warm[:tenth]) // tenth if warm else 0

    def __str__(self) -> str:
        total = self.endings.total()
        lines = [
            f"{total} requests in {self.seconds:.1f} s ({total / max(self.seconds, 1e-9):.0f}/s), "
            f"{self.plan.connections} connections, seed {self.plan.seed}",
            f"  endings: {_told(self.endings)}",
            f"  errors: {_told(self.codes)}",
            f"  hits at the providers: {self.hits.total()} ({_told(self.hits)})",
            f"  rows: {self.rows.total()} ({_told(self.rows)}); lost by the kill: {self.missing}",
            f"  held at the end of the lives that ended by themselves: {self.held}",
            f"  memory of the last life: {max(self.memory, default=0) / 2**20:.1f} MB at most, "
            f"grown by {self.growth / 2**20:.1f} MB since it was warm",
            f"  wrong: {len(self.wrong)}",
            *(f"    {line}" for line in self.wrong[:20]),
        ]
        return "\n".join(lines)


class Soak:
    """One run.

    Args:
        plan: how much of it.
        directory: for the usage file and the gateway's log.
    """

    def __init__(self, plan: Plan, directory: Path) -> None:
        self.plan = plan
        self.report = Report(plan)
        self._usage = directory / "usage.db"
        self._log = directory / "log"
        self._directory = directory
        self._port = free_port()
        self._begun = 0
        self._asking: set[int] = set()
        self._last_row = 0

    def run(self) -> Report:
        """Begin, and wait until all of it has ended."""
        with LoopbackProcess(SoakServer, seed=self.plan.seed) as server:
            env = server.env(dict.fromkeys(PROVIDERS, _KEYS))
            keys = [value for name, value in env.items() if "_API_KEY_" in name]
            self._secrets = re.compile("|".join(map(re.escape, keys)).encode())
            for provider in PROVIDERS:
                server.bury(provider, env[f"{provider.upper()}_API_KEY_1"])
            limits = {f"{provider.upper()}_LIMITS": "rpm=10_000_000" for provider in PROVIDERS}
            paths = {"HFS_USAGE_DB": str(self._usage), "HFS_CONFIG": os.devnull, "PYTHONPATH": str(ROOT)}
            self._env = {**clean(os.environ), **env, **limits, **paths}
            self._began = time.monotonic()
            uvloop.run(self._lives(server))
            self.report.seconds = time.monotonic() - self._began
        log = self._log.read_bytes()
        if self._secrets.search(log) or b"Traceback" in log:
            self.report.wrong.append(f"the log says {log[-2000:]!r}")
        if self.report.growth > self.plan.growth:
            self.report.wrong.append("the memory has grown")
        return self.report

    async def _lives(self, server: LoopbackProcess) -> None:
        await self._life(server, 0.25, signal.SIGTERM)
        await self._life(server, 0.5, signal.SIGKILL)
        await self._life(server, 1.0, None)

    async def _life(self, server: LoopbackProcess, until: float, ended_by: signal.Signals | None) -> None:
        """Start a gateway, load it, and end it in the middle of that, or after all of it."""
        with self._serving() as process:
            self._endings: dict[int, Ending] = {}
            self._ending = False
            due = None
            clients = [asyncio.ensure_future(self._client()) for _ in range(self.plan.connections)]
            watching = asyncio.ensure_future(self._watch(process.pid))
            while self._progress() < until and not all(client.done() for client in clients):
                await asyncio.sleep(0.01)
            asking = set(self._asking)
            if ended_by is not None:
                self._ending = True
                if ended_by is signal.SIGKILL:
                    killed = time.time()
                    due = killed - self.plan.at_risk - late(self._directory / TURNS, killed)
                process.send_signal(ended_by)
            await asyncio.gather(*clients)
            watching.cancel()
            process.terminate()
            said, _ = await asyncio.to_thread(process.communicate)
        await asyncio.to_thread(_wait_until_quiet, server)
        self._judge(server, due, asking, said)

    async def _client(self) -> None:
        """Ask until this life ends, or there have been enough requests."""
        client = Client(self._port, self._secrets)
        while not self._ending and self._progress() < 1.0:
            self._begun += 1
            number = self._begun
            self._asking.add(number)
            self._endings[number] = await client.ask(number, random.Random(f"{self.plan.seed}:{number}"))
            self._asking.discard(number)
        await client.close()

    def _progress(self) -> float:
        return max(self._begun / self.plan.requests, (time.monotonic() - self._began) / self.plan.seconds)

    async def _watch(self, pid: int) -> None:
        self.report.memory.clear()
        while True:
            status = Path(f"/proc/{pid}/status").read_text()
            if resident := re.search(r"VmRSS:\s*(\d+) kB", status):
                self.report.memory.append(int(resident[1]) * 1024)
            await asyncio.sleep(_SAMPLED)

    def _judge(self, server: LoopbackProcess, due: float | None, asking: set[int], said: str) -> None:
        """Hold a life's books against each other, of which a kill may have cost no row from before `due`."""
        report, endings = self.report, self._endings
        report.endings.update(ending.kind for ending in endings.values())
        report.codes.update(ending.said for ending in endings.values() if ending.kind in ("error", "interrupted"))
        report.wrong += [ending.said for ending in endings.values() if ending.kind == "wrong"]
        first, hits = server.take_hits()
        self._last_row, rows = read_rows(self._usage, self._last_row)
        report.hits.update(hit.step for hit in hits)
        report.rows.update(row.outcome for row in rows)
        report.missing += len(hits) - len(rows)
        cut = {number for number, ending in endings.items() if ending.kind == "cut"}
        if due is None:
            report.held.append(json.loads(said.splitlines()[-1]))
            if any(counts != [0, 0] for counts in report.held[-1].values()):
                report.wrong.append(f"something is held: {said}")
            if asked := cut & {hit.asked for hit in hits}:
                report.wrong.append(f"requests that had begun were cut off: {sorted(asked)[:5]} of {len(asked)}")
        elif stray := cut - asking:
            report.wrong.append(f"requests were cut off before the kill: {sorted(stray)[:5]} of {len(stray)}")
        answers = {ending.number for ending in endings.values() if ending.kind == "answer"}
        left = {number for number, ending in endings.items() if ending.kind == "left"}
        at_risk = cut
        if due is not None:
            # That a client has left is noticed later, if the gateway is busy.
            last = (number for number, ending in endings.items() if ending.at + (number in left) * _NOTICED > due)
            at_risk = cut.union(last)
        report.wrong += settle(first, hits, rows, answers, left, at_risk)

    @contextmanager
    def _serving(self) -> Iterator[subprocess.Popen[str]]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.gateway.soak.process", "serve", "--port", str(self._port)],
                env=self._env,
                cwd=self._directory,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"the gateway did not start: {self._log.read_text()}")
            yield process
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def run(plan: Plan) -> Report:
    """A soak with files of its own."""
    with tempfile.TemporaryDirectory() as directory:
        return Soak(plan, Path(directory)).run()


def _wait_until_quiet(server: LoopbackProcess) -> None:
    """Wait until the server has seen all that was sent to it, by connections that are closed now."""
    # Connections are taken in order: when this one is, all before it were.
    url = server.base_url(PROVIDERS[0])
    httpx.get(f"{url}/v1/models", headers={"connection": "close"})
    eventually(lambda: not server.connected())


def _told(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))
