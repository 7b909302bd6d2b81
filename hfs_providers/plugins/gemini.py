"""Gemini, through `agno.models.google:Gemini` and google-genai."""

from datetime import date

from hfs_providers.authoring import KeyedProvider, ModelDefault

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
)
