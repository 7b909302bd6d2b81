"""The built-in providers: one module each, found through the same entry points as anyone's."""

ORDER = ("cerebras", "groq", "gemini", "openrouter")
"""The order in which providers are tried unless `HFS_PROVIDER_ORDER` says otherwise; the others follow by name."""
