"""What the errors of a provider mean, as data of its plugin: `KeyedProvider.errors`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

Kind = Literal[
    "rate_limited",
    "dead",
    "model_gone",
    "context_overflow",
    "bad_request",
    "refused",
    "overloaded",
    "server_error",
    "transport",
    "empty",
    "interrupted",
    "local",
]
"""What can happen to a call: docs/verdicts.md."""

Scope = Literal["model", "key"]
"""What a refusal applies to: one model of the key, or the whole key."""


class Meaning(NamedTuple):
    """What an error means.

    Args:
        kind: the kind of the verdict (docs/verdicts.md).
        scope: for `rate_limited`, whether the limit is the model's or the whole key's. For `model_gone`, `key` means
            that this key's account lacks the model, but another key's account may have it.
        credits: for `dead`, whether the reason is that the key's account has no credits left.
        retry_after: seconds to wait. If the answer names waits too, the longest one counts.
    """

    kind: Kind
    scope: Scope = "model"
    credits: bool = False
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an SDK's error shows about the provider's answer, read once.

    Args:
        status: the HTTP status; for an error inside a stream, or in the body of a 200, the status that the body names.
            None if there is none.
        error: the innermost error object of the body; empty if the body is not a JSON object.
        headers: the answer's headers by lower-case name, each with all its values.
        sdk: the top-level module of the error's class.
        body: the body, decoded if it is JSON; None if the error holds none.
        now: wall clock, seconds since the epoch, for waits that end at an instant.
    """

    status: int | None
    error: Mapping[str, Any]
    headers: Mapping[str, Sequence[str]]
    sdk: str
    body: object
    now: float

    def values(self, path: str) -> list[Any]:
        """The values at a path of the error object, such as `metadata.error_type`; for a list, those of each item."""
        found: list[Any] = [self.error]
        for name in path.split("."):
            inner = [item.get(name) for item in found if isinstance(item, Mapping)]
            found = [part for item in inner for part in (item[:50] if isinstance(item, (list, tuple)) else (item,))]
        return [value for value in found if value is not None]

    def has(self, path: str) -> bool:
        """Whether the error object has a field at a path, even with the value null."""
        parent, _, name = path.rpartition(".")
        holders = self.values(parent) if parent else [self.error]
        return any(isinstance(holder, Mapping) and name in holder for holder in holders)


_Decide: TypeAlias = Callable[[Evidence], "Meaning | None"]


@dataclass(frozen=True, kw_only=True)
class ErrorRules:
    """What a provider's errors mean, if the library's general rules do not know it.

    They are read in the order of the fields below: first `decide`, then the tables. The general rules, for the codes
    that many servers share and for HTTP statuses, follow. Paths are those of `Evidence.values`.

    Args:
        decide: called with the evidence; for rules that a table cannot express, such as a status whose meaning depends
            on other fields. None leaves the decision to the tables.
        fields: by path of a field in the error object, what each of its values means.
        codes: what a `code` or `type` in the error object means.
        statuses: what an HTTP status means.
        exceptions: what an error of the SDK means that has no answer, by the name of its class.
        wait_headers: names of the provider's own headers that say how long to wait (seconds, a duration, an epoch or a
            date). They count before `Retry-After`.
        wait_fields: paths of fields that say how long to wait, as a duration or as seconds and nanoseconds.
        header_fields: paths of fields in which the body repeats headers.
        message_fields: paths of fields whose text is added to the message.
        modules: top-level modules, besides that of `sdk`, whose errors are the provider's.
        readers: functions of the SDK that read an answer. A `KeyError` or similar error that is raised inside one
            counts as a broken answer.
    """

    decide: Callable[[Evidence], Meaning | None] | None = None
    fields: Mapping[str, Mapping[str, Meaning]] = field(default_factory=dict)
    codes: Mapping[str, Meaning] = field(default_factory=dict)
    statuses: Mapping[int, Meaning] = field(default_factory=dict)
    exceptions: Mapping[str, Meaning] = field(default_factory=dict)
    wait_headers: Sequence[str] = ()
    wait_fields: Sequence[str] = ()
    header_fields: Sequence[str] = ()
    message_fields: Sequence[str] = ()
    modules: Collection[str] = ()
    readers: Collection[str] = ()

    def over(self, base: ErrorRules) -> ErrorRules:
        """These rules; those of `base` decide what they do not know."""
        decide = self.decide or base.decide
        if self.decide is not None and base.decide is not None:
            decide = partial(_first_meaning, self.decide, base.decide)
        # A path that both have keeps its place in `base`, where it may follow a path that says more.
        own = {path: table for path, table in self.fields.items() if path not in base.fields}
        return replace(
            self,
            decide=decide,
            fields={**own, **{path: {**table, **self.fields.get(path, {})} for path, table in base.fields.items()}},
            codes={**base.codes, **self.codes},
            statuses={**base.statuses, **self.statuses},
            exceptions={**base.exceptions, **self.exceptions},
            wait_headers=(*self.wait_headers, *base.wait_headers),
            wait_fields=(*self.wait_fields, *base.wait_fields),
            header_fields=(*self.header_fields, *base.header_fields),
            message_fields=(*self.message_fields, *base.message_fields),
            modules=frozenset(self.modules).union(base.modules),
            readers=frozenset(self.readers).union(base.readers),
        )

    def with_modules(self, modules: Collection[str]) -> ErrorRules:
        """These rules for the errors of further modules."""
        return replace(self, modules=frozenset(self.modules).union(modules))


def _first_meaning(own: _Decide, base: _Decide, evidence: Evidence) -> Meaning | None:
    try:
        decided = own(evidence)
    except Exception:  # a plugin's own function
        decided = None
    return decided if isinstance(decided, Meaning) else base(evidence)


NO_RULES = ErrorRules()
"""The rules for errors whose plugin is not known."""
