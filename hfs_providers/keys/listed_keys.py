"""The keys of a provider that have no number: those of `X_API_KEYS`, and of the file that `X_API_KEYS_FILE` names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from hfs_providers.contract.environment import KEYS, KEYS_FILE
from hfs_providers.contract.records import Credential, Problem
from hfs_providers.keys.key_files import TWICE, KeyList, keys_of_file, keys_of_text, read_private_file, unquoted

_MOST_SHOWN = 5


class ListedKeys(NamedTuple):
    """What an environment lists for a provider.

    Args:
        credentials: the keys; their ids are made of the provider and the key's fingerprint (`acme@0123456789abcdef`).
        problems: what is wrong with the lists. Those of a file that cannot be used are errors.
        file: the absolute path of the file, or None if none is named.
    """

    credentials: Sequence[Credential]
    problems: Sequence[Problem]
    file: str | None


def listed_keys(provider: str, variables: str, env: Mapping[str, str], used: Sequence[Credential]) -> ListedKeys:
    """Read the keys that are listed.

    Args:
        variables: the prefix of its variables, such as `ACME`.
        env: the environment.
        used: its keys that have a number. They keep it if they are listed, too.
    """
    reader = _Reader(provider, used)
    variable, of_file = variables + KEYS, variables + KEYS_FILE
    reader.add(variable, variable, keys_of_text(env.get(variable, "")))
    named = unquoted(env.get(of_file, ""))
    path = os.path.abspath(os.path.expanduser(named)) if named else None
    if path is not None:
        file = read_private_file(path)
        reader.add(of_file, path if _is_path(named, path) else "", keys_of_file(file))
        if file.exposed:
            reader.problem(
                f"{of_file}: {path} can be read by every user of this machine",
                f"Run: chmod 600 {path} (a container platform may mount it so on purpose)",
            )
    return ListedKeys(reader.credentials, reader.problems, path)


def _is_path(named: str, path: str) -> bool:
    """Whether a path may be shown: it is not a key in the wrong variable."""
    return os.path.lexists(path) or (os.path.dirname(named) != "" and os.path.isdir(os.path.dirname(path)))


class _Reader:
    def __init__(self, provider: str, used: Sequence[Credential]) -> None:
        self.provider = provider
        self.numbered = {each.fingerprint: each.id for each in used}
        self.listed: set[str] = set()
        self.credentials: list[Credential] = []
        self.problems: list[Problem] = []

    def problem(self, message: str, remedy: str, error: bool = False) -> None:
        self.problems.append(Problem(message, remedy, "error" if error else "warning", self.provider))

    def add(self, variable: str, source: str, found: KeyList) -> None:
        """Take the keys of a list.

        Args:
            variable: the one that names it.
            source: where it is: the same variable, or a path; empty for a path that must not be shown.
            found: what is in it.
        """
        where = source or "the file that it names (not shown: it may be a key)"
        begin = variable if source == variable else f"{variable}: {where}"
        of = "" if source == variable else f" of {where}"
        dropped = {fault: list(places) for fault, places in found.dropped.items()}
        numbered: list[str] = []
        for secret, account, place in found.keys:
            mark = secret.fingerprint
            if mark in self.numbered:
                numbered.append(self.numbered[mark])
            elif mark in self.listed:
                dropped.setdefault(TWICE, []).append(place)
            else:
                self.listed.add(mark)
                params = {"account": account} if account else {}
                self.credentials.append(Credential(f"{self.provider}@{mark}", secret, params, source))
        if found.fault:
            self.problem(f"{begin} {found.fault}", found.remedy, error=True)
        for fault, places in dropped.items():
            which = f"{'part' if source == variable else 'line'}{'s' * (len(places) > 1)} {_some(map(str, places))}"
            self.problem(f"{variable}: each entry that {fault} is dropped ({which}{of})", f"Correct it in {where}")
        if numbered:
            self.problem(
                f"{begin} repeats keys that keep their numbers ({_some(numbered)})", f"Remove them from {where}"
            )


def _some(names: Iterable[str]) -> str:
    found = list(names)
    shown = ", ".join(found[:_MOST_SHOWN])
    return f"{shown} and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else shown
