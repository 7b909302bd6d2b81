"""Plugins that were written for contract 1, beside the wheel of this checkout: their suites pass unchanged."""

from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import pytest

from tests.packaging.installed import run, start
from tests.packaging.keep import KEPT, PACKAGES

pytestmark = pytest.mark.skipif(
    not os.environ.get("HFS_TEST_INDEX"),
    reason="installs from a package index; set HFS_TEST_INDEX=1 to run it",
)


def test_the_suites_of_the_kept_packages_pass(wheel: Path, tmp_path: Path) -> None:
    # Over the environment of this run, which has the SDKs: what comes first on the path is found first.
    site = tmp_path / "site"
    kept = sorted(KEPT.glob("*.whl"))
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel, *kept)
    env = {"PYTHONPATH": str(site)}
    modules = ["hfs_providers", *(f"hfs_providers_{name}" for name in PACKAGES)]
    program = f"import {', '.join(modules)}; print({', '.join(f'{module}.__file__' for module in modules)})"
    origins = run(sys.executable, "-c", program, env=env, cwd=tmp_path).split()
    assert [Path(origin).is_relative_to(site) for origin in origins] == [True] * len(modules)

    suites = [unpack(name, tmp_path / f"suite-{name}") for name in PACKAGES]
    # One process for all: what takes long is importing the SDKs and Agno.
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *suites)
    process = start(sys.executable, *command, env=env, cwd=tmp_path)
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, out + err
    assert " passed" in out


def unpack(name: str, into: Path) -> Path:
    """The tests of a kept package, and nothing else of it."""
    into.mkdir()
    [sources] = KEPT.glob(f"hfs_providers_{name}-*.tar.gz")
    with tarfile.open(sources) as archive:
        for member in archive:
            test = archive.extractfile(member) if "/tests/" in member.name else None
            if test is not None:
                (into / Path(member.name).name).write_bytes(test.read())
    return into
