from typing import ClassVar

from hfs_providers_ollama import plugin
from ollama import ResponseError
from ollama_dialect import OllamaDialect

from hfs_providers.calls.verdicts import judge
from hfs_providers.testing import ProviderConformance


class TestOllama(ProviderConformance):
    plugin = plugin
    dialect = OllamaDialect()
    lacks: ClassVar = {
        "retry_after": "the SDK's errors keep the words and the status of an answer, and drop its headers",
        "context_overflow": "the server cuts messages that are too long, and says nothing",
    }


def test_a_404_of_the_sdk_is_about_the_model() -> None:
    verdict = judge(ResponseError("model 'm' not found", 404), plugin.errors)
    assert (verdict.kind, verdict.scope) == ("model_gone", "key")
