"""The protocols of the SDK families on the loopback server."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hfs_providers.testing.dialects import Dialect
from hfs_providers.testing.protocols.anthropic import AnthropicDialect
from hfs_providers.testing.protocols.anthropic_clouds import AnthropicBedrockDialect, AnthropicVertexDialect
from hfs_providers.testing.protocols.azure_inference import AzureInferenceDialect
from hfs_providers.testing.protocols.azure_openai import AzureOpenAIDialect
from hfs_providers.testing.protocols.bedrock import BedrockDialect
from hfs_providers.testing.protocols.cohere import CohereDialect
from hfs_providers.testing.protocols.huggingface import HuggingFaceDialect
from hfs_providers.testing.protocols.interactions import InteractionsDialect
from hfs_providers.testing.protocols.llama import LlamaDialect
from hfs_providers.testing.protocols.mistral import MistralDialect
from hfs_providers.testing.protocols.ollama import OllamaDialect
from hfs_providers.testing.protocols.portkey import PortkeyDialect
from hfs_providers.testing.spoken import GeminiDialect, OpenAIDialect

SPOKEN_BY: Mapping[str, Callable[..., Dialect]] = {
    "stainless": OpenAIDialect,
    "ollama_responses": OpenAIDialect,
    "anthropic": AnthropicDialect,
    "anthropic_bedrock": AnthropicBedrockDialect,
    "anthropic_vertex": AnthropicVertexDialect,
    "azure_inference": AzureInferenceDialect,
    "azure_openai": AzureOpenAIDialect,
    "bedrock": BedrockDialect,
    "cohere": CohereDialect,
    "google_genai": GeminiDialect,
    "google_interactions": InteractionsDialect,
    "huggingface": HuggingFaceDialect,
    "litellm": OpenAIDialect,
    "llama": LlamaDialect,
    "mistral": MistralDialect,
    "ollama": OllamaDialect,
    "portkey": PortkeyDialect,
}
"""By the name of a family (`KeyedProvider.client`), the function that creates a provider's dialect from its name and
`keyless`."""

# The path that these SDKs add to their base URL; openai's adds none.
_PATHS = {"groq": "/openai/v1", "cerebras-cloud-sdk": "/v1"}


def dialect_of(provider: str, client: object, sdk: str | None, keyless: bool) -> Dialect | None:
    """The dialect of a provider, or None if its family has none.

    Args:
        provider: its name.
        client, sdk, keyless: as in `KeyedProvider`.
    """
    if client == "stainless" and sdk in _PATHS:
        return OpenAIDialect(provider, "", api_path=_PATHS[sdk], unasked_usage=True, keyless=keyless)
    make = SPOKEN_BY.get(client) if isinstance(client, str) else None
    return make(provider, keyless=keyless) if make is not None else None
