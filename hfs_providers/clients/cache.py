"""SDK clients by key, over one HTTP connection pool for each provider, so that a rotated call costs no handshake.

The SDKs' own retries are off: the rotating model owns retrying. An SDK client is built by the Agno class's own
`get_client`, so whatever that class passes to its SDK stays as it is.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from hfs_providers.clients.sdk_retries import turn_off_retries
from hfs_providers.clients.transports import EACH, backend_of, noting, refuse_cookies, spread
from hfs_providers.contract.error_rules import ErrorRules
from hfs_providers.contract.forks import ForkPhase, at_fork
from hfs_providers.contract.protocols import ProviderTraits
from hfs_providers.contract.records import Credential, ProviderConfig

if TYPE_CHECKING:
    import ssl

_MOST_CLIENTS = 4096
"""SDK clients kept for a provider and loop; beyond it the oldest is dropped (a new one costs well below 1 ms)."""

_PLAIN = ProviderTraits("", "")


class Clients:
    """SDK clients by key, and the differences between SDKs: a plugin whose SDK is not like a known one subclasses it.

    Without a subclass it is for model classes that take no shared transport: each key has a client of its own.
    """

    settings: tuple[str, ...] = ("base_url", "timeout", "default_headers", "default_query", "client_params")
    """Attributes of a model that its SDK client depends on."""

    url_field: str | None = "base_url"
    """The attribute of a model that takes the provider's address, or None."""

    key_field = "api_key"
    """The attribute of a model that takes the key."""

    client_field = "client"
    """The attribute where the model class keeps its sync client."""

    async_client_field = "async_client"
    """The attribute where the model class keeps its async client. It may be the same one."""

    secret_fields: tuple[str, ...] = ()
    """Further attributes of the model class that hold a key, or what was made with one. Nobody may set them."""

    answers: Literal["unknown", "choices", "asked"] = "unknown"
    """How a broken answer is recognised: not at all; by `choices` or `candidates` of the SDK's pydantic models; or by
    calling `usable` and `ends`."""

    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """What the providers of this SDK have in common, by field of `KeyedProvider` (such as `usage_fields`). It is used
    if a plugin does not set the field; `errors` are added to those of the plugin."""

    def __init__(self, provider: ProviderTraits, config: ProviderConfig) -> None:
        self.provider = provider
        self.config = config
        self._settings_of: Callable[[Mapping[str, Any]], Hashable] = _not_known_yet
        self._lock = threading.RLock()
        self._forget()
        at_fork(ForkPhase.CLIENTS, child=self._forget)

    def _forget(self) -> None:
        # After a fork the parent's connections are still its own: the child drops them unclosed and makes new ones.
        self._lock = threading.RLock()
        self._sync: OrderedDict[Hashable, Any] = OrderedDict()
        self._async: dict[asyncio.AbstractEventLoop, _LoopClients] = {}
        self._transport: Any = None
        self._context: ssl.SSLContext | None = None
        self._unused = False
        self._retired: list[_LoopClients] = []

    @classmethod
    def complete(cls, traits: ProviderTraits) -> ProviderTraits:
        """The data of a provider, with the `defaults`."""
        more = {name: value for name, value in cls.defaults.items() if getattr(traits, name) == getattr(_PLAIN, name)}
        if isinstance(own := cls.defaults.get("errors"), ErrorRules):
            more["errors"] = traits.errors.over(own)
        if not more:
            return traits
        # Not `replace`: a subclass of the record may be made in another way.
        completed = copy.copy(traits)
        for name, value in more.items():
            object.__setattr__(completed, name, value)
        return completed

    def bind(self, bound: Any, credential: Credential) -> None:
        """Give `bound`, a model of one call, the sync client of a key."""
        state = bound.__dict__
        try:
            # Most calls end here: most settings are None or text, and are hashable as they are.
            client = self._sync[credential.id, self._settings_of(state)]
        except (LookupError, TypeError):
            client = self._found_or_made(bound, credential)
        state[self.client_field] = client

    def bind_known(self, bound: Any, credential: Credential) -> bool:
        """As `abind`, but only if the client exists already, as in most calls. Returns whether it does."""
        state = bound.__dict__
        try:
            clients = self._async[asyncio.get_running_loop()].clients
            state[self.async_client_field] = clients[credential.id, self._settings_of(state)]
        except (LookupError, TypeError):
            return False
        return True

    async def abind(self, bound: Any, credential: Credential) -> None:
        """Give `bound` the async client of a key for the running event loop."""
        loop = asyncio.get_running_loop()
        entry = self._async.get(loop) or await self._enter(loop)
        identity = self._identity(bound, credential)
        client = entry.clients.get(identity)
        if client is None:
            self.configure_async(bound, credential, entry.transport)
            client = self.unrepeating(self.async_client(bound))
            _keep(entry.clients, identity, client)
        bound.__dict__[self.async_client_field] = client

    def renew(self) -> None:
        """Let the next sync calls use a new connection pool. Calls in flight finish on the old one.

        Raises what making the new one raises; then the next call that finds none makes one.
        """
        with self._lock:
            if self._unused:
                # Another call that failed with this one has renewed it already.
                return
            # Not closed: it goes when the last call that holds it has ended.
            self._sync.clear()
            self._transport = None
            self._transport = self.make_transport()
            self._unused = True

    async def arenew(self) -> None:
        """As `renew`, for the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            entry = self._async.get(loop)
            if entry is not None:
                if not entry.clients:
                    return
                del self._async[loop]
                # Kept until its loop ends: without an owner its guard would close it under the calls in flight.
                self._retired = [kept for kept in self._retired if not kept.loop.is_closed()]
                self._retired.append(entry)
        await self._enter(loop)

    def close(self) -> None:
        """Close what is shared. The clients of event loops are closed with their loops."""
        with self._lock:
            transport, self._transport = self._transport, None
            self._sync.clear()
            self._async.clear()
            self._retired.clear()
        if transport is not None:
            transport.close()

    def tls_context(self, backend: Any) -> ssl.SSLContext:
        """The TLS context for httpx or httpx2: one a provider (it takes 25 ms), not one for all (ALPN is set on it)."""
        with self._lock:
            if self._context is None:
                self._context = backend.create_ssl_context()
            return self._context

    @property
    def detects_truncation(self) -> bool:
        """Whether a stream that was cut off can be recognised."""
        return self.answers != "unknown"

    def shared(self, base: type[Any], most_connections: int = 100, **options: Any) -> Any:
        """An HTTP client that all keys can share, for `make_transport` and `make_async_transport`.

        It keeps no cookie, its responses are closed when a stream is dropped, and the provider's one TLS context is
        used for each. An async one spreads what is in flight over several of its kind, unless a `transport` or `mounts`
        are given.

        Args:
            base: `Client`, `AsyncClient`, `HTTPTransport` or `AsyncHTTPTransport` of httpx or httpx2, or a subclass.
            most_connections: requests in flight of an async one; 100 is httpx's default.
            options: its arguments.
        """
        backend = backend_of(base)
        kind, context = noting(base), self.tls_context(backend)

        def make() -> Any:
            return refuse_cookies(kind(verify=context, **options))

        if not hasattr(base, "aclose"):
            return make()
        # A transport that was made outside is closed with the client that has it.
        whole = options.keys() & {"transport", "mounts"}
        return spread(make, most_connections, most_connections if whole else EACH)

    # What differs between SDKs.

    def make_transport(self) -> Any:
        """The shared HTTP client for sync calls, or None."""
        return None

    def make_async_transport(self) -> Any:
        """The shared HTTP client for the running event loop, or None."""
        return None

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        """Set on `bound` what its `get_client` reads: key, transport, retries off."""
        if credential.secret is not None:
            setattr(bound, self.key_field, credential.secret.reveal())
        elif self.url_field is not None and "endpoint" in credential.params:
            setattr(bound, self.url_field, credential.params["endpoint"])

    def configure_async(self, bound: Any, credential: Credential, transport: Any) -> None:
        """As `configure`, for `get_async_client`."""
        self.configure(bound, credential, transport)

    def async_client(self, bound: Any) -> Any:
        """Build the async SDK client."""
        return bound.get_async_client()

    def unrepeating(self, client: Any) -> Any:
        """An SDK's new client with its own retries turned off, if the SDK is known to have any."""
        turn_off_retries(client)
        return client

    def usable(self, answer: Any) -> bool:
        """Whether a complete answer of the SDK has content. For `answers = "asked"`."""
        return answer is not None

    def ends(self, chunk: Any) -> bool:
        """Whether a chunk of a stream says that the answer is complete. For `answers = "asked"`."""
        raise LookupError(f"{type(self).__name__} says answers = 'asked' and has no method `ends`")

    def model_ids(self, client: Any) -> Iterable[str]:
        """The ids of the provider's models, asked live with a sync client of the SDK."""
        page = client.models.list()
        # The OpenAI family answers with `data`, others with something to iterate over.
        return (str(getattr(m, "id", None) or m.name).removeprefix("models/") for m in getattr(page, "data", page))

    def _found_or_made(self, bound: Any, credential: Credential) -> Any:
        identity = self._identity(bound, credential)
        client = self._sync.get(identity)
        if client is None:
            with self._lock:
                if self._transport is None:
                    self._transport = self.make_transport()
                self.configure(bound, credential, self._transport)
                client = self.unrepeating(bound.get_client())
                _keep(self._sync, identity, client)
                self._unused = False
        return client

    def _identity(self, bound: Any, credential: Credential) -> Hashable:
        if self._settings_of is _not_known_yet:
            # All models of a provider are of one class, which may lack some of these.
            # `provider` is always there and always the same: with it, what is got is a tuple.
            names = [name for name in self.settings if name in bound.__dict__]
            self._settings_of = itemgetter("provider", *names)
        values: Any = self._settings_of(bound.__dict__)
        try:
            hash(values)
        except TypeError:
            values = tuple(_frozen(value) for value in values)
        return (credential.id, values)

    async def _enter(self, loop: asyncio.AbstractEventLoop) -> _LoopClients:
        transport = self.make_async_transport()
        # A loop that shuts down closes its async generators, and with this one the connections that live on it.
        guard = _closes_with_loop(transport)
        await anext(guard)
        entry = _LoopClients(loop, transport, guard)
        with self._lock:
            for other in [other for other in self._async if other.is_closed()]:
                del self._async[other]
            # Another task may have been here while this one waited; then its entry serves, and this one closes.
            return self._async.setdefault(loop, entry)


class _LoopClients:
    """What belongs to one event loop. It keeps `guard` alive, which the loop itself only refers to weakly."""

    __slots__ = ("clients", "guard", "loop", "transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: Any, guard: AsyncIterator[None]) -> None:
        self.loop = loop
        self.transport = transport
        self.guard = guard
        self.clients: OrderedDict[Hashable, Any] = OrderedDict()


async def _closes_with_loop(transport: Any) -> AsyncIterator[None]:
    try:
        while True:
            yield
    finally:
        if transport is not None:
            await (getattr(transport, "aclose", None) or transport.close)()


def _not_known_yet(state: Mapping[str, Any]) -> Hashable:
    raise LookupError


def _keep(cache: OrderedDict[Hashable, Any], identity: Hashable, client: Any) -> None:
    cache[identity] = client
    while len(cache) > _MOST_CLIENTS:
        cache.popitem(last=False)


def _frozen(value: Any) -> Hashable:
    """A hashable stand-in for a setting: equal settings share a client, whatever cannot be compared does not."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return tuple((name, _frozen(item)) for name, item in sorted(value.items()))
    return _Same(value)


class _Same:
    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)
