"""The part of keycycle's interface that needs no model: rotating clients, tables, the switch for tracking."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hfs_providers.calls._keycycle import MultiProviderWrapper
from hfs_providers.calls.affinity import CONVERSATION
from hfs_providers.calls.backend import Backend
from hfs_providers.calls.evidence import root_of
from hfs_providers.calls.options import CallOptions
from hfs_providers.contract.errors import MissingSdkError, ProviderUnavailableError
from hfs_providers.contract.records import Credential
from hfs_providers.contract.secret import fingerprint
from hfs_providers.wrapper.arguments import seconds

if TYPE_CHECKING:
    from hfs_providers.wrapper.rotating_client import AsyncRotatingClient, RotatingClient
    from hfs_providers.wrapper.statistics import PoolManager


class KeycycleFace(MultiProviderWrapper):
    """keycycle's methods for rotating clients and statistics tables, on this library's backend."""

    backend: Backend
    manager: PoolManager  # type: ignore[assignment]  # over our pool

    @property
    def track_usage(self) -> bool:
        """Whether the requests of this wrapper are written to the usage database (`HFS_USAGE_DB`).

        A request that is not written still counts against the limits in this process. Other and later processes do not
        know of it.
        """
        return self.backend.tracks_usage

    @track_usage.setter
    def track_usage(self, enabled: bool) -> None:
        self.backend.tracks_usage = enabled

    def get_openai_client(self, estimated_tokens: int = 1000, max_retries: int = 5, **client_kwargs: Any) -> Any:
        """An `openai.OpenAI` for the provider's OpenAI-compatible endpoint, each of whose calls leases a key.

        As with keycycle, a call that names no model is made with the default one, and a stream that does not say
        `stream_options` ends with a chunk of its usage, whose `choices` are empty.

        Args:
            estimated_tokens: tokens to reserve for a call.
            max_retries: retries of transient failures per call.
            client_kwargs: arguments of `openai.OpenAI`, and `affinity` as for `get_rotating_client`.

        Raises:
            MissingSdkError: the openai SDK is not installed.
            ProviderUnavailableError: the provider has no such endpoint.
        """
        return self._openai("OpenAI", "DefaultHttpxClient", estimated_tokens, max_retries, client_kwargs)

    def get_async_openai_client(self, estimated_tokens: int = 1000, max_retries: int = 5, **client_kwargs: Any) -> Any:
        """As `get_openai_client`, of `openai.AsyncOpenAI`; for one event loop."""
        return self._openai("AsyncOpenAI", "DefaultAsyncHttpxClient", estimated_tokens, max_retries, client_kwargs)

    def get_rotating_client(  # type: ignore[override]  # keycycle's classes sleep, and log parts of keys
        self,
        client_class: type[Any],
        api_key_param: str = "api_key",
        is_async: bool | None = None,
        usage_extractor: Callable[[Any], int] | None = None,
        estimated_tokens: int = 1000,
        max_retries: int = 5,
        model_param: str = "model",
        excluded_kwargs: Sequence[str] | None = None,
        timeout: float | None = 10.0,
        *,
        affinity: str | None = CONVERSATION,
        **client_kwargs: Any,
    ) -> RotatingClient | AsyncRotatingClient:
        """A client of any SDK, each of whose calls leases a key.

        Args:
            client_class: of the SDK.
            api_key_param: the argument of its constructor that takes the key.
            is_async: whether its methods are coroutines; None decides by its name.
            usage_extractor: reads the tokens of an answer; None looks in the usual places.
            estimated_tokens: tokens to reserve for a call.
            max_retries: retries of transient failures per call. The SDK's own are turned off.
            model_param: the argument of a call that names its model.
            excluded_kwargs: arguments that are not passed to its constructor.
            timeout: seconds that a call waits for a key; None is as long as it takes.
            affinity: as for `ProviderManager.get_model`; a call's `prompt_cache_key` or `user` names one too.
            client_kwargs: arguments of its constructor.
        """
        from hfs_providers.wrapper import rotating_client as rotating
        from hfs_providers.wrapper.client_plan import ClientPlan

        given = {"max_retries": 0, **client_kwargs} if _retries(client_class) else client_kwargs
        arguments = rotating.accepted(client_class, given, excluded_kwargs or ())

        def make(credential: Credential) -> Any:
            key = {api_key_param: credential.secret.reveal()} if credential.secret is not None else {}
            return client_class(**key, **arguments)

        options = CallOptions(estimated_tokens, True, seconds(timeout), max_retries, affinity=affinity)
        rules = self.backend.traits.errors.with_modules([root_of(client_class)])
        plan = ClientPlan(self.backend, make, options, rules, model_param, usage_extractor, client_class)
        wanted = rotating.is_async(client_class) if is_async is None else is_async
        return rotating.AsyncRotatingClient(plan) if wanted else rotating.RotatingClient(plan)

    def _openai(
        self, client: str, transport: str, estimated_tokens: int, max_retries: int, given: dict[str, Any]
    ) -> RotatingClient | AsyncRotatingClient:
        if self.backend.traits.openai_path is None:
            raise ProviderUnavailableError(self.provider, ("it has no OpenAI-compatible endpoint",))
        try:
            import openai
        except ModuleNotFoundError:
            raise MissingSdkError(self.provider, "openai", "pip install openai") from None
        base_url = f"{(self.backend.config.base_url or '').rstrip('/')}{self.backend.traits.openai_path}"
        # One connection pool for all keys.
        arguments = {"base_url": base_url, "http_client": getattr(openai, transport)(), **given}
        client_class = getattr(openai, client)
        rotating = self.get_rotating_client(
            client_class, estimated_tokens=estimated_tokens, max_retries=max_retries, **arguments
        )
        return rotating._completing()  # noqa: SLF001  a public name would hide one of the SDK's client

    def print_key_stats(self, identifier: int | str) -> None:
        """Print one key by model.

        Args:
            identifier: its place (from 0), id, fingerprint or the key itself; what is not found is not shown whole.
        """
        super().print_key_stats(self._shown(identifier))

    def print_granular_stats(self, identifier: int | str, model_id: str) -> None:
        """Print one key and model; see `print_key_stats`."""
        super().print_granular_stats(self._shown(identifier), model_id)

    def _shown(self, identifier: int | str) -> int | str:
        """A form of the identifier that may be printed: keycycle's tables print an identifier that they do not find."""
        found = self.manager.find(identifier)
        if found is not None:
            return found[0]
        return identifier if isinstance(identifier, int) else fingerprint(identifier)

    def end_dropped(self) -> None:
        """Record the requests of streams that were dropped before their end."""
        import sys

        streams = sys.modules.get("hfs_providers.wrapper.rotating_streams")
        if streams is not None:
            streams.end_dropped()


def _retries(client_class: type[Any]) -> bool:
    return "max_retries" in inspect.signature(client_class).parameters
