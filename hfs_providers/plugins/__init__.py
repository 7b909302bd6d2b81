"""The built-in providers: one module each, found through the same entry points as any other plugin."""

ORDER = ("cerebras", "groq", "gemini", "openrouter")
"""The order in which providers are tried if `HFS_PROVIDER_ORDER` is not set; the others follow by name."""
