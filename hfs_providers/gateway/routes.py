"""Finds the providers and models for the model name in a request, and builds the requests to them."""

from __future__ import annotations

import re
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from hfs_providers import ProviderManager, __version__
from hfs_providers.calls.backend import Backend
from hfs_providers.calls.options import CallOptions
from hfs_providers.calls.verdicts import Verdict
from hfs_providers.contract.errors import ProviderError, SettingsError
from hfs_providers.contract.http_api import Endpoint
from hfs_providers.contract.records import Credential, Event
from hfs_providers.fallback.exchange_chain import ExchangeChain, ExchangeTarget
from hfs_providers.gateway.clients import AllowedModels
from hfs_providers.gateway.connection import Origin
from hfs_providers.gateway.refusals import Refusal

ANY = "any"
TIER_PREFIX = "tier/"
TRANSLATED: Mapping[Endpoint, Endpoint] = {"messages": "chat/completions"}
"""Endpoints, each with the one that is used at a provider without it."""
LONGEST_NAME = 200
"""The longest model name, in characters."""
MOST_NAMES = 8
"""The most names in a comma-separated list."""

_MOST_ROUTES = 1000
_MOST_UNANSWERED = 200
_MOST_ANSWERED = 5000
# Routes are computed again after this time, because a default model may have retired.
_FRESH = 3600.0
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NOT_IN_HEADER = re.compile(rb"[\x00-\x20\x7f]")


class UnusableKeyError(Exception):
    """A key that cannot be sent in a header."""

    verdict = Verdict("dead", None, "not_a_header", "the key has characters that a header cannot have", sent=False)


def backends(manager: ProviderManager) -> dict[str, Backend]:
    """The providers that work without an SDK, in fallback order. A plugin's own wrapper may have no backend."""
    found = {name: getattr(wrapper, "backend", None) for name, wrapper in manager.wrappers.items()}
    return {name: backend for name, backend in found.items() if isinstance(backend, Backend)}


class Wire(NamedTuple):
    """A request to an endpoint of a provider: the server, and all bytes before the key."""

    origin: Origin
    head: bytes


class Wires:
    """Builds the requests to one endpoint of a provider, for each of its keys.

    Args:
        path: the path that is added to the base URL.
    """

    def __init__(self, backend: Backend, path: str, method: str = "POST") -> None:
        self._backend = backend
        self._path = path
        self._method = method
        self._by_url: dict[str, Wire] = {}

    def request(self, credential: Credential, headers: bytes, body: bytes) -> tuple[Origin, bytes]:
        """The server and the bytes of a request.

        Raises:
            UnusableKeyError: the key cannot be sent in a header.
        """
        url = self._backend.config.base_url or ""
        key = b""
        if credential.secret is None:
            url = credential.params.get("endpoint", url)
        else:
            try:
                key = credential.secret.reveal().encode("ascii")
            except UnicodeEncodeError:
                raise UnusableKeyError from None
            if _NOT_IN_HEADER.search(key):
                raise UnusableKeyError
        wire = self._by_url.get(url) or self._wire(url)
        return wire.origin, b"%b%b\r\n%bcontent-length: %d\r\n\r\n%b" % (wire.head, key, headers, len(body), body)

    def _wire(self, url: str) -> Wire:
        origin, api = Origin.of(url), self._backend.traits.http
        path = f"{urllib.parse.urlsplit(url).path.rstrip('/')}{self._path}"
        named = f"[{origin.host}]" if ":" in origin.host else origin.host
        port = "" if origin.port == (443 if origin.tls else 80) else f":{origin.port}"
        lines = [
            f"{self._method} {path} HTTP/1.1",
            f"host: {named}{port}",
            f"user-agent: hfs-providers/{__version__}",
            "accept: application/json, text/event-stream",
            "accept-encoding: identity",
            "content-type: application/json",
            *(f"{name}: {value}" for name, value in api.headers.items()),
            # The key follows, at the end of this line.
            *(() if self._backend.traits.keyless else (f"{api.key_header}: {api.key_prefix}",)),
        ]
        wire = self._by_url[url] = Wire(origin, "\r\n".join(lines).encode("latin-1"))
        return wire


class _Entry(NamedTuple):
    """One of the models that a model name means.

    Args:
        model: None is the default model.
        pinned: whether no successor may replace it.
    """

    provider: str
    model: str | None = None
    pinned: bool = False


class Route(NamedTuple):
    """The target of a request, or a chain of several targets.

    Args:
        native: the route without targets for which the request is translated; None if those are all or none.
    """

    targets: Sequence[ExchangeTarget]
    chain: ExchangeChain | None
    native: Route | None = None


class AskedModels:
    """The models that clients have named. Their state needs memory, and a client may name anything. So the oldest of a
    provider's models that have never answered are forgotten."""

    def __init__(self) -> None:
        self._answered: set[tuple[str, str]] = set()
        self._others: dict[str, OrderedDict[str, None]] = {}

    def asked(self, target: ExchangeTarget) -> None:
        """A client has named a model."""
        if (target.provider, target.id) in self._answered:
            return
        others = self._others.setdefault(target.provider, OrderedDict())
        others[target.id] = None
        others.move_to_end(target.id)
        if len(others) > _MOST_UNANSWERED:
            target.backend.forget(others.popitem(last=False)[0])

    def answered(self, target: ExchangeTarget, model_id: str) -> None:
        """A model has answered."""
        pair = (target.provider, model_id)
        if pair not in self._answered and len(self._answered) < _MOST_ANSWERED:
            self._answered.add(pair)
            if (others := self._others.get(target.provider)) is not None:
                others.pop(model_id, None)


