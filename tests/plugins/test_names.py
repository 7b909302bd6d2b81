"""What is known of a provider is in its plugin: nothing below the plugins names one."""

import re
from pathlib import Path

import hfs_providers

ROOT = Path(hfs_providers.__file__).parent
ABOVE = {"agents", "cli", "families", "gateway", "plugins", "testing"}
# In quotes also words that mean something else elsewhere: names of modules, by which an SDK would be known here.
NAMES = re.compile(
    'cerebras|groq|gemini|google|openrouter|anthropic|cohere|mistral|aiobotocore|"(?:together|botocore|boto3|ollama)"',
    re.IGNORECASE,
)
# The four functions that applications call, each named after a provider.
HELPERS = re.compile(r"get_(?:cerebras|groq|gemini|openrouter)_model|get_model\(\"\w+\"")


def test_no_module_below_the_plugins_names_a_provider() -> None:
    found = [
        f"{path}: {line.strip()}"
        for file in sorted(ROOT.rglob("*"))
        if (path := file.relative_to(ROOT)).suffix in (".py", ".lua") and path.parts[0] not in ABOVE
        for line in file.read_text(encoding="utf-8").splitlines()
        if NAMES.search(HELPERS.sub("", line))
    ]
    assert found == []
