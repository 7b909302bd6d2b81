"""What `get_model` is given: how calls are made, and the arguments of the Agno class, checked before it is made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfs_providers.wrapper.wrapper import ProviderWrapper


def seconds(timeout: float | None) -> float:
    """Seconds to wait for a key at most; None is as long as it takes."""
    return math.inf if timeout is None else timeout


def class_arguments(
    wrapper: ProviderWrapper,
    given: Mapping[str, Any],
    model_params: Mapping[str, Any] | None,
    request_timeout: float | None,
) -> dict[str, Any]:
    """The arguments of the Agno class.

    Args:
        wrapper: the provider's wrapper; its plugin's own arguments come first.
        given: what `get_model` does not know itself.
        model_params: the same, for arguments that are called like those of `get_model`.
        request_timeout: seconds, passed to the SDK; None is the SDK's own.

    Raises:
        TypeError: an argument that is given twice, or that has another name here.
    """
    explicit = dict(model_params or {})
    if "id" in given or "id" in explicit:
        raise TypeError("get_model takes the id of the model as model_id, not as id")
    twice = sorted(given.keys() & explicit.keys())
    if twice:
        raise TypeError(f"get_model got {', '.join(twice)} twice: as an argument and in model_params")
    if request_timeout is not None:
        if "timeout" in explicit:
            raise TypeError("get_model got the SDK's timeout twice: as request_timeout and in model_params")
        explicit["timeout"] = request_timeout
    arguments = {**wrapper.plugin.model_params, **given, **explicit}
    if wrapper.config.base_url is not None and wrapper.clients.url_field is not None:
        arguments.setdefault(wrapper.clients.url_field, wrapper.config.base_url)
    return arguments
