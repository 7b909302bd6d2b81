"""What the tests of the agents share: a real provider server, real workers, and a supervisor whose time is made up."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from hfs_providers.testing import LoopbackServer
from tests import warm
from tests.agents.workers import RawWorker

FREE = {"GROQ_LIMITS": "none", "CEREBRAS_LIMITS": "none"}


@pytest.fixture(scope="module")
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, one_authority: Path) -> dict[str, str]:
    """The environment of a process without any key, with homes of its own."""
    home = tmp_path_factory.mktemp("home")
    homes = {name: str(home / name) for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")}
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LANG") if name in os.environ}
    return {**kept, **homes, "HOME": str(home), "SSL_CERT_FILE": str(one_authority)}


@pytest.fixture(scope="module")
def env(server: LoopbackServer, bare: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process with one key each of two providers."""
    return {**bare, **server.env({"groq": 1, "cerebras": 1}), **FREE, "HFS_PROVIDER_ORDER": "groq,cerebras"}


@pytest.fixture
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers of this process's supervisors are warm."""
    monkeypatch.setattr(sys, "executable", warm.python())


@pytest.fixture(scope="module")
def worker(env: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RawWorker]:
    """An initialized executor, shared by the tests of a module."""
    with RawWorker("executor", env, tmp_path_factory.mktemp("worker")) as worker:
        worker.initialize()
        yield worker


@pytest.fixture
def own_worker(env: Mapping[str, str], tmp_path: Path) -> Iterator[RawWorker]:
    """An initialized executor that the test may break."""
    with RawWorker("executor", env, tmp_path) as worker:
        worker.initialize()
        yield worker
