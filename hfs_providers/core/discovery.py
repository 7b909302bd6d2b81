"""The plugins that are installed, each loaded under guard, and whether their version of the contract fits ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata

from hfs_providers.contract.deadline import AbandonedError, within_deadline
from hfs_providers.contract.errors import PluginContractError, PluginLoadError
from hfs_providers.contract.records import CONTRACT_VERSION
from hfs_providers.core.hookspecs import PROJECT

LIBRARY = "hfs-providers"
_HEAD_START = 0.25
"""Seconds after which a plugin that is still importing no longer holds up the next one's import."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An entry point, or an object that was given, before anything of it is imported.

    Args:
        name: the entry point's.
        distribution, version: the installed package that it comes from.
        load: imports it.
    """

    name: str
    distribution: str | None
    version: str | None
    load: Callable[[], object]

    @property
    def aliases(self) -> set[str]:
        """What disables it: its name, or its name at its distribution."""
        return {self.name, f"{self.name}@{normal(self.distribution)}"}

    def breach(self, words: str, remedy: str | None = None) -> PluginContractError:
        """The error for a plugin that does not keep to the contract."""
        return PluginContractError(self.name, self.distribution, words, remedy)


def installed() -> list[Candidate]:
    """The entry points of our group, sorted by name."""
    # Reading it parses the whole README of a distribution, so once for each.
    about = cache(lambda distribution: distribution.metadata if distribution is not None else {})
    found = [
        Candidate(point.name, about(point.dist).get("Name"), about(point.dist).get("Version"), point.load)
        for point in metadata.entry_points(group=PROJECT)
    ]
    # A distribution seen twice on the path (an editable install beside its build) is one claim, not a conflict.
    unique = {(candidate.name, candidate.distribution): candidate for candidate in reversed(found)}
    return sorted(unique.values(), key=lambda candidate: (candidate.name, str(candidate.distribution)))


def given(plugin: object) -> Candidate:
    """A plugin object that was passed in rather than installed."""
    name = getattr(plugin, "name", None)
    if not isinstance(name, str):
        name = getattr(plugin, "__name__", type(plugin).__name__).rpartition(".")[2]
    return Candidate(name, None, None, lambda: plugin)


def normal(distribution: str | None) -> str:
    """A distribution's name as indexes compare it."""
    # https://packaging.python.org/en/latest/specifications/name-normalization/
    return re.sub(r"[-_.]+", "-", distribution or "").lower()


def load(candidates: Iterable[Candidate]) -> Iterator[tuple[Candidate, object]]:
    """Import each, one at a time unless one is slow; one that fails or hangs gives a `PluginLoadError`."""
    by_name = {candidate.name: candidate for candidate in candidates}
    results = within_deadline({name: candidate.load for name, candidate in by_name.items()}, head_start=_HEAD_START)
    for name, result in results.items():
        yield by_name[name], _unloadable(by_name[name], result) if isinstance(result, Exception) else result


def _unloadable(candidate: Candidate, error: Exception) -> PluginLoadError:
    if isinstance(error, AbandonedError):
        words, remedy = f"importing it hangs: {error}", None
    else:
        words, remedy = f"importing it raised {describe(error)}", _of_another_version(candidate, error)
    problem = PluginLoadError(candidate.name, candidate.distribution, words, remedy)
    problem.__cause__ = error
    return problem


def _of_another_version(candidate: Candidate, error: Exception) -> str | None:
    """The command for a plugin that needs something that this version of the library lacks."""
    ours = isinstance(error, ImportError) and str(error.name).partition(".")[0] == PROJECT
    # `KeyedProvider(...)` and the records of the contract, with a field that is not in them.
    field = isinstance(error, TypeError) and "unexpected keyword argument" in str(error)
    return f"pip install -U {LIBRARY} {candidate.distribution or ''}".strip() if ours or field else None


def check_contract(candidate: Candidate, plugin: object) -> None:
    """Raise PluginContractError if a plugin was written for another version of the contract than this library's."""
    written = getattr(plugin, "hfs_contract", None)
    if type(written) is int and written == CONTRACT_VERSION:
        return
    remedy = None
    if written is None:
        words = f"it has no hfs_contract. Set hfs_contract = {CONTRACT_VERSION} in it"
    elif type(written) is not int:
        words = f"its hfs_contract is {written!r}, not a whole number"
    else:
        outdated = LIBRARY if written > CONTRACT_VERSION else candidate.distribution or candidate.name
        remedy = f"pip install -U {outdated}"
        ours = f"this {LIBRARY} has contract {CONTRACT_VERSION}"
        words = f"it was written for contract {written}, and {ours}. Run: {remedy}"
    raise candidate.breach(words, remedy)


def describe(error: BaseException) -> str:
    """An error's type and message."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
