"""What the codes of further servers mean, one table for each: see `verdict_rules` for those that many share.

Looked up by the `code` of a body, then by its `type`.
"""

from __future__ import annotations

from collections.abc import Mapping

from hfs_providers.calls.verdict_rules import (
    DEAD,
    GONE,
    GONE_HERE,
    LIMITED,
    OVERFLOW,
    OVERLOADED,
    REFUSED,
    SERVER,
    UNPAID,
    Rule,
)

# https://docs.claude.com/en/api/errors
ANTHROPIC: Mapping[str, Rule] = {
    "not_found_error": GONE_HERE,
    "timeout_error": SERVER,
    "request_too_large": OVERFLOW,
}

# tools/server/README.md of github.com/ggml-org/llama.cpp
LLAMA_CPP: Mapping[str, Rule] = {
    "exceed_context_size_error": OVERFLOW,
    # The model is still being loaded.
    "unavailable_error": OVERLOADED,
}

# https://platform.moonshot.ai/docs/api/chat#error-codes. `resource_not_found_error` is a model that is not there, or
# that the key may not use.
MOONSHOT: Mapping[str, Rule] = {
    "exceeded_current_quota_error": UNPAID,
    "engine_overloaded_error": OVERLOADED,
    "rate_limit_reached_error": LIMITED,
    "resource_not_found_error": GONE_HERE,
    "content_filter": REFUSED,
}

# https://www.alibabacloud.com/help/en/model-studio/error-code. The OpenAI-compatible path writes some in snake case.
DASHSCOPE: Mapping[str, Rule] = {
    "Arrearage": UNPAID,
    "InvalidApiKey": DEAD,
    "AccessDenied.Unpurchased": GONE_HERE,
    "data_inspection_failed": REFUSED,
    "DataInspectionFailed": REFUSED,
}

# github.com/tmc/langchaingo/issues/1233
MISTRAL: Mapping[str, Rule] = {"invalid_model": GONE}

# https://learn.microsoft.com/azure/ai-services/openai: a deployment belongs to the resource, and so to the key.
AZURE: Mapping[str, Rule] = {"DeploymentNotFound": GONE_HERE}

# xAI's codes are the descriptions of gRPC's. That of a wrong key is in QUOTES_KEY.
XAI: Mapping[str, Rule] = {"Some requested entity was not found": GONE_HERE}

# litellm/proxy/_types.py: ProxyErrorTypes. A model that a key may not use is answered with 401.
LITELLM: Mapping[str, Rule] = {
    "budget_exceeded": UNPAID,
    "expired_key": DEAD,
    "token_not_found_in_db": DEAD,
    "key_model_access_denied": GONE_HERE,
    "user_model_access_denied": GONE_HERE,
    "team_model_access_denied": GONE_HERE,
    "org_model_access_denied": GONE_HERE,
    "project_model_access_denied": GONE_HERE,
    "no_db_connection": SERVER,
}

# The Error.Code of botocore's ClientError: the exceptions of Converse in the Bedrock API reference, and the common
# errors of AWS for a request that is signed with a wrong key.
AWS: Mapping[str, Rule] = {
    "ThrottlingException": LIMITED,
    "TooManyRequestsException": LIMITED,
    "ServiceQuotaExceededException": LIMITED,
    "ModelNotReadyException": OVERLOADED,
    "ServiceUnavailableException": OVERLOADED,
    "InternalServerException": SERVER,
    "ModelErrorException": SERVER,
    "ModelStreamErrorException": SERVER,
    "ModelTimeoutException": SERVER,
    "ResourceNotFoundException": GONE_HERE,
    "ExpiredTokenException": DEAD,
    "IncompleteSignature": DEAD,
    "InvalidClientTokenId": DEAD,
    "InvalidSignatureException": DEAD,
    "MissingAuthenticationTokenException": DEAD,
    "UnrecognizedClientException": DEAD,
}

BY_SERVER_CODE: Mapping[str, Rule] = {
    **ANTHROPIC,
    **LLAMA_CPP,
    **MOONSHOT,
    **DASHSCOPE,
    **MISTRAL,
    **AZURE,
    **XAI,
    **LITELLM,
    **AWS,
}

# Errors that bring a status and no code, by the SDK that raises them. Ollama's own SDK asks for known paths only.
BY_SDK_AND_STATUS: Mapping[tuple[str, int], Rule] = {("ollama", 404): GONE}

# Codes of a bad request that a wrong key gets as well; then the answer quotes the key, masked.
# github.com/i-am-bee/beeai-framework/issues/447
QUOTES_KEY = frozenset({"Client specified an invalid argument"})
