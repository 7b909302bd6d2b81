"""The supervisor in Rust drives the same worker, built and run as its README says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from hfs_providers.testing import LoopbackServer

RUSTC = os.environ.get("HFS_TEST_RUSTC", "")
EXAMPLE = Path(__file__).parents[2] / "examples" / "rust-supervisor"
WORKER = [sys.executable, "-m", "hfs_providers", "agents", "worker", "--role", "executor"]
WITHIN = 60

pytestmark = pytest.mark.skipif(not RUSTC, reason="needs a Rust compiler; HFS_TEST_RUSTC names one")


def command_of_the_readme(part: str) -> list[str]:
    [command] = [found for found in re.findall(r"rustc [^`\n&]*", (EXAMPLE / "README.md").read_text()) if part in found]
    return [RUSTC, *shlex.split(command)[1:], "-D", "warnings"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example elsewhere, built."""
    here = tmp_path_factory.mktemp("rust") / "example"
    shutil.copytree(EXAMPLE, here)
    subprocess.run(command_of_the_readme("-o rust-supervisor"), cwd=here, check=True)
    return here


@contextmanager
def supervisor(
    built: Path, env: Mapping[str, str], command: list[str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [built / "rust-supervisor", *(WORKER if command is None else command)],
        env=dict(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def worker_of(process: subprocess.Popen[str]) -> int:
    """The process id in the first line."""
    assert process.stdout is not None
    found = re.match(r"worker (\d+): executor of hfs-providers ", process.stdout.readline())
    assert found is not None
    return int(found[1])


def test_its_own_tests_pass(built: Path) -> None:
    subprocess.run(command_of_the_readme("--test"), cwd=built, check=True)
    done = subprocess.run([built / "tests"], capture_output=True, text=True)
    assert (done.returncode, "0 passed" in done.stdout) == (0, False), done.stdout


def test_three_items_are_at_work_at_once_and_each_is_answered(
    built: Path, server: LoopbackServer, env: Mapping[str, str]
) -> None:
    with supervisor(built, env) as process:
        with server.hold() as gate:
            worker_of(process)
            assert gate.wait_for(3, WITHIN)
        out, _ = process.communicate(timeout=WITHIN)
    for item in ("haiku", "summary", "letter"):
        assert f"[{item}] started: " in out
        assert len(re.findall(rf"\[{item}\] done in [\d.]+ s, served by groq/llama-3.3-70b-versatile", out)) == 1
        assert re.search(rf'\[{item}\] {{.*"artifacts":\[{{', out)
    assert process.returncode == 0


def test_a_killed_worker_costs_only_what_must_not_be_done_twice(
    built: Path, server: LoopbackServer, env: Mapping[str, str]
) -> None:
    with supervisor(built, env) as process:
        with server.hold() as gate:
            first = worker_of(process)
            assert gate.wait_for(3, WITHIN)
            os.kill(first, signal.SIGKILL)
            # The three of the first worker, and the two of the second.
            assert gate.wait_for(5, WITHIN)
        out, _ = process.communicate(timeout=WITHIN)
    second = re.search(r"^worker (\d+): executor", out, re.MULTILINE)
    assert second is not None
    assert f"worker {first} died with 3 items" in out
    assert out.count("[letter] failed: the worker died while it had it") == 1
    assert [out.count(f"[{item}] done in ") for item in ("haiku", "summary", "letter")] == [1, 1, 0]
    assert (process.returncode, "1 of 3 items failed" in out) == (1, True)
    for pid in (first, int(second[1])):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_without_a_provider_it_says_why_the_agent_is_unavailable(built: Path, bare: Mapping[str, str]) -> None:
    with supervisor(built, bare) as process:
        _, said = process.communicate(timeout=WITHIN)
    assert process.returncode == 3
    assert "Error: the agent is unavailable: no provider can be used" in said


@pytest.mark.parametrize(
    ("command", "reason"),
    [(["no-such-command"], "no-such-command: "), ([sys.executable, "-c", ""], "initialize: the worker ended")],
)
def test_what_is_no_worker_ends_it(built: Path, bare: Mapping[str, str], command: list[str], reason: str) -> None:
    with supervisor(built, bare, command) as process:
        _, said = process.communicate(timeout=WITHIN)
    assert (process.returncode, reason in said) == (2, True)
