"""A pytest plugin that writes down how many seconds each passed test took."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

_seconds: defaultdict[str, float] = defaultdict(float)
_failed: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] += report.duration
    if not report.passed:
        _failed.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):  # not in a worker of xdist
        passed = {name: round(seconds, 3) for name, seconds in _seconds.items() if name not in _failed}
        Path(os.environ["HFS_TEST_TIMES"]).write_text(json.dumps(passed))
