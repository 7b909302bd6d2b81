"""One call of a rotating client: the method of the SDK's client, its arguments, and how its answer is read."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any

from hfs_providers.calls.affinity import affinity_of_body
from hfs_providers.calls.backend import Backend
from hfs_providers.calls.budgeted_call import new_call
from hfs_providers.calls.call import Call
from hfs_providers.calls.options import CallOptions
from hfs_providers.contract.error_rules import ErrorRules
from hfs_providers.contract.records import Credential
from hfs_providers.contract.usage_fields import Tokens, field_of
from hfs_providers.keys.leases import Lease


@dataclass(frozen=True)
class ClientPlan:
    """How the clients of a rotating client are made and read.

    Args:
        make: builds the SDK's client for a credential; called once for each key.
        model_param: the argument of a call that names its model.
        tokens: reads the tokens of an answer, or None for the usual places.
        completes: whether the arguments of a call are completed as keycycle's OpenAI client does it: with the default
            model if it names none, and with the usage of a stream unless it says otherwise.
    """

    backend: Backend
    make: Callable[[Credential], Any]
    options: CallOptions
    rules: ErrorRules
    model_param: str = "model"
    tokens: Callable[[Any], int] | None = None
    client_class: Any = object
    completes: bool = False
    taken: dict[tuple[str, ...], frozenset[str]] = field(default_factory=dict)
    """By path, the keywords of its method that were looked up already."""

    def usage(self, answer: Any) -> Tokens | None:
        """The provider's count, or None if the answer has none."""
        if self.tokens is not None:
            return Tokens(total_tokens=int(self.tokens(answer) or 0))
        found = field_of(answer, "usage")
        if found is None:
            # The events of OpenAI's Responses streams have it one level deeper; those of other SDKs another name.
            found = field_of(field_of(answer, "response"), "usage") or field_of(
                field_of(answer, "meta"), "billed_units"
            )
        if found is None:
            return None
        return self.backend.traits.usage_fields.read(found)


class ClientRequest:
    """One call of a method of the SDK's client.

    Args:
        path: the attributes that lead to the method.
        clients: the SDK's clients by key id; those that are missing are made.
        args, kwargs: of the method. Arguments that only keycycle knows are taken out of `kwargs`.
    """

    def __init__(
        self,
        plan: ClientPlan,
        path: tuple[str, ...],
        clients: dict[str, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.plan = plan
        self._path = path
        self._clients = clients
        self._tracked = kwargs.pop("track_usage", None)
        self._args = args
        self._kwargs = kwargs
        self.raw = "with_raw_response" in path
        """Whether the answer is the SDK's raw response."""
        self.raw_stream = self.raw and bool(kwargs.get("stream"))
        """Whether it is one whose `parse()` is a stream."""

    def begin(self) -> Call:
        """The call, ready to be made."""
        plan = self.plan
        backend = plan.backend if self._tracked is None else plan.backend.tracking(bool(self._tracked))
        model = self._kwargs.get(plan.model_param)
        options = plan.options
        if model is None and plan.completes and backend.config.default_model is None:
            options = replace(options, explicit=False)
        model = model or backend.default_model_id
        affinity = affinity_of_body(self._kwargs, options.affinity)
        call = new_call(backend, options, model, affinity, self._kwargs, self._kwargs)
        call.rules = plan.rules
        return call

    def target(self, call: Call, lease: Lease) -> Callable[[], Any]:
        """What sends the request with the key of a lease."""
        plan, path, given = self.plan, self._path, dict(self._kwargs)
        target = reduce(getattr, path, client_of(plan, self._clients, lease.credential))
        if not plan.completes:
            return partial(target, *self._args, **given)
        taken = plan.taken.get(path)
        if taken is None:
            taken = plan.taken[path] = _keywords(target)
        if plan.model_param in taken and given.get(plan.model_param) is None:
            given[plan.model_param] = call.model_id
        streams = given.get("stream") or path[-1] == "stream"
        if streams and "completions" in path and "stream_options" in taken:
            given.setdefault("stream_options", {"include_usage": True})
        return partial(target, *self._args, **given)


def client_of(plan: ClientPlan, clients: dict[str, Any], credential: Credential) -> Any:
    """The SDK's client of a key; if it is not among `clients`, it is made and added."""
    client = clients.get(credential.id)
    if client is None:
        client = clients[credential.id] = plan.make(credential)
    return client


def _keywords(target: Any) -> frozenset[str]:
    """The keyword-only arguments of a method."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return frozenset()
    return frozenset(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)
