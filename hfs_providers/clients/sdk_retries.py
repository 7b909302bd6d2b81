"""Turning off the retries of an SDK's client that was built already: the rotating model owns retrying.

An SDK that repeats a refused request by itself sleeps for seconds before another key is tried. Nothing is imported:
each SDK is known by the attributes of its clients, and one that has none of these stays as it is.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any


def turn_off_retries(client: Any) -> None:
    """Let an SDK's client send each request once."""
    # The OpenAI family; clients with a wrapper of their own; clients over azure-core.
    _zero(client, "max_retries")
    _zero(_at(client, "_client_wrapper", "httpx_client"), "base_max_retries")
    _zero(_at(client, "_config", "retry_policy"), "total_retries")
    _botocore(client)


def _botocore(client: Any) -> None:
    service_name = _at(client, "meta", "service_model", "service_id", "hyphenize")
    unregister = _at(client, "meta", "events", "unregister")
    if callable(service_name) and callable(unregister):
        service = service_name()
        unregister(f"needs-retry.{service}", unique_id=f"retry-config-{service}")


def _zero(thing: Any, name: str) -> None:
    if isinstance(_at(thing, name), int):
        with suppress(AttributeError):
            setattr(thing, name, 0)


def _at(thing: Any, *path: str) -> Any:
    """The attribute at a path, or None: a property of somebody else's object may raise anything."""
    for name in path:
        try:
            thing = getattr(thing, name, None)
        except Exception:
            return None
    return thing