class Routes:
    """The routes of one endpoint, by model name."""

    def __init__(
        self, manager: ProviderManager, endpoint: Endpoint, emit: Callable[[Event], object] = lambda _: None
    ) -> None:
        self._manager = manager
        self._emit = emit
        self._endpoint = endpoint
        self._known: OrderedDict[str | tuple[str, AllowedModels], Route] = OrderedDict()
        self._fresh_until = 0.0
        self.wires: dict[str, Wires] = {}
        """By provider that has the endpoint, or one that it is translated for."""
        self.translated: set[str] = set()
        """The latter ones."""
        for provider, backend in backends(manager).items():
            path = backend.traits.http_path(endpoint)
            if path is None and (other := TRANSLATED.get(endpoint)) is not None:
                path = backend.traits.http_path(other)
                self.translated.add(provider)
            if path is not None and (backend.config.base_url or backend.traits.keyless):
                self.wires[provider] = Wires(backend, path, "GET" if endpoint == "models" else "POST")

    def find(self, name: str, allowed: AllowedModels | None = None) -> Route:
        """The route of a model name.

        Args:
            allowed: the models that the client may use; None: all.

        Raises:
            Refusal: no provider serves it, or the client may not use it.
        """
        key = name if allowed is None else (name, allowed)
        route = self._known.get(key)
        now = time.monotonic()
        if route is None or now > self._fresh_until:
            route = self._make(name, allowed)
            if now > self._fresh_until:
                self._known.clear()
                self._fresh_until = now + _FRESH
            self._known[key] = route
            if len(self._known) > _MOST_ROUTES:
                self._known.popitem(last=False)
        return route

    def permits(self, name: str, allowed: AllowedModels | None) -> bool:
        """Whether a client may use any of the models that a name means."""
        try:
            return allowed is None or bool(self._permitted(name, allowed))
        except Refusal:
            return False

    def _make(self, name: str, allowed: AllowedModels | None) -> Route:
        if len(name) > LONGEST_NAME or _CONTROL.search(name):
            raise _refusal(400, "invalid_model", f"A model name has at most {LONGEST_NAME} printable characters.")
        names = [part.strip() for part in name.split(",")]
        if len(names) > MOST_NAMES:
            raise _refusal(400, "invalid_model", f"A list of models has at most {MOST_NAMES} names.")
        wanted = list(dict.fromkeys(entry for each in names for entry in self._permitted(each, allowed)))
        offered = [entry for entry in wanted if entry.provider in self.wires]
        if not offered:
            listed = ", ".join(dict.fromkeys(entry.provider for entry in wanted))
            message = f"/v1/{self._endpoint} is not offered by {listed or 'any provider'}."
            raise _refusal(501, "endpoint_not_offered", f"{message} /v1/models lists the models with their endpoints.")
        native = [entry for entry in offered if entry.provider not in self.translated]
        mixed = 0 < len(native) < len(offered)
        return self._route(offered)._replace(native=self._route(native) if mixed else None)

    def _route(self, entries: Sequence[_Entry]) -> Route:
        targets = [self._target(entry, several=len(entries) > 1) for entry in entries]
        return Route(targets, ExchangeChain(targets, self._emit) if len(targets) > 1 else None)

    def _permitted(self, name: str, allowed: AllowedModels | None) -> list[_Entry]:
        """The models that a name means and that the client may use."""
        entries = list(self._entries(name))
        if allowed is None or name in allowed:
            return entries
        kept = [self._held(entry, allowed) for entry in entries if self._full_name(entry) in allowed]
        if entries and not kept:
            message = f"You may not use {name}. /v1/models lists the models that you may use."
            raise _refusal(403, "model_not_allowed", message)
        return kept

    def _held(self, entry: _Entry, allowed: AllowedModels) -> _Entry:
        """The entry. If the successors of a default model are not allowed, it is pinned."""
        models = self._manager.inventory.providers[entry.provider].models
        return entry._replace(pinned=not all(f"{entry.provider}/{model.id}" in allowed for model in models))

    def _full_name(self, entry: _Entry) -> str:
        return f"{entry.provider}/{entry.model or self._manager.default_model(entry.provider)}"

    def _entries(self, name: str) -> Iterator[_Entry]:
        """The providers and models of one name."""
        manager = self._manager
        if name == ANY:
            yield from map(_Entry, manager.available_providers)
        elif name.startswith(TIER_PREFIX):
            tiers = manager.inventory.tiers
            tier = tiers.get(name.removeprefix(TIER_PREFIX).lower())
            if tier is None:
                raise _refusal(404, "model_not_found", f"There is no {name}. Tiers: {', '.join(tiers) or 'none'}.")
            for entry in tier:
                provider, _, model = entry.partition("/")
                if provider.lower() in manager.wrappers:
                    yield _Entry(provider.lower(), model or None)
        else:
            provider, _, model = name.partition("/")
            try:
                manager.wrapper(provider)
            except (ProviderError, SettingsError) as error:
                message = f"{str(error).rstrip('.')}. A model is named provider/model; /v1/models lists them."
                raise _refusal(404, "model_not_found", message) from None
            yield _Entry(provider, model or None)

    def _target(self, entry: _Entry, several: bool) -> ExchangeTarget:
        provider, model, pinned = entry
        backend = self._manager.wrappers[provider].backend
        if model is None and self._endpoint == "embeddings":
            message = f"Name the embedding model: {provider}/model. There is no default embedding model."
            raise _refusal(400, "invalid_model", message)
        pinned = pinned or model is not None or backend.config.default_model is not None
        options = CallOptions(explicit=pinned)
        if several:
            options = CallOptions(timeout=2.0, max_retries=0, explicit=options.explicit, in_chain=True)
        return ExchangeTarget(backend, model or backend.default_model_id, options)


def _refusal(status: int, code: str, message: str) -> Refusal:
    return Refusal(status, code, message, param="model")
