"""Fixtures for a plugin's tests: `from hfs_providers.testing.fixtures import loopback`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hfs_providers.testing.server import LoopbackServer


@pytest.fixture
def loopback() -> Iterator[LoopbackServer]:
    """A loopback server, started for one test."""
    with LoopbackServer() as server:
        yield server
