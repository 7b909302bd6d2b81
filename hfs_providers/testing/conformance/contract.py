"""Checks of the plugin itself: its entry point, no side effects until it is used, and no error in any environment."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from hfs_providers import MissingSdkError, ProviderManager
from hfs_providers.authoring import CONTRACT_VERSION, ModelDefault, ProviderConfig, ProviderHealth
from hfs_providers.core.inventory import take_inventory
from hfs_providers.testing.conformance.base import KEYS, Base

# Loads the plugin as a user's program does, and does everything that comes before the first call of a model.
_PURITY = """
import json, sys
name, sdk, env = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
network, imported = [], []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.bind"):
        network.append(event)
sys.addaudithook(watch)
def after(stage):
    if sdk and sdk in sys.modules:
        imported.append(stage)
from importlib import metadata
[point] = metadata.entry_points(group="hfs_providers", name=name)
plugin = point.load()
after("import")
plugin.configure_env({})
after("configure_env")
from hfs_providers import ProviderManager
manager = ProviderManager(env=env, plugins=[plugin])
after("build_wrapper")
plugin.default_model(plugin.configure_env(env))
manager.health(name)
after("health")
print(json.dumps({"built": list(manager.wrappers), "network": network, "sdk imported by": imported[:1]}))
manager.shutdown()
"""

_BAD = "sk-in-the-wrong-place-0123456789"


class ContractChecks(Base):
    """See `ProviderConformance`."""

    def test_its_entry_point_has_its_name(self) -> None:
        points = metadata.entry_points(group="hfs_providers", name=self.name)
        assert points, (
            f"no entry point {self.name!r} in the group 'hfs_providers': name it in pyproject.toml under "
            "[project.entry-points.hfs_providers], and install the package (pip install -e .)"
        )
        assert [point.load() for point in points] == [self.plugin], "the entry point loads another object"

    def test_its_name_fits_a_variable_and_an_extra(self) -> None:
        assert self.name == self.name.lower()
        assert self.name.replace("-", "").isalnum()
        assert self.name[0].isalpha()

    def test_it_says_which_contract_it_was_written_for(self) -> None:
        assert self.plugin.hfs_contract == CONTRACT_VERSION

    def test_the_registry_takes_it(self) -> None:
        found = take_inventory(env={}, plugins=[self.plugin])
        assert [problem.message for problem in found.problems if problem.level == "error"] == []
        assert list(found.providers) == [self.name]
        plugin = found.registry.plugins[self.name]
        assert set(plugin.hooks) >= {"configure_env", "build_wrapper", "default_model", "health"}

    def test_its_hooks_give_what_the_contract_says(self, env: dict[str, str], manager: ProviderManager) -> None:
        config = self.plugin.configure_env(env)
        assert isinstance(config, ProviderConfig)
        assert (config.name, config.configured, len(config.credentials)) == (self.name, True, KEYS)
        assert [credential.id for credential in config.credentials] == [f"{self.name}#{n}" for n in range(1, KEYS + 1)]
        assert all(isinstance(model, ModelDefault) for model in self.plugin.default_model(config))
        health = self.plugin.health(config, manager.wrappers[self.name], False)
        assert isinstance(health, ProviderHealth)
        assert health.usable

    def test_a_default_model_serves_today(self) -> None:
        models = self._defaults()
        assert models
        assert not models[-1].retired(date.today()), "every default model is retired"

    def test_importing_configuring_and_building_touch_neither_sdk_nor_network(
        self, env: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self._in_the_process({}, monkeypatch)
        requirement = self.plugin.configure_env({}).requirement
        sdk = requirement.module if requirement is not None else ""
        done = subprocess.run(  # noqa: S603  the program is the one above
            [sys.executable, "-c", _PURITY, self.name, sdk, json.dumps(env)],
            capture_output=True,
            text=True,
            timeout=600,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"built": [self.name], "network": [], "sdk imported by": []}

    # Environments

    def test_an_empty_environment_is_no_error(self) -> None:
        config = self.plugin.configure_env({})
        assert config.name == self.name
        assert config.configured == self._keyless()

    @pytest.mark.parametrize("count", ["many", "-1", "1.5", "99999999999", "\uff19", "' '"])
    def test_a_wrong_count_is_a_problem_and_raises_nothing(self, env: dict[str, str], count: str) -> None:
        config = self.plugin.configure_env({**env, f"NUM_{self.upper}": count})
        assert isinstance(config, ProviderConfig)
        assert [problem for problem in config.problems if f"NUM_{self.upper}" in problem.message]

    @pytest.mark.parametrize("variable", ["BASE_URL", "LIMITS"])
    def test_a_variable_that_cannot_be_read_is_a_problem_that_does_not_quote_it(
        self, env: dict[str, str], variable: str
    ) -> None:
        config = self.plugin.configure_env({**env, f"{self.upper}_{variable}": _BAD})
        [problem] = [p for p in config.problems if f"{self.upper}_{variable}" in p.message]
        assert _BAD not in repr(config)
        assert problem.remedy
        assert config.configured

    def test_what_is_no_key_is_dropped_and_reported(self, env: dict[str, str], manager: ProviderManager) -> None:
        what = "ENDPOINT" if self._keyless() else "API_KEY"
        first, bad = f"{self.upper}_{what}_1", f"{self.upper}_{what}_2"
        config = self.plugin.configure_env({**env, bad: "  "})
        assert len(config.credentials) == KEYS - 1
        assert [problem for problem in config.problems if bad in problem.message]
        twice = self.plugin.configure_env({**env, bad: env[first]})
        assert len(twice.credentials) == KEYS - 1
        assert self._keyless() or env[first] not in repr(twice)

    # The SDK

    def test_without_its_sdk_it_says_which_command_installs_it(
        self, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        requirement = self.plugin.configure_env(env).requirement
        if requirement is None:
            pytest.skip(f"{self.name} needs no SDK")
        _hide(monkeypatch, requirement.distribution, requirement.module)
        with ProviderManager(env=env) as manager:
            assert not manager.is_provider_healthy(self.name)
            with pytest.raises(MissingSdkError) as caught:
                manager.get_model(self.name)
        distribution = manager.inventory.registry.plugins[self.name].distribution
        assert distribution is not None
        command = requirement.install or f"pip install '{distribution}[{self.name}]'"
        assert command in str(caught.value)
        extras = metadata.metadata(distribution).get_all("Provides-Extra") or []
        assert requirement.install or self.name in extras, f"{distribution} has no extra {self.name!r}"


def _hide(monkeypatch: pytest.MonkeyPatch, distribution: str, module: str) -> None:
    """Make a distribution look as if it were not installed."""
    version, find_spec = metadata.version, importlib.util.find_spec

    def hidden_version(name: str) -> str:
        if name == distribution:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    def hidden_spec(name: str, package: str | None = None) -> Any:
        return None if name == module else find_spec(name, package)

    monkeypatch.setattr(metadata, "version", hidden_version)
    monkeypatch.setattr(importlib.util, "find_spec", hidden_spec)
