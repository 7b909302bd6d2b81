"""The arguments of `get_model`: how calls are made, and the arguments of the Agno class, checked before the model is
made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hfs_providers.calls.backend import Backend
from hfs_providers.calls.options import CallOptions
from hfs_providers.contract.records import Credential


def seconds(timeout: float | None) -> float:
    """The longest wait for a key in seconds; None is as long as it takes."""
    return math.inf if timeout is None else timeout


def class_arguments(
    backend: Backend,
    given: Mapping[str, Any],
    model_params: Mapping[str, Any] | None,
    request_timeout: float | None,
) -> dict[str, Any]:
    """The arguments of the Agno class.

    Args:
        backend: the provider's; its plugin's own arguments come first.
        given: the arguments that `get_model` does not know itself.
        model_params: the same, for arguments that have the name of one of `get_model`.
        request_timeout: seconds, passed to the SDK; None is the SDK's own.

    Raises:
        TypeError: an argument is given twice, or has another name here.
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
    arguments = {**backend.traits.model_params, **given, **explicit}
    if backend.config.base_url is not None and backend.clients.url_field is not None:
        arguments.setdefault(backend.clients.url_field, backend.config.base_url)
    return arguments


def bound_model(
    backend: Backend, credential: Credential, model_id: str | None = None, timeout: float | None = None
) -> Any:
    """A model without rotation that uses one key, and no lease; by default the default model.

    The timeout is the SDK's, in seconds. It is left out if the model class takes none.
    """
    from hfs_providers.calls.model import build_model

    takes_timeout = "timeout" in backend.model_class.__dataclass_fields__
    arguments = class_arguments(backend, {}, None, timeout if takes_timeout else None)
    model: Any = build_model(backend, model_id or backend.default_model_id, CallOptions(), arguments)
    bound = model.bare_copy()
    backend.clients.bind(bound, credential)
    return bound
