"""The gateways that are measured, each a process of its own over the same provider."""

# ruff: noqa: S603  the processes started here are ours, or were asked for by name

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.gateway.load import Address

LITELLM = "1.99.0"
PORTKEY = "1.15.2"

_ROOT = Path(__file__).resolve().parents[2]
_WITHIN = 90.0
_KEYS = 20


class Subject:
    """A gateway that runs.

    Args:
        name: in the table.
        address: where it takes requests.
        process: its own, or None for the provider itself.
    """

    def __init__(self, name: str, address: Address, process: subprocess.Popen[str] | None) -> None:
        self.name = name
        self.address = address
        self.process = process

    @property
    def memory(self) -> float:
        """Megabytes in use by it and its children."""
        return sum(_resident(pid) for pid in self._pids()) / 2**20

    @property
    def cpu(self) -> float:
        """Seconds of a core that it has used."""
        return sum(_cpu(pid) for pid in self._pids())

    def _pids(self) -> list[int]:
        if self.process is None:
            return []
        found = [self.process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, task.read_text().split())
        return found


@contextmanager
def provider() -> Iterator[int]:
    """The simulated provider; its port."""
    with _started([sys.executable, "-m", "benchmarks.gateway.provider", "0"], {}, stdout=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextmanager
def ours(upstream: int, directory: Path) -> Iterator[Subject]:
    """`hfs-providers serve` with usage rows, over twenty keys without limits."""
    port = _free_port()
    env = {f"GROQ_API_KEY_{number}": f"gsk_{number:040}" for number in range(1, _KEYS + 1)} | {
        "NUM_GROQ": str(_KEYS),
        "GROQ_LIMITS": "none",
        "GROQ_BASE_URL": f"http://127.0.0.1:{upstream}",
        "HFS_USAGE_DB": str(directory / "usage.db"),
    }
    command = [sys.executable, "-m", "hfs_providers", "serve", "--port", str(port)]
    with _started(command, env, cwd=directory) as process:
        yield _answering(Subject("hfs-providers", Address(port, "/v1/chat/completions", "groq/m"), process))


@contextmanager
def litellm(upstream: int, directory: Path) -> Iterator[Subject]:
    """LiteLLM's proxy, installed into `directory` if it is not there."""
    home = directory / f"litellm-{LITELLM}"
    if not home.exists():
        _install([sys.executable, "-m", "venv", str(home)], home)
        _install([str(home / "bin" / "pip"), "install", "-qq", f"litellm[proxy]=={LITELLM}"], home)
    config = home / "config.yaml"
    params = {"model": "openai/m", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "sk-benchmark"}
    # JSON is valid YAML.
    config.write_text(json.dumps({"model_list": [{"model_name": "m", "litellm_params": params}]}))
    port = _free_port()
    command = [str(home / "bin" / "litellm"), "--config", str(config), "--port", str(port)]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
    with _started(command, env, cwd=home) as process:
        yield _answering(Subject(f"LiteLLM {LITELLM}", Address(port, "/v1/chat/completions", "m"), process))


@contextmanager
def portkey(upstream: int, directory: Path) -> Iterator[Subject]:
    """Portkey's gateway, installed into `directory` if it is not there; no script of a package is run."""
    home = directory / f"portkey-{PORTKEY}"
    if not home.exists():
        home.mkdir(parents=True)
        package = f"@portkey-ai/gateway@{PORTKEY}"
        _install(["npm", "install", "--ignore-scripts", "--silent", "--prefix", str(home), package], home)
    port = _free_port()
    program = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1"}
    with _started(["node", str(program), f"--port={port}", "--headless"], {}, cwd=home) as process:
        yield _answering(Subject(f"Portkey {PORTKEY}", Address(port, "/v1/chat/completions", "m", headers), process))


RIVALS = {"litellm": litellm, "portkey": portkey}


def _answering(subject: Subject) -> Subject:
    """The gateway, once it answers."""
    assert subject.process is not None
    until = time.monotonic() + _WITHIN
    while time.monotonic() < until and subject.process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", subject.address.port), 5) as connection:
            connection.settimeout(20)
            connection.sendall(subject.address.request())
            if connection.recv(20)[9:12] == b"200":
                return subject
        time.sleep(0.2)
    raise RuntimeError(f"{subject.name} does not answer")


@contextmanager
def _started(
    command: Sequence[str], env: Mapping[str, str], *, cwd: Path | None = None, stdout: bool = False
) -> Iterator[subprocess.Popen[str]]:
    # Variables that would bring in a user's own keys and settings.
    foreign = ("NUM_", "HFS_", "EXPECTED_", "TIDB_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(foreign) and "API_KEY" not in name.upper() and "PROXY" not in name.upper()
    }
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**kept, "PYTHONPATH": path, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _install(command: Sequence[str], home: Path) -> None:
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError):
        shutil.rmtree(home, ignore_errors=True)
        raise


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
