"""Several gateways share their keys, by a file or by Redis: a limit of five requests a minute is never passed."""

from __future__ import annotations

from pathlib import Path

from tests.fleet.fleet import Plan, Result, run
from tests.long import takes_long
from tests.sharing.redis_server import RedisServer, binary

WORKER = "tests.gateway.soak.worker"
SECONDS = 6.0


def check(result: Result) -> None:
    assert result.busiest <= result.plan.rpm == 5
    assert set(result.endings) == {"answered", "exhausted"}
    assert result.endings["answered"] == len(result.seen)
    assert result.used >= 0.5


@takes_long
def test_two_on_one_host(tmp_path: Path) -> None:
    env = {"HFS_USAGE_DB": str(tmp_path / "usage.db")}
    check(run(Plan(env, program=WORKER, processes=2, keys=4, seconds=SECONDS)))


@takes_long
def test_four_on_two_hosts(tmp_path: Path) -> None:
    server = RedisServer(binary(), tmp_path)
    try:
        files = {number: {"HFS_USAGE_DB": str(tmp_path / f"host-{number // 2}.db")} for number in range(4)}
        check(run(Plan({"HFS_REDIS_URL": server.url}, files, WORKER, processes=4, keys=4, seconds=SECONDS)))
    finally:
        server.kill()
