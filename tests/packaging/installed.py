"""A virtual environment as a stranger has it, and how a test runs what is in it."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.Popen[str]:
    """A command that runs, without the variables that are the test run's own."""
    base = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON"))}
    return subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**base, "HFS_USAGE_DB": "off", **(env or {})},
        cwd=cwd,
    )


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """What a command prints; fails the test with its complaints where it ends badly."""
    process = start(*command, env=env, cwd=cwd)
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode in (0, 1), err
    return out


@dataclass
class Installed:
    """A virtual environment with the wheel in it."""

    root: Path

    @classmethod
    def fresh(cls, root: Path) -> Installed:
        """A new one in `root`. The pip of this run fills it."""
        venv.create(root)
        return cls(root)

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    @property
    def script(self) -> Path:
        return self.root / "bin" / "hfs-providers"

    def install(self, *requirements: str) -> None:
        """Install requirements, as `pip install` takes them."""
        # Most of what comes is never imported.
        self._pip("install", "--no-compile", *requirements)

    def uninstall(self, *distributions: str) -> None:
        """Uninstall what was installed."""
        self._pip("uninstall", "-y", *distributions)

    def _pip(self, *arguments: str) -> None:
        pip = (sys.executable, "-m", "pip", "--python", self.python, "-q", "--disable-pip-version-check")
        process = start(*pip, *arguments)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
