"""Keeps the keys of a provider in use the same as in its file (`X_API_KEYS_FILE`)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from hfs_providers.contract.environment import KEYS_FILE, env_name
from hfs_providers.contract.protocols import ChangesKeys
from hfs_providers.contract.records import Credential, Problem, ProviderConfig, Wrapper
from hfs_providers.keys.key_files import PrivateFile, keys_of_file, read_private_file

_log = logging.getLogger("hfs_providers")


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """Applies changes of the file to the keys of a wrapper.

    Keys that the file lists join, those that it lists no longer leave. A file without a usable key changes nothing.

    Args:
        wrapper: of the provider.
        read: reads the provider's configuration again, from its variables and the file.
        known_of: finds the state of keys that join, as `Pool.load` takes it.
        adopt: takes the new configuration.
    """

    wrapper: Wrapper
    read: Callable[[], ProviderConfig]
    known_of: Callable[[Sequence[Credential]], Mapping[str, object] | None]
    adopt: Callable[[ProviderConfig], object]

    def apply(self, file: PrivateFile) -> bool:
        """Apply the content of the file. Returns False if the file has changed since it was read."""
        found = self.read()
        if found.key_file is None or read_private_file(found.key_file) != file:
            return False
        # The pool of a plugin's own wrapper may not list them.
        here = getattr(self.wrapper.pool, "credentials", found.credentials)
        if not any(each.source == found.key_file for each in found.credentials) and not keys_of_file(file).keys:
            found = _with_last_keys(found, here)
        problem = self._change(found.name, found.credentials, here)
        if problem is not None:
            found = replace(found, credentials=here, configured=bool(here), problems=(*found.problems, problem))
        self.adopt(found)
        return True

    def _change(self, name: str, wanted: Sequence[Credential], here: Sequence[Credential]) -> Problem | None:
        """Change the keys. Returns why they cannot be changed, or None."""
        before, after = ({each.id: each for each in credentials} for credentials in (here, wanted))
        joining = [each for each in wanted if before.get(each.id) != each]
        leaving = [each.id for each in here if after.get(each.id) != each]
        if not joining and not leaving:
            return None
        wrapper: object = self.wrapper
        target = next((each for each in (wrapper, self.wrapper.pool) if isinstance(each, ChangesKeys)), None)
        if target is None:
            return Problem(f"{name} cannot change its keys while it runs", "Start the program again", "warning", name)
        target.change_keys(joining, leaving, self.known_of(joining) if joining else None)
        _log.info("%s: %d keys joined and %d left", name, len(joining), len(leaving))
        return None


def _with_last_keys(found: ProviderConfig, here: Sequence[Credential]) -> ProviderConfig:
    others = {each.id for each in found.credentials}
    kept = [each for each in here if each.source == found.key_file and each.id not in others]
    if not kept:
        return found
    variable = env_name(found.name) + KEYS_FILE
    stay = Problem(
        f"{variable}: the keys that were read before ({len(kept)}) stay in use",
        f"Correct the file, or unset {variable} and start the program again",
        "warning",
        found.name,
    )
    problems = [replace(each, level="warning") if variable in each.message else each for each in found.problems]
    return replace(found, credentials=(*found.credentials, *kept), problems=(*problems, stay), configured=True)
