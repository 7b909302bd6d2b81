"""A plugin for a class of each family, as `new-plugin` writes it: its own suite passes, with the vendor's SDK."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import warm
from tests.cli.conftest import Cli
from tests.cli.conftest import bare_env as bare_env
from tests.cli.conftest import cli as cli
from tests.cli.test_new_plugin import install, run
from tests.long import takes_long, takes_longest

CLASSES = [
    ("openai", "agno.models.openai:OpenAIResponses"),
    ("cohere", "agno.models.cohere:Cohere"),
    ("google.genai", "agno.models.google:GeminiInteractions"),
]
# The first is a small difference to OpenAIResponses. The others' SDKs have a built-in plugin, or an example package,
# whose suite is run by .ci/run.
LONG = [
    ("openai", "agno.models.ollama:OllamaResponses"),
    ("google.genai", "agno.models.google:Gemini"),
    ("anthropic", "agno.models.anthropic:Claude"),
    ("mistralai", "agno.models.mistral:MistralChat"),
    ("ollama", "agno.models.ollama:Ollama"),
]


@takes_long
@pytest.mark.parametrize(
    ("sdk", "model_class"), [*CLASSES, *(pytest.param(*each, marks=takes_longest) for each in LONG)]
)
def test_it_passes_as_it_is_written(cli: Cli, tmp_path: Path, sdk: str, model_class: str) -> None:
    pytest.importorskip(sdk, reason=f"{sdk} is not installed")
    done = cli("new-plugin", "newly-made", "--model-class", model_class)
    assert done.returncode == 0, done.stderr
    package = tmp_path / "hfs-providers-newly-made"
    install(package, tmp_path / "site")
    tests = run(package, warm.python(), "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider")
    assert tests.returncode == 0, tests.stdout
    linted = run(package, warm.python(), "-m", "ruff", "check", ".")
    assert linted.returncode == 0, linted.stdout
