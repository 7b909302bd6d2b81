"""What the measurements have in common: the simulated providers, our manager and the bare models beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.figures import PROVIDERS

MODELS = {
    "cerebras": "llama-3.3-70b",
    "groq": "llama-3.3-70b-versatile",
    "gemini": "gemini-2.5-flash",
    "openrouter": "meta-llama/llama-3.3-70b-instruct:free",
}
KEYS = 4


@contextmanager
def simulated() -> Iterator[Any]:
    """The providers on loopback, in a process of their own, so that they cost the callers nothing."""
    from tests.loopback_process import LoopbackProcess

    with LoopbackProcess() as server:
        yield server


def environment(server: Any, keys: int | Mapping[str, list[str]] = KEYS) -> dict[str, str]:
    """A manager's environment over simulated providers, with limits that never delay a call."""
    env: dict[str, str] = server.env({name: keys if isinstance(keys, int) else keys[name] for name in PROVIDERS})
    # Usage is kept, as it is in a program.
    del env["HFS_USAGE_DB"]
    return env | {f"{name.upper()}_LIMITS": "none" for name in PROVIDERS}


def bare(server: Any, provider: str) -> Any:
    """The Agno model that one would use with a single key."""
    from importlib import import_module

    module, name = {
        "cerebras": ("agno.models.cerebras", "Cerebras"),
        "groq": ("agno.models.groq", "Groq"),
        "gemini": ("agno.models.google", "Gemini"),
        "openrouter": ("agno.models.openrouter", "OpenRouter"),
    }[provider]
    model = getattr(import_module(module), name)
    return model(id=MODELS[provider], api_key=server.new_key(provider), **address(provider, server.base_url(provider)))


def address(provider: str, base_url: str) -> dict[str, Any]:
    """The argument by which the provider's Agno class is sent elsewhere."""
    where: dict[str, Any] = {"base_url": base_url}
    return {"client_params": {"http_options": where}} if provider == "gemini" else where


def question() -> list[Any]:
    """A fresh message: Agno adds its answer to the list."""
    from agno.models.message import Message

    return [Message(role="user", content="Say hello.")]
