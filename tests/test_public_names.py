"""The public names: each can be imported, and the four places that list them agree."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
from pathlib import Path

import pytest

import hfs_providers

PACKAGE = Path(hfs_providers.__file__).parent
DESIGNED = """
    ProviderManager get_provider_manager get_model get_any_model list_available_providers get_cerebras_model
    get_groq_model get_gemini_model get_openrouter_model PROVIDER_CONFIGS hookimpl hookspec KeyedProvider
    HfsProvidersError PluginError PluginLoadError PluginConflictError PluginContractError ProviderError
    UnknownProviderError ProviderUnavailableError MissingSdkError SettingsError MissingKeyError KeysExhaustedError
    KeyRejectedError ModelNotFoundError StreamInterruptedError ProviderConfig Credential ModelDefault ProviderHealth
    KeyPool Lease
"""


def typed_imports() -> dict[str, str]:
    """Name to module, as the `TYPE_CHECKING` block of the facade has them for type checkers."""
    tree = ast.parse(inspect.getsource(hfs_providers))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert isinstance(block.test, ast.Name)
    assert block.test.id == "TYPE_CHECKING"
    return {
        alias.asname or alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("name", DESIGNED.split())
def test_what_the_design_names_is_public(name: str) -> None:
    assert name in hfs_providers.__all__


@pytest.mark.parametrize("name", hfs_providers.__all__)
def test_a_public_name_can_be_imported(name: str) -> None:
    assert getattr(hfs_providers, name) is not None


@pytest.mark.parametrize("name", [name for name in hfs_providers.__all__ if name != "PROVIDER_CONFIGS"])
def test_a_public_name_is_the_same_each_time(name: str) -> None:
    assert getattr(hfs_providers, name) is getattr(hfs_providers, name)


def test_a_star_import_gives_them_all() -> None:
    space: dict[str, object] = {}
    exec("from hfs_providers import *", space)
    assert set(hfs_providers.__all__) <= set(space)


def test_none_is_listed_twice() -> None:
    assert len(hfs_providers.__all__) == len(set(hfs_providers.__all__))


def test_dir_lists_them() -> None:
    assert dir(hfs_providers) == sorted(hfs_providers.__all__)


def test_type_checkers_see_the_same_names() -> None:
    assert set(typed_imports()) == set(hfs_providers.__all__)


def test_they_are_loaded_from_where_type_checkers_look() -> None:
    loaded = {name: f"hfs_providers.{module}" for name, module in hfs_providers._MODULE_OF.items()}
    assert loaded == typed_imports()


@pytest.mark.parametrize("name", hfs_providers.__all__)
def test_a_public_class_or_function_is_documented(name: str) -> None:
    value = getattr(hfs_providers, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert (value.__doc__ or "").strip()
    else:
        assert name in {"CONTRACT_VERSION", "PROVIDER_CONFIGS", "RETIRED", "hookimpl", "hookspec"}


@pytest.mark.parametrize("name", ["nonsense", "get_nonsense_model", "Manager"])
def test_an_unknown_attribute_is_an_attribute_error(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'hfs_providers' has no attribute '{name}'"):
        getattr(hfs_providers, name)


def test_an_unknown_name_cannot_be_imported() -> None:
    with pytest.raises(ImportError, match="nonsense"):
        exec("from hfs_providers import nonsense")


def test_its_modules_can_still_be_imported() -> None:
    assert importlib.import_module("hfs_providers.keys.pool").KeyPool is hfs_providers.KeyPool


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_the_version_is_that_of_the_distribution() -> None:
    assert hfs_providers.__version__ == importlib.metadata.version("hfs-providers")
