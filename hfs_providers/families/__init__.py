"""Families of SDKs: how each takes an HTTP client that all keys share. Nothing below imports them."""

FAMILIES = {
    "stainless": "hfs_providers.families.stainless:StainlessClients",
    "anthropic": "hfs_providers.families.anthropic:AnthropicClients",
    "anthropic_bedrock": "hfs_providers.families.anthropic_clouds:AnthropicBedrockClients",
    "anthropic_vertex": "hfs_providers.families.anthropic_clouds:AnthropicVertexClients",
    "azure_inference": "hfs_providers.families.azure_inference:AzureInferenceClients",
    "azure_openai": "hfs_providers.families.azure_openai:AzureOpenAIClients",
    "bedrock": "hfs_providers.families.bedrock:BedrockClients",
    "cohere": "hfs_providers.families.cohere:CohereClients",
    "google_genai": "hfs_providers.families.google_genai:GenaiClients",
    "huggingface": "hfs_providers.families.huggingface:HuggingFaceClients",
    "litellm": "hfs_providers.families.litellm:LiteLLMClients",
    "llama": "hfs_providers.families.llama:LlamaClients",
    "mistral": "hfs_providers.families.mistral:MistralClients",
    "ollama": "hfs_providers.families.ollama:OllamaClients",
    "portkey": "hfs_providers.families.portkey:PortkeyClients",
}
"""By the name that `KeyedProvider.client` may give, the subclass of `Clients`."""
