"""Azure AI model inference: https://learn.microsoft.com/rest/api/aifoundry/modelinference/"""

from __future__ import annotations

from hfs_providers.testing.answers import Request
from hfs_providers.testing.protocols.azure_openai import AzureOpenAIDialect
from hfs_providers.testing.refusals import Answer
from hfs_providers.testing.scripts import ModelGone, Step


class AzureInferenceDialect(AzureOpenAIDialect):
    """OpenAI's chat completions below `/models`, with the model in the body and the key in `api-key`."""

    def __init__(self, provider: str, keyless: bool = False) -> None:
        super().__init__(provider, keyless=keyless, base_path="/models")

    def refuse(self, request: Request, step: Step) -> Answer | None:
        if isinstance(step, ModelGone):
            # github.com/microsoft/Generative-AI-for-beginners-dotnet/issues/302
            message = f"Unknown model: {request.model}"
            return 404, {"error": {"code": "unknown_model", "message": message, "details": message}}, {}
        return super().refuse(request, step)
