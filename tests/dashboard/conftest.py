"""A machine with keys and requests that never were."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dashboard.made_up import environment, fill


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Its environment. For tests that only look."""
    env = environment(tmp_path_factory.mktemp("made_up"))
    fill(env, hours=30, a_minute=2)
    return env


@pytest.fixture
def own(tmp_path: Path) -> dict[str, str]:
    """The environment of another one, for a test that changes something."""
    env = environment(tmp_path, {"groq": 3})
    fill(env, hours=3, a_minute=1)
    return env
