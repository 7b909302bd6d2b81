"""The commands in docs/operations.md work as they are written."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hfs_providers.testing import LoopbackServer
from hfs_providers.usage import Store
from tests.cli.conftest import Cli
from tests.usage_rows import row, write

TEXT = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ hfs-providers (.+)$", TEXT, re.MULTILINE)


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    write(Store(tmp_path / "u.db"), [row(time.time() - 3600 * number) for number in range(48)])
    forward = f"sqlite:///{tmp_path}/all.db"
    with LoopbackServer() as server:
        yield {
            **server.env({"groq": 3, "openrouter": 1, "gemini": 1}),
            "HFS_USAGE_DB": str(tmp_path / "u.db"),
            "HFS_FORWARD_DB": forward,
        }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works_as_it_is_written(cli: Cli, env: dict[str, str], command: str) -> None:
    done = cli(*shlex.split(command), env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    "command", ["check", "keys", "keys retire", "keys revive", "usage", "usage prune", "usage send"]
)
def test_every_command_is_there_with_its_options(cli: Cli, command: str) -> None:
    assert any(each == command or each.startswith(f"{command} ") for each in COMMANDS)
    shown = cli(*command.split(), "--help", env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).stdout
    for option in set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help", "--json"}:
        assert f"{option}" in TEXT, option
