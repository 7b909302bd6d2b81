"""Turning off the retries of an SDK's client that was built already: the rotating model owns retrying.

An SDK that repeats a refused request by itself sleeps for seconds before another key is tried. Nothing is imported:
each SDK is known by the attributes of its clients, and one that has none of these stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hfs_providers.calls.evidence import get


def turn_off_retries(client: Any) -> None:
    """Let an SDK's client send each request once.

    Args:
        client: of an SDK; it is changed.
    """
    for turn_off in (_stainless, _fern, _azure, _botocore):
        turn_off(client)


def _stainless(client: Any) -> None:
    """Anthropic, Together and others of the family."""
    _zero(client, "max_retries")


def _fern(client: Any) -> None:
    """Cohere."""
    _zero(get(get(client, "_client_wrapper"), "httpx_client"), "base_max_retries")


def _azure(client: Any) -> None:
    """Clients over azure-core."""
    _zero(get(get(client, "_config"), "retry_policy"), "total_retries")


def _botocore(client: Any) -> None:
    meta = get(client, "meta")
    named: Callable[[], object] | None = get(get(get(meta, "service_model"), "service_id"), "hyphenize")
    unregister = get(get(meta, "events"), "unregister")
    if callable(named) and callable(unregister):
        service = named()
        unregister(f"needs-retry.{service}", unique_id=f"retry-config-{service}")


def _zero(thing: Any, name: str) -> None:
    if isinstance(get(thing, name), int):
        try:
            setattr(thing, name, 0)
        except AttributeError:
            return
