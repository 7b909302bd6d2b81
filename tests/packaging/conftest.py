"""The wheel, built once for all tests of the packaging, by the worker that comes first."""

from __future__ import annotations

import fcntl
import os
import ssl
import sys
from pathlib import Path

import pytest

from tests.packaging.installed import ROOT, run


@pytest.fixture(scope="session")
def one_authority() -> Path:
    """All of them: what is installed comes from an index."""
    return Path(ssl.get_default_verify_paths().cafile or "")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    out = shared / "dist"
    with (shared / "dist.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(out.glob("*.whl")):
            run(sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT)
    return next(out.glob("*.whl"))
