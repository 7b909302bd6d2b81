"""Which SDK an Agno model class is built on, by the classes that it inherits from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Sdk(NamedTuple):
    """What a plugin for a model class must declare.

    Args:
        distribution: the SDK's distribution.
        client: the family, or `own`.
        address: the vendor's address, for this class only: a class that inherits from it has another.
        module: the SDK's module, if its name differs from the distribution's.
        chat: whether it has OpenAI's chat completions.
        params: arguments of the class that calls over several keys need.
        streams: arguments that a stream needs to report its usage.
        lacks: what the class cannot do, for `ProviderConformance.lacks`.
        besides: other distributions that the class needs.
        why: why there is no family for it, if the client is `own`.
    """

    distribution: str
    client: str
    address: str | None = None
    module: str | None = None
    chat: bool = False
    params: Mapping[str, object] = {}
    streams: Mapping[str, object] = {}
    lacks: Mapping[str, str] = {}
    besides: Sequence[str] = ()
    why: str = ""


_NO_HEADERS = {"retry_after": "the SDK's errors keep the message and the status of an answer, but not its headers"}
# An answer that the provider stores belongs to the account of the key that requested it.
_UNCHAINED = {"use_previous_response_id": False}
# In `extra_body`, because the classes have no field for it.
_COUNTED = {"extra_body": {"stream_options": {"include_usage": True}}}
_BEDROCK = "https://bedrock-runtime.us-east-1.amazonaws.com"
_BEDROCK_LACKS = {
    "payment": "its code is the same for every denied access",
    "context_overflow": "its code is the same for every bad request",
    "timeouts": "the model class accepts none",
    "model_listing": "another service of AWS lists the models",
}

SDKS: Mapping[str, Sdk] = {
    "anthropic:Claude": Sdk("anthropic", "anthropic", "https://api.anthropic.com"),
    "aws:AwsBedrock": Sdk(
        "boto3",
        "bedrock",
        _BEDROCK,
        lacks=_BEDROCK_LACKS,
        besides=["aioboto3"],
    ),
    "aws:Claude": Sdk(
        "anthropic",
        "anthropic_bedrock",
        _BEDROCK,
        lacks={name: why for name, why in _BEDROCK_LACKS.items() if name != "timeouts"},
        besides=["boto3"],
    ),
    "vertexai:Claude": Sdk(
        "anthropic",
        "anthropic_vertex",
        "https://aiplatform.googleapis.com/v1",
        params={"project_id": "my-project", "region": "global"},
        lacks={"model_listing": "the SDK's client for it lists none"},
        besides=["google-auth"],
    ),
    "azure:Claude": Sdk(
        "anthropic",
        "anthropic",
        "https://my-resource.services.ai.azure.com/anthropic",
        lacks={"model_listing": "the SDK's client for it lists none"},
    ),
    "azure:AzureAIFoundry": Sdk(
        "azure-ai-inference",
        "azure_inference",
        "https://my-resource.services.ai.azure.com/models",
        "azure.ai.inference",
        streams={"model_extras": {"stream_options": {"include_usage": True}}},
        lacks={"model_listing": "the SDK lists none"},
        besides=["aiohttp"],
    ),
    "azure:AzureOpenAI": Sdk("openai", "azure_openai", "https://my-resource.openai.azure.com/openai"),
    "azure:AzureOpenAIResponses": Sdk(
        "openai", "azure_openai", "https://my-resource.openai.azure.com/openai", params=_UNCHAINED
    ),
    "cerebras:Cerebras": Sdk(
        "cerebras-cloud-sdk", "stainless", "https://api.cerebras.ai", "cerebras.cloud.sdk", streams=_COUNTED
    ),
    "cohere:Cohere": Sdk(
        "cohere",
        "cohere",
        "https://api.cohere.com",
        lacks={"timeouts": "the model class takes none"},
    ),
    "google:Gemini": Sdk("google-genai", "google_genai", "https://generativelanguage.googleapis.com", "google.genai"),
    "google:GeminiInteractions": Sdk(
        "google-genai",
        "google_interactions",
        "https://generativelanguage.googleapis.com",
        "google.genai",
        # An interaction that the provider keeps belongs to the project of the key that asked for it.
        params={"store": False},
        lacks={"context_overflow": "its errors have no code for it"},
    ),
    "groq:Groq": Sdk("groq", "stainless", "https://api.groq.com", streams={"request_params": _COUNTED}),
    "huggingface:HuggingFace": Sdk("huggingface_hub", "huggingface", "https://router.huggingface.co/v1", chat=True),
    "ibm:WatsonX": Sdk(
        "ibm-watsonx-ai",
        "own",
        "https://eu-de.ml.cloud.ibm.com",
        module="ibm_watsonx_ai",
        why="the SDK refuses an http address, and exchanges each key for a token at a fixed address of IBM",
    ),
    "litellm:LiteLLM": Sdk(
        "litellm",
        "litellm",
        # The address of a proxy, which must be replaced if another is used.
        "http://127.0.0.1:4000/v1",
        # Without it, a call with tools is an ImportError.
        besides=["mcp"],
        lacks={"timeouts": "the model class takes none"},
    ),
    # It needs LiteLLM too, because its package imports the other class first.
    "litellm:LiteLLMOpenAI": Sdk("openai", "stainless", "http://127.0.0.1:4000", chat=True, besides=["litellm"]),
    "meta:Llama": Sdk(
        "llama-api-client",
        "llama",
        "https://api.llama.com/v1",
        "llama_api_client",
        lacks={"context_overflow": "its errors have no codes"},
    ),
    # Its package imports the other class of it first.
    "meta:LlamaOpenAI": Sdk(
        "openai", "stainless", "https://api.llama.com/compat/v1/", chat=True, besides=["llama-api-client"]
    ),
    "mistral:MistralChat": Sdk("mistralai", "mistral", "https://api.mistral.ai", "mistralai.client"),
    "ollama:Ollama": Sdk(
        "ollama",
        "ollama",
        "http://127.0.0.1:11434",
        lacks={**_NO_HEADERS, "context_overflow": "the server silently truncates messages that are too long"},
    ),
    "ollama:OllamaResponses": Sdk("openai", "ollama_responses", "http://127.0.0.1:11434/v1", params=_UNCHAINED),
    "openai:OpenAIChat": Sdk("openai", "stainless", "https://api.openai.com/v1", chat=True),
    "openai:OpenAIResponses": Sdk(
        "openai",
        "stainless",
        "https://api.openai.com/v1",
        params=_UNCHAINED,
    ),
    "portkey:Portkey": Sdk("openai", "portkey", "https://api.portkey.ai/v1", chat=True, besides=["portkey-ai"]),
}
"""The SDKs by model class: the package in `agno.models`, and the name of the class."""


_TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}},
}
# A field without which a class of the OpenAI family creates no client.
_NEEDED = ("project_id",)


def lacks_of(used: Sdk, model_class: type[Any] | None) -> Mapping[str, str]:
    """What a model class cannot do, for `ProviderConformance.lacks`."""
    if model_class is None or not used.chat:
        return used.lacks
    try:
        sent = model_class(id="m", api_key="none").get_request_params(tools=[_TOOL])
    except Exception:  # a class that needs more arguments
        return used.lacks
    return used.lacks if "tools" in sent else {**used.lacks, "tools": "the model class sends no tools"}


def needed_of(model_class: type[Any] | None) -> Mapping[str, str]:
    """Arguments that a model class needs, with values to be replaced."""
    bases = [base.__name__ for base in getattr(model_class, "__mro__", ())]
    fields = getattr(model_class, "__dataclass_fields__", {})
    return {name: f"my-{name}" for name in _NEEDED if name in fields and "OpenAIChat" in bases}


def sdk_of(model_class: type[object]) -> Sdk | None:
    """The SDK of a model class, or None if it is not a known one."""
    for base in model_class.__mro__:
        module = base.__module__.split(".")
        if module[:2] != ["agno", "models"]:
            continue
        found = SDKS.get(f"{module[2]}:{base.__name__}")
        if found is not None:
            return found if base is model_class else found._replace(address=None)
    return None
