"""The suite itself, and the checks that a subclass does not leave out a part of it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from hfs_providers.testing.conformance.answers import AnswerChecks
from hfs_providers.testing.conformance.base import CAPABILITIES
from hfs_providers.testing.conformance.contract import ContractChecks
from hfs_providers.testing.conformance.declared import DeclaredErrorChecks
from hfs_providers.testing.conformance.failures import FailureChecks
from hfs_providers.testing.conformance.messages import DeclaredMessageChecks
from hfs_providers.testing.conformance.objects import ObjectChecks
from hfs_providers.testing.conformance.plain_http import PlainHttpChecks

_SETTABLE = frozenset({"plugin", "dialect", "lacks", "pytestmark"})


class _Guarded(type):
    """Checks a class again when it is changed after its creation, for example by a mark of pytest."""

    def __setattr__(cls, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        _check(cls)

    def __delattr__(cls, name: str) -> None:
        super().__delattr__(name)
        _check(cls)


class ProviderConformance(
    ContractChecks,
    AnswerChecks,
    FailureChecks,
    DeclaredErrorChecks,
    DeclaredMessageChecks,
    ObjectChecks,
    PlainHttpChecks,
    metaclass=_Guarded,
):
    """Tests what a provider plugin must do, with its real SDK and Agno class against the loopback server.

    Subclass it in a test module, with a name that begins with `Test`, and set:

    `plugin`
        the plugin object. Required. Its package must be installed (`pip install -e .`): the suite finds it through its
        entry point, as a user's program would.
    `dialect`
        a `Dialect`, if the provider has neither OpenAI's nor Gemini's protocol.
    `lacks`
        the capabilities that the provider does not have, each with the reason: `{"streaming": "the API has none"}`. The
        checks that need one are skipped and show the reason. `CAPABILITIES` lists all.

    You may add checks of your own. The suite's own checks cannot be deleted or overridden, unless the override is
    marked `@pytest.mark.xfail(reason=...)`; else the class fails at collection.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _check(cls)


def _check(cls: Any) -> None:
    for name, own in _SUITE.items():
        found = inspect.getattr_static(cls, name, None)
        if found is own or (name.startswith("test_") and _expected_to_fail(found)):
            continue
        if name.startswith("test_"):
            raise TypeError(
                f"{cls.__name__} deletes or overrides {name} of the conformance suite. Declare what the provider "
                f"cannot do in `lacks`, or mark the override with @pytest.mark.xfail(reason=...)"
            )
        raise TypeError(f"{cls.__name__} overrides {name}, which the conformance suite needs unchanged")
    if cls.__name__.startswith("Test") and getattr(cls, "plugin", None) is None:
        raise TypeError(f"{cls.__name__} needs an attribute `plugin`: the plugin object that it tests")
    for capability, reason in cls.lacks.items():
        if capability not in CAPABILITIES:
            known = "\n".join(f"  {name}: {meaning}" for name, meaning in CAPABILITIES.items())
            raise TypeError(f"{cls.__name__}.lacks names {capability!r}, which is not one of\n{known}")
        if not isinstance(reason, str) or not reason.strip():
            raise TypeError(f"{cls.__name__}.lacks gives no reason for {capability!r}")
    for mark in _marks(cls):
        if mark.name in ("skip", "skipif", "xfail"):
            raise TypeError(f"{cls.__name__} is marked {mark.name} as a whole; mark single checks instead")


def _expected_to_fail(found: object) -> bool:
    return any(
        mark.name == "xfail" and isinstance(mark.kwargs.get("reason"), str) and mark.kwargs["reason"].strip()
        for mark in _marks(found)
    )


def _marks(thing: object) -> list[pytest.Mark]:
    given = getattr(thing, "pytestmark", [])
    marks: list[Any] = given if isinstance(given, list) else [given]
    return [getattr(mark, "mark", mark) for mark in marks]


_SUITE = {
    name: inspect.getattr_static(ProviderConformance, name)
    for name in dir(ProviderConformance)
    if not name.startswith("__") and name not in _SETTABLE
}
