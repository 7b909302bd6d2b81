from typing import ClassVar

from hfs_providers_ollama import plugin
from ollama_dialect import OllamaDialect

from hfs_providers.testing import ProviderConformance


class TestOllama(ProviderConformance):
    plugin = plugin
    dialect = OllamaDialect()
    lacks: ClassVar = {
        "retry_after": "the SDK's errors keep the words and the status of an answer, and drop its headers",
        "context_overflow": "the server cuts messages that are too long, and says nothing",
    }
