"""Drives a fleet of workers against one loopback server and judges what arrived there.

How the workers share is said by the environment that they are given: `HFS_USAGE_DB` (a file of their own), and
`HFS_REDIS_URL` where it is to be Redis.

    python -m tests.fleet.fleet --processes 8 --keys 16 --rpm 5 --seconds 70 [--redis redis://127.0.0.1:6379/0]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hfs_providers.testing.server import Seen
from tests.loopback_process import LoopbackProcess

ROOT = Path(__file__).resolve().parents[2]
MINUTE = 60.0
_START_WITHIN = 120.0


@dataclass(frozen=True)
class Plan:
    """A fleet.

    Args:
        env: for every worker, besides keys and limits; with `HFS_USAGE_DB`, and `HFS_REDIS_URL` to share by Redis.
        own_env: by the number of a worker, what it is given besides.
        program: the module of a worker.
        processes, keys: how many.
        rpm: requests a minute that a key is allowed.
        seconds: for which each worker calls.
    """

    env: Mapping[str, str]
    own_env: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    program: str = "tests.fleet.worker"
    processes: int = 8
    keys: int = 16
    rpm: int = 5
    seconds: float = 70.0

    @property
    def allowed(self) -> int:
        """Requests that the limits allow in that time, if the first of them are sent at its beginning."""
        return self.keys * self.rpm * (1 + int(self.seconds // MINUTE))


@dataclass(frozen=True)
class Result:
    """What came of it.

    Args:
        plan: what was done.
        seen: the requests, as the server saw them.
        reports: of the workers: `endings` and `problems`.
    """

    plan: Plan
    seen: Sequence[Seen]
    reports: Sequence[Mapping[str, object]]

    @property
    def busiest(self) -> int:
        """The most requests that one key sent in any 60 seconds."""
        by_key: dict[str, list[float]] = {}
        for each in self.seen:
            by_key.setdefault(each.fingerprint, []).append(each.at)
        return max((most_within(instants, MINUTE) for instants in by_key.values()), default=0)

    @property
    def used(self) -> float:
        """The share of what the limits allow that was used."""
        return len(self.seen) / self.plan.allowed

    @property
    def endings(self) -> Counter[str]:
        """How the calls of all workers ended."""
        total: Counter[str] = Counter()
        for report in self.reports:
            endings = report["endings"]
            assert isinstance(endings, dict)
            total.update(endings)
        return total


def most_within(instants: Sequence[float], span: float) -> int:
    """The most of `instants` that lie within `span` seconds of one another."""
    ordered = sorted(instants)
    most = first = 0
    for last, instant in enumerate(ordered):
        while instant - ordered[first] >= span:
            first += 1
        most = max(most, last - first + 1)
    return most


def run(plan: Plan) -> Result:
    """Start the workers, let them call all at once, and collect what they say."""
    workers: list[subprocess.Popen[str]] = []
    with LoopbackProcess() as server:
        env = {
            **clean(os.environ),
            **server.env({"groq": plan.keys}),
            "GROQ_LIMITS": f"rpm={plan.rpm}",
            "PYTHONPATH": str(ROOT),
            **plan.env,
        }
        try:
            for number in range(plan.processes):
                workers.append(
                    subprocess.Popen(
                        [sys.executable, "-m", plan.program, str(plan.seconds)],
                        env={**env, **plan.own_env.get(number, {})},
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                )
            for worker in workers:
                _expect(worker, "ready")
            for worker in workers:
                _tell(worker)
            reports = [
                json.loads(worker.communicate(timeout=plan.seconds + _START_WITHIN)[0].splitlines()[-1])
                for worker in workers
            ]
        finally:
            for worker in workers:
                worker.kill()
        return Result(plan, server.seen, reports)


def clean(env: Mapping[str, str]) -> dict[str, str]:
    ours = ("HFS_", "TIDB_", "NUM_", "EXPECTED_")
    return {name: value for name, value in env.items() if not name.startswith(ours) and "API_KEY" not in name}


def _expect(worker: subprocess.Popen[str], word: str) -> None:
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.strip() == word:
            return
    raise RuntimeError(f"a worker ended before it was {word}")


def _tell(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()


def main() -> int:
    """Returns 0 where no key was overused and nine tenths of the allowance were used."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.fleet", description=__doc__)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--keys", type=int, default=16)
    parser.add_argument("--rpm", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=70.0)
    parser.add_argument("--redis", default="", help="share by this server instead of by the file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        env = {"HFS_USAGE_DB": str(Path(directory) / "usage.db")}
        if arguments.redis:
            env["HFS_REDIS_URL"] = arguments.redis
        result = run(
            Plan(
                env,
                processes=arguments.processes,
                keys=arguments.keys,
                rpm=arguments.rpm,
                seconds=arguments.seconds,
            )
        )
    words = (
        f"{len(result.seen)} requests of {result.plan.allowed} allowed ({result.used:.0%}), at most {result.busiest}"
    )
    print(f"{words} of a key within 60 s\n{dict(result.endings)}\n{[r['problems'] for r in result.reports]}")
    return 0 if result.busiest <= arguments.rpm and result.used >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
