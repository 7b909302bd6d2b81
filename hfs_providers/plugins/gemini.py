"""Gemini, through `agno.models.google:Gemini` and google-genai."""

import base64
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from hfs_providers.authoring import KeyedProvider, MessageRules, ModelDefault

# https://ai.google.dev/gemini-api/docs/thought-signatures: for a call that another model made.
_UNSIGNED = base64.b64encode(b"skip_thought_signature_validator").decode("ascii")
_BEFORE_3 = re.compile(r"gemini-[12](\.|-|$)")


def sign_tool_calls(model_id: str, calls: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Tool calls with the signature that Gemini 3 wants: of parallel calls it signs only the first."""
    if "thought_signature" in calls[0] or _BEFORE_3.match(model_id):
        return calls
    return [{**calls[0], "thought_signature": _UNSIGNED}, *calls[1:]]


plugin = KeyedProvider(
    name="gemini",
    model_class="agno.models.google:Gemini",
    sdk="google-genai",
    sdk_module="google.genai",
    base_url="https://generativelanguage.googleapis.com",
    openai_path="/v1beta/openai",
    models=(
        # https://ai.google.dev/gemini-api/docs/deprecations
        ModelDefault("gemini-2.5-flash", retires=date(2026, 12, 1)),
        ModelDefault("gemini-3.5-flash-lite"),
    ),
    # No limits: Google shows them per project in AI Studio and publishes no table; its answers say when to wait.
    windows={"gemini-*": 1_048_576},
    env_aliases=("GOOGLE_API_KEY",),
    client="google_genai",
    proof="models",
    # Agno's class takes a pydantic class as a schema, and nothing else.
    messages=MessageRules(tool_calls=sign_tool_calls, json_schemas=False),
)
