"""Copies of a rotating model: shallow, deep, by `dataclasses.replace`, and in other processes.

All copies of a model share its rotation, and so its keys.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agno.models.base import Model

    from hfs_providers.calls.backend import Rotation

KEY_FIELDS = frozenset({"api_key", "auth_token", "client", "async_client"})
"""Attributes of Agno's classes that hold a key or a client with a key."""

_SHARED = frozenset({"_hfs", "http_client", "response_format", "_tools", "_functions"})


@dataclass(init=False, repr=False, eq=False)
class _Replaced:
    """Its one field makes `dataclasses.replace` pass the rotation on. As an `InitVar` it is not among `fields()`."""

    _hfs: InitVar[Any] = None


def fields_of(model_class: type[Any]) -> dict[str, Any]:
    """The dataclass fields of a rotating subclass of `model_class`."""
    return {**model_class.__dataclass_fields__, **_Replaced.__dataclass_fields__}


class Copies:
    """Mixed into a rotating model."""

    _hfs: Rotation

    def __init__(self, *args: Any, _hfs: Rotation | None = None, **kwargs: Any) -> None:
        if _hfs is not None and kwargs.get("api_key") is not None:
            raise TypeError("a rotating model does not accept api_key: keys come from the environment")
        super().__init__(*args, **kwargs)
        if _hfs is not None:
            self.__dict__ |= {"_hfs": _hfs, "api_key": None}

    def __copy__(self) -> Model:
        new: Any = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        # As Agno does: without clients. A value that cannot be copied is shared.
        new: Any = object.__new__(type(self))
        memo[id(self)] = new
        clients = self._client_fields()
        for name, value in self.__dict__.items():
            if name in clients:
                new.__dict__[name] = None
            else:
                new.__dict__[name] = value if name in _SHARED else _copied(value, memo)
        return new  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Any, ...]:
        rotation = self._hfs
        rebuild = rotation.backend.services.rebuild
        if rebuild is None:
            raise TypeError(
                f"{self!r} cannot be pickled: its manager was built from an explicit environment, which another "
                "process does not have. Build it with ProviderManager() from the process environment"
            )
        left = {"_hfs", "api_key", *self._client_fields()}
        state = {name: value for name, value in self.__dict__.items() if name not in left}
        model_id = state["id"] if rotation.options.explicit else None
        return (_Recipe(rebuild, rotation.backend.provider, model_id, rotation.options.arguments()), (), state)

    def _client_fields(self) -> frozenset[str]:
        rotation = self.__dict__.get("_hfs")
        own = {"client", "async_client"}
        if rotation is not None:
            own |= {rotation.backend.clients.client_field, rotation.backend.clients.async_client_field}
        return frozenset(own)


@dataclass(frozen=True, slots=True)
class _Recipe:
    """Builds the model again in another process, from that process's environment. It holds no key."""

    rebuild: Callable[..., Model]
    provider: str
    model_id: str | None
    options: Mapping[str, Any]

    def __call__(self) -> Model:
        return self.rebuild(self.provider, self.model_id, **self.options)


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        # For example `client_params` with the caller's own HTTP client, which holds locks.
        with suppress(Exception):
            return copy.copy(value)
        return value
