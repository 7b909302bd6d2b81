"""Gemini, through `agno.models.google:Gemini` and google-genai."""

from datetime import date

from hfs_providers.authoring import ErrorRules, HttpApi, KeyedProvider, Meaning, ModelDefault

plugin = KeyedProvider(
    name="gemini",
    model_class="agno.models.google:Gemini",
    sdk="google-genai",
    sdk_module="google.genai",
    base_url="https://generativelanguage.googleapis.com",
    openai_path="/v1beta/openai",
    # https://ai.google.dev/gemini-api/docs/openai
    http=HttpApi(openai=("chat/completions", "embeddings", "models")),
    models=(
        # https://ai.google.dev/gemini-api/docs/deprecations
        ModelDefault("gemini-2.5-flash", retires=date(2026, 12, 1)),
        ModelDefault("gemini-3.5-flash-lite"),
    ),
    # No limits: Google publishes no table, only each project's limits in AI Studio. Its answers say how long to wait.
    windows={"gemini-*": 1_048_576},
    env_aliases=("GOOGLE_API_KEY",),
    client="google_genai",
    proof="models",
    # What all of Google's APIs have in common is in `families/google_status.py`.
    errors=ErrorRules(
        fields={
            "status": {
                "NOT_FOUND": Meaning("model_gone"),
                # Without a reason it is sent for a leaked key or a blocked project.
                "PERMISSION_DENIED": Meaning("dead"),
                # Sent where the free tier is not offered (a paid key would work) and for a file that is not ready yet:
                # the key pauses, and another is tried.
                "FAILED_PRECONDITION": Meaning("rate_limited", scope="key"),
            }
        }
    ),
    price_id="google",
)
