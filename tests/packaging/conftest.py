"""The wheel, built once for all tests of the packaging."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.packaging.installed import ROOT, run


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", out, ROOT)
    return next(out.glob("*.whl"))
