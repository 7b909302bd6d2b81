"""Families of SDKs: how each SDK accepts an HTTP client that all keys share. Lower packages do not import them."""

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
    "google_interactions": "hfs_providers.families.google_genai:InteractionsClients",
    "huggingface": "hfs_providers.families.huggingface:HuggingFaceClients",
    "litellm": "hfs_providers.families.litellm:LiteLLMClients",
    "llama": "hfs_providers.families.llama:LlamaClients",
    "mistral": "hfs_providers.families.mistral:MistralClients",
    "ollama": "hfs_providers.families.ollama:OllamaClients",
    "ollama_responses": "hfs_providers.families.stainless:OllamaResponsesClients",
    "portkey": "hfs_providers.families.portkey:PortkeyClients",
}
"""The subclasses of `Clients`, by the names for `KeyedProvider.client`."""
