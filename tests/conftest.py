"""What every test stands on: an empty environment, an empty working directory, and plugins made to order."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import certifi
import platformdirs
import pytest

import hfs_providers
from hfs_providers import authoring
from hfs_providers.keys import KeyPool

_READ_BY_US = re.compile(
    r"HFS_.*|NUM_.*|EXPECTED_.*|TIDB_DB_URL|.*_(API_KEY|ENDPOINT|ACCOUNT|REGION|DEPLOYMENT)(_\d+)?|.*_(BASE_URL|LIMITS|MODEL)"
)

_SLOWEST = (
    "fleet/test_fleet.py",
    "packaging/",
    "test_types",
    "fleet/",
    "services/",
    "dashboard/test_browser",
    "gateway/test_soak",
    "test_plugin_docs",
    "cli/test_new_plugin",
    "agents/",
    "cli/test_check",
    "fire/",
)

# A shell has what runs in the background ignore it, and the programs of the tests would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two more than cores: some tests wait more than they work."""
    return (os.cpu_count() or 1) + 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with few but slow tests first, so that no worker is left alone with one of them."""
    tests = Path(__file__).parent

    @cache
    def place(path: Path) -> int:
        name = path.relative_to(tests).as_posix() if path.is_relative_to(tests) else ""
        return next((number for number, start in enumerate(_SLOWEST) if name.startswith(start)), len(_SLOWEST))

    items.sort(key=lambda item: place(item.path))


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """What is there before the first test stays: the garbage collector need not look at it each time."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one certificate authority. Reading all that there are takes 20 ms, for each provider of a manager."""
    path = tmp_path_factory.mktemp("authorities") / "one.pem"
    first, end, _ = Path(certifi.where()).read_text(encoding="utf-8").partition("-----END CERTIFICATE-----\n")
    path.write_text(first + end, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def empty_env(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_authority: Path
) -> None:
    """No variable that we read, no file that we would find; tests of real providers keep their keys."""
    if request.node.get_closest_marker("integration") is None:
        for name in [name for name in os.environ if _READ_BY_US.fullmatch(name)]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("SSL_CERT_FILE", str(one_authority))
    # Not through XDG_CONFIG_HOME: programs that a test runs, such as pip, have their own settings there.
    home = tmp_path / "home"
    for kind in ("config", "state"):
        monkeypatch.setattr(platformdirs, f"user_{kind}_path", lambda *_, kind=kind, **__: home / kind)
        monkeypatch.setattr(platformdirs, f"user_{kind}_dir", lambda *_, kind=kind, **__: str(home / kind))
    # For processes that a test starts.
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("HFS_USAGE_DB", "off")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def kept_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's logger is at the end as it was: a command line that runs in this process sets it up."""
    log = logging.getLogger("hfs_providers")
    for name, value in {"handlers": log.handlers[:], "level": log.level, "propagate": log.propagate}.items():
        monkeypatch.setattr(log, name, value)


@pytest.fixture
def fresh_manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process has no manager yet, and the one that the test makes is shut down."""
    from hfs_providers.core import manager

    monkeypatch.setattr(manager, "_manager", None)
    yield
    if manager._manager is not None:
        manager._manager.shutdown()


class InstalledDistributions:
    """Installs distributions that exist for one test: metadata, entry points and modules on `sys.path`."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._monkeypatch = monkeypatch
        self._modules: set[str] = set()

    def __call__(self, distribution: str, points: Mapping[str, str], modules: Mapping[str, str]) -> None:
        """Install `distribution` with entry `points` (name to `module:attribute`) and `modules` (name to source)."""
        site = self._root / distribution
        info = site / f"{distribution.replace('-', '_')}-1.2.3.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2.3\n")
        lines = [f"{name} = {target}" for name, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[hfs_providers]", *lines, ""]))
        for name, source in modules.items():
            (site / f"{name}.py").write_text(source)
            self._modules.add(name)
        self._monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()

    def forget(self) -> None:
        for name in self._modules:
            sys.modules.pop(name, None)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InstalledDistributions]:
    """Installs made-up distributions; see `InstalledDistributions`."""
    installed = InstalledDistributions(tmp_path / "site", monkeypatch)
    yield installed
    installed.forget()


class FakeWrapper:
    """A wrapper that talks to nobody, over a real pool."""

    def __init__(self, config: authoring.ProviderConfig, services: authoring.Services) -> None:
        self.pool = KeyPool(config.name, config.credentials, clock=services.clock)
        self.provider = config.name
        self.closed = 0

    def get_model(self, model_id: str | None = None, **options: Any) -> Any:
        return SimpleNamespace(id=model_id, provider=self.provider, options=options)

    def list_models(self) -> list[str]:
        return []

    def probe(
        self, credential: authoring.Credential, *, timeout: float = 10.0, ask: bool = False
    ) -> authoring.KeyProbe:
        return authoring.KeyProbe(credential.id, credential.fingerprint, "works")

    def close(self) -> None:
        self.closed += 1


class FakeProvider(hfs_providers.KeyedProvider):
    """A provider plugin whose wrapper is a `FakeWrapper`."""

    @hfs_providers.hookimpl
    def build_wrapper(self, config: authoring.ProviderConfig, services: authoring.Services) -> Any:
        return FakeWrapper(config, services)


@pytest.fixture
def fake_provider() -> Callable[..., Any]:
    """Makes provider plugins: `fake_provider("acme", health=..., sdk=...)`.

    A callable by a hook's name stands in for that hook (without `self`); anything else is a field of `KeyedProvider`.
    """

    def make(name: str, **changes: Any) -> Any:
        hooks = {hook: changes.pop(hook) for hook in list(changes) if hook in _HOOKS}
        body = {hook: hfs_providers.hookimpl(_HOOKS[hook](function)) for hook, function in hooks.items()}
        changes.setdefault("models", (hfs_providers.ModelDefault(f"{name}-large"),))
        return type("MadeToOrder", (FakeProvider,), body)(name=name, model_class="", **changes)

    return make


_HOOKS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "configure_env": lambda function: lambda self, env: function(env),
    "build_wrapper": lambda function: lambda self, config, services: function(config, services),
    "default_model": lambda function: lambda self, config: function(config),
    "health": lambda function: lambda self, config, wrapper, live: function(config, wrapper, live),
}


class FakeTime:
    """A clock that only moves when someone sleeps, or when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def fake_time() -> FakeTime:
    """A clock to inject; see `FakeTime`."""
    return FakeTime()
