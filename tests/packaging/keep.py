"""Builds what is kept of the example packages: `python -m tests.packaging.keep`.

The wheels and sources in `tests/packaging/kept` are plugins that were written for contract 1. They are made once for a
version of the contract, and stay as they are when the examples change.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.packaging.installed import ROOT

KEPT = ROOT / "tests" / "packaging" / "kept"
PACKAGES = ("acme", "anthropic", "mistral", "ollama")
"""The examples that are kept, by the name of their provider."""


def main() -> None:
    """Build the wheel, and the sources with the tests, of each; the same files each time."""
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600", "PYTHONHASHSEED": "0"}
    for name in PACKAGES:
        package = ROOT / "examples" / f"hfs-providers-{name}"
        subprocess.run([sys.executable, "-m", "build", "--outdir", KEPT, package], check=True, env=env)


if __name__ == "__main__":
    main()
