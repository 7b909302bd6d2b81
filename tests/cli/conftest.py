"""Runs the command line as its users do: in a process of its own, with an environment that the test wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from tests import warm


class Cli(Protocol):
    """`cli("status", "--json", env={...}, path=[...])`."""

    def __call__(
        self, *args: str, env: Mapping[str, str] | None = None, path: Sequence[Path] = (), given: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it with these arguments.

        Args:
            args: of the command line.
            env: the variables that it sees, besides what a process cannot do without.
            path: folders that come first on the import path of a Python of its own; without any, it is a warm one.
            given: its stdin.
        """


@pytest.fixture
def bare_env(tmp_path: Path) -> dict[str, str]:
    """What a process cannot do without, and homes of its own."""
    homes = {name: str(tmp_path / "home" / name) for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")}
    kept = {
        name: os.environ[name]
        for name in ("PATH", "PYTHONPATH", "SYSTEMROOT", "LANG", "SSL_CERT_FILE")
        if name in os.environ
    }
    return {**kept, **homes, "HOME": str(tmp_path / "home")}


@pytest.fixture
def cli(tmp_path: Path, bare_env: dict[str, str]) -> Cli:
    """The command line; see `Cli`."""

    def run(
        *args: str, env: Mapping[str, str] | None = None, path: Sequence[Path] = (), given: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        own = bare_env.get("PYTHONPATH")
        imported = os.pathsep.join([*map(str, path), *([own] if own else [])])
        return subprocess.run(
            [sys.executable if path else warm.python(), "-m", "hfs_providers", *args],
            env={**bare_env, "PYTHONPATH": imported, **(env or {})},
            cwd=tmp_path,
            input=given if given is not None else "",
            capture_output=True,
            text=True,
            timeout=600,
        )

    return run


@pytest.fixture
def without(tmp_path: Path) -> Path:
    """A folder that, first on the import path, hides the distributions that HIDDEN names from a process."""
    folder = tmp_path / "without"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os\n"
        "from importlib import metadata\n"
        "hidden = os.environ.get('HIDDEN', '').split()\n"
        "found = metadata.Distribution.from_name.__func__\n"
        "def from_name(cls, name):\n"
        "    if name in hidden:\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return found(cls, name)\n"
        "metadata.Distribution.from_name = classmethod(from_name)\n"
        "if hidden:\n"
        "    import sys\n"
        "    tops = {'groq': 'groq', 'cerebras-cloud-sdk': 'cerebras', 'openai': 'openai', 'google-genai': 'google'}\n"
        "    for name in hidden:\n"
        "        sys.modules[tops[name]] = None\n"
    )
    return folder
