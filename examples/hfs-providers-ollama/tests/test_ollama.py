from typing import ClassVar

from hfs_providers_ollama import plugin

from hfs_providers.testing import ProviderConformance


class TestOllama(ProviderConformance):
    plugin = plugin
    lacks: ClassVar = {
        "retry_after": "the SDK's errors keep the words and the status of an answer, and drop its headers",
        "context_overflow": "the server cuts messages that are too long, and says nothing",
    }
