"""What a type checker says of the public names, and of the programs of docs/web-service.md and docs/agents.md."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from hfs_providers import ProviderManager

with ProviderManager() as manager:
    wrapper = manager.wrappers["groq"]
    wrapper.get_openai_client().chat.completions.create(messages=[])
    wrapper.get_rotating_client(object)
    wrapper.print_global_stats()
    key: str = manager.wrapper("groq").get_api_key(key_id=1, timeout=None)
    model = manager.get_model("groq", key_id="groq#2", timeout=None, model_params={"provider": "mine"})
    name, any_model = manager.get_any_model(500, False, None, model_id="m")
    print(model.id, name, any_model.id)
"""

pytestmark = pytest.mark.skipif(
    not os.environ.get("HFS_TEST_TYPES"), reason="takes half a minute; set HFS_TEST_TYPES=1 to run it"
)
ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONSUMER = ROOT / "tests" / "typing" / "consumer.py"


def test_programs_pass_mypy(tmp_path: Path) -> None:
    pages = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("web-service.md", "agents.md"))
    blocks = re.findall(r"^```python\n(.*?)^```$", pages, re.DOTALL | re.MULTILINE)
    assert len(blocks) > 1
    paths = [tmp_path / f"program{number}.py" for number in range(len(blocks) + 1)]
    for path, program in zip(paths, [PROGRAM, *blocks], strict=True):
        path.write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path)]
    done = subprocess.run(
        [*command, *map(str, [*paths, CONSUMER])], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
def test_the_consumer_s_program_passes_pyright() -> None:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(CONSUMER.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
