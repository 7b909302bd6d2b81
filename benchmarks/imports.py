"""What starting costs: the import, the command line, a manager. Every sample is a fresh process."""

# ruff: noqa: S603  the processes started here are this interpreter and our own command

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.bench import MODELS
from benchmarks.figures import PROVIDERS, Measured
from benchmarks.timing import Effort, quartiles

_KEYS = 208
_LISTED = 5_000
_ROWS, _DAY = 100_000, 86_400.0
_MANAGER = "import time; t = time.perf_counter(); from hfs_providers import ProviderManager; m = ProviderManager(); \
assert sum(len(w.pool.credentials) for w in m.wrappers.values()) == {keys}; print(time.perf_counter() - t)"

_SERVING = "import time; t = time.perf_counter(); from hfs_providers import ProviderManager; \
pool = ProviderManager().wrappers['groq'].pool; pool.acquire('m').release(); \
assert len(pool.credentials) == {keys}; print(time.perf_counter() - t)"


def starts(effort: Effort) -> list[Measured]:
    """The import, beside LiteLLM's, and `hfs-providers status`."""
    with tempfile.TemporaryDirectory() as directory:
        env = {**os.environ, **_environment(_KEYS)}
        programs = {
            "interpreter": [sys.executable, "-c", "pass"],
            "ours": [sys.executable, "-c", "import hfs_providers"],
            "status": [*_command(), "status"],
        }
        walls: dict[str, list[float]] = {name: [] for name in programs}
        for program in programs.values():
            # The first run compiles and warms the caches.
            _wall(program, env, directory)
        for _ in range(effort.count(25, 5)):
            for name, program in programs.items():
                walls[name].append(_wall(program, env, directory))
        above = [mine - base for mine, base in zip(walls["ours"], walls["interpreter"], strict=True)]
        litellm = _litellm(effort, env, directory, statistics.median(walls["interpreter"]))
    interpreter = statistics.median(walls["interpreter"])
    low, high = quartiles(above)
    slow, slower = quartiles(walls["status"])
    return [
        Measured(
            "import",
            statistics.median(above) * 1e3,
            low * 1e3,
            high * 1e3,
            note="the time above that of a bare interpreter",
            alternatives={"bare interpreter": interpreter * 1e3, "LiteLLM": litellm},
        ),
        Measured("status", statistics.median(walls["status"]), slow, slower, note=f"wall time, {_KEYS} keys"),
    ]


def history(effort: Effort) -> list[Measured]:
    """A manager's start, import included, if the usage file holds a day's rows of all its keys."""
    with tempfile.TemporaryDirectory() as directory:
        env = {**os.environ, **_environment(_KEYS), "HFS_USAGE_DB": str(Path(directory) / "usage.db")}
        program = [sys.executable, "-c", _MANAGER.format(keys=_KEYS)]
        rounds = effort.count(7, 3)
        empty = [float(_run(program, env, directory)) for _ in range(rounds)]
        _write_history(Path(env["HFS_USAGE_DB"]), env)
        seconds = [float(_run(program, env, directory)) for _ in range(rounds)]
    low, high = quartiles(seconds)
    alternatives: dict[str, float | str] = {"without history": statistics.median(empty)}
    return [Measured("history", statistics.median(seconds), low, high, "import included", alternatives)]


def key_file(effort: Effort) -> list[Measured]:
    """From the start of a program to its first lease, import included, if a file lists its keys."""
    seconds: dict[int, list[float]] = {_LISTED: [], 1: []}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "groq.keys"
        path.touch(0o600)
        usage = str(Path(directory) / "usage.db")
        env = {**os.environ, "GROQ_API_KEYS_FILE": str(path), "HFS_USAGE_DB": usage}
        for _ in range(effort.count(7, 3)):
            for keys, walls in seconds.items():
                path.write_text("".join(f"gsk_{number:048}\n" for number in range(keys)))
                walls.append(float(_run([sys.executable, "-c", _SERVING.format(keys=keys)], env, directory)))
    low, high = quartiles(seconds[_LISTED])
    alternatives: dict[str, float | str] = {"one key": statistics.median(seconds[1])}
    return [Measured("key_file", statistics.median(seconds[_LISTED]), low, high, "import included", alternatives)]


def _write_history(path: Path, env: Mapping[str, str]) -> None:
    from hfs_providers.keys import fingerprint
    from hfs_providers.usage import UsageRow
    from hfs_providers.usage.database import Store
    from hfs_providers.usage.row_writer import write_rows

    keys = [
        (name, f"{name}#{number}", fingerprint(env[f"{name.upper()}_API_KEY_{number}"]))
        for number in range(1, _KEYS // len(PROVIDERS) + 1)
        for name in PROVIDERS
    ]
    now = time.time()
    rows = [
        UsageRow(now - _DAY * (1 - place / _ROWS), name, MODELS[name], key, mark, 700, 300, 1000, 0.5, "ok", 1000)
        for place in range(_ROWS)
        for name, key, mark in [keys[place % len(keys)]]
    ]
    connection = Store(path).connect()
    write_rows(connection, rows)
    connection.close()


def _litellm(effort: Effort, env: dict[str, str], directory: str, interpreter: float) -> float | str:
    program = [sys.executable, "-c", "import litellm"]
    try:
        if not effort.quick:
            _wall(program, env, directory)
        walls = [_wall(program, env, directory) for _ in range(effort.count(3, 1))]
    except RuntimeError:
        return "not installed"
    return (statistics.median(walls) - interpreter) * 1e3


def _command() -> list[str]:
    script = Path(sys.executable).with_name("hfs-providers")
    return [str(script)] if script.exists() else [sys.executable, "-m", "hfs_providers"]


def _environment(keys: int) -> dict[str, str]:
    each = keys // len(PROVIDERS)
    env = {f"NUM_{name.upper()}": str(each) for name in PROVIDERS}
    for name in PROVIDERS:
        env |= {f"{name.upper()}_API_KEY_{number}": f"{name}-abcdefgh-{number:04}" for number in range(1, each + 1)}
    return env


def _wall(program: Sequence[str], env: dict[str, str], directory: str) -> float:
    begin = time.perf_counter()
    _run(program, env, directory)
    return time.perf_counter() - begin


def _run(program: Sequence[str], env: dict[str, str], directory: str) -> str:
    done = subprocess.run(program, env=env, cwd=directory, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(program[:3])}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout
