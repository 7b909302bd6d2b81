"""What is done at a fork: in the order of the phases, for what is still there, whatever fails."""

from __future__ import annotations

import logging
import os
import subprocess
import weakref
from functools import partial
from pathlib import Path

import pytest

import hfs_providers
from hfs_providers.contract import forks
from hfs_providers.contract.forks import ForkPhase, at_fork
from tests import warm

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the test's own hooks."""
    monkeypatch.setattr(forks, "_registered", {})


def fork_and_tell(said: list[str]) -> list[str]:
    """What a child finds in `said`."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writer, "\n".join(said).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        told = pipe.read().split("\n")
    os.waitpid(pid, 0)
    return told


def test_the_order_is_that_of_the_phases_and_not_that_of_registration() -> None:
    said: list[str] = []
    for phase in (ForkPhase.LEDGERS, ForkPhase.POOLS, ForkPhase.CONNECTIONS, ForkPhase.CONNECTIONS):
        at_fork(phase, **{when: partial(said.append, f"{when} {phase.name}") for when in ("before", "parent", "child")})
    told = fork_and_tell(said)
    before = ["before LEDGERS", "before CONNECTIONS", "before CONNECTIONS", "before POOLS"]
    after = ["POOLS", "CONNECTIONS", "CONNECTIONS", "LEDGERS"]
    assert told == before + [f"child {name}" for name in after]
    assert said == before + [f"parent {name}" for name in after]


def test_methods_go_with_their_object() -> None:
    class Thing:
        def __init__(self) -> None:
            at_fork(ForkPhase.LOGS, before=self.hook, child=self.hook)

        def hook(self) -> None:
            said.append("hook")

    said: list[str] = []
    thing = Thing()
    fork_and_tell(said)
    assert said == ["hook"]
    there = weakref.ref(thing)
    del thing
    assert there() is None
    assert not forks._registered
    assert fork_and_tell(said) == ["hook"]


def test_a_program_that_ends_with_a_registered_object_prints_nothing() -> None:
    program = (
        "from hfs_providers.contract.records import Credential\n"
        "from hfs_providers.keys import KeyPool\n"
        "pool = KeyPool('p', [Credential('p#1', None)])\n"
        "pool.acquire('m').commit(1)\n"
    )
    done = subprocess.run([warm.python(), "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_what_fails_is_logged_and_keeps_nobody_else_from_it(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    at_fork(ForkPhase.POOLS, parent=lambda: 1 / 0)
    at_fork(ForkPhase.LOGS, parent=partial(said.append, "parent"), child=partial(said.append, "child"))
    with caplog.at_level(logging.ERROR):
        assert fork_and_tell(said) == ["child"]
    assert said == ["parent"]
    assert "ZeroDivisionError" in caplog.text


def test_a_child_that_forks_does_the_same() -> None:
    said: list[str] = []
    at_fork(ForkPhase.LOGS, child=partial(said.append, "child"))
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.write(writer, " ".join(fork_and_tell(said)).encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        assert pipe.read() == "child child"
    os.waitpid(pid, 0)


def test_no_other_module_registers_at_a_fork() -> None:
    package = Path(hfs_providers.__file__).parent
    found = [path for path in package.rglob("*.py") if "os.register_at_fork" in path.read_text(encoding="utf-8")]
    assert found == [package / "contract" / "forks.py"]
