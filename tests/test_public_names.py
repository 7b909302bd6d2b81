"""The public names: each can be imported from its module, and the places that list them agree."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
from pathlib import Path
from types import ModuleType

import pytest

import hfs_providers
from hfs_providers import agents, authoring, errors, keys, testing, usage
from tests import public_surface

PACKAGE = Path(hfs_providers.__file__).parent
EXPORTING = [hfs_providers, agents, authoring, errors, keys, testing, usage]
DESIGNED = """
    ProviderManager get_provider_manager get_model get_any_model get_chain list_available_providers get_cerebras_model
    get_groq_model get_gemini_model get_openrouter_model PROVIDER_CONFIGS hookimpl hookspec KeyedProvider ModelDefault
    Limits FallbackChain ProviderHealth
    HfsProvidersError ProviderError UnknownProviderError ProviderUnavailableError MissingSdkError SettingsError
    MissingKeyError ModelCallError KeysExhaustedError KeyRejectedError ModelNotFoundError StreamInterruptedError
    ChainExhaustedError
"""
ELSEWHERE = {
    errors: "PluginError PluginLoadError PluginConflictError PluginContractError",
    authoring: "KeyedProvider ModelDefault Limits hookimpl hookspec ProviderConfig Credential ProviderHealth Secret",
    keys: "KeyPool Lease",
    usage: "UsageRow",
}
CONSTANTS = {
    *("AgentState", "CANCELLED", "Kind", "CONTRACT_VERSION", "PIPELINE", "PROVIDER_CONFIGS", "ROLES", "Role"),
    *("asking", "hookimpl", "hookspec"),
}
NAMES = [(module, name) for module in EXPORTING for name in module.__all__]
each_module = pytest.mark.parametrize("module", EXPORTING, ids=lambda module: module.__name__)
each_name = pytest.mark.parametrize(
    ("module", "name"), NAMES, ids=[f"{module.__name__}.{name}" for module, name in NAMES]
)


def typed_imports(module: ModuleType) -> dict[str, str]:
    """Name to home, as the `TYPE_CHECKING` block of the module has them for type checkers."""
    tree = ast.parse(inspect.getsource(module))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert isinstance(block.test, ast.Name)
    assert block.test.id == "TYPE_CHECKING"
    return {
        str(alias.asname): str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


@pytest.mark.parametrize("name", DESIGNED.split())
def test_what_an_application_uses_is_at_the_top(name: str) -> None:
    assert name in hfs_providers.__all__


@pytest.mark.parametrize("module", ELSEWHERE, ids=lambda module: module.__name__)
def test_the_rest_is_where_it_belongs(module: ModuleType) -> None:
    assert set(ELSEWHERE[module].split()) <= set(module.__all__)


def test_every_error_is_among_the_errors() -> None:
    def below(error: type[BaseException]) -> set[type[BaseException]]:
        return {error}.union(*(below(each) for each in error.__subclasses__()))

    found = {getattr(errors, name) for name in errors.__all__}
    ours = {error for error in below(errors.HfsProvidersError) if error.__module__.startswith("hfs_providers.")}
    assert {error for error in ours if ".agents." not in error.__module__} - found == set()


@each_name
def test_a_public_name_can_be_imported(module: ModuleType, name: str) -> None:
    assert getattr(module, name) is not None


@each_name
def test_a_public_name_is_the_same_each_time(module: ModuleType, name: str) -> None:
    assert getattr(module, name) is getattr(module, name)


@each_module
def test_a_star_import_gives_them_all(module: ModuleType) -> None:
    space: dict[str, object] = {}
    exec(f"from {module.__name__} import *", space)
    assert set(module.__all__) <= set(space)


@each_module
def test_none_is_listed_twice(module: ModuleType) -> None:
    assert len(module.__all__) == len(set(module.__all__))


@each_module
def test_dir_lists_them(module: ModuleType) -> None:
    assert dir(module) == sorted(module.__all__)


@each_module
def test_type_checkers_see_the_same_names(module: ModuleType) -> None:
    assert sorted(typed_imports(module)) == module.__all__


@each_name
def test_they_are_loaded_from_where_type_checkers_look(module: ModuleType, name: str) -> None:
    home = importlib.import_module(typed_imports(module)[name])
    assert getattr(module, name) is getattr(home, name)


@each_name
def test_a_public_class_or_function_is_documented(module: ModuleType, name: str) -> None:
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert (value.__doc__ or "").strip()
    else:
        assert name in CONSTANTS


@pytest.mark.parametrize("name", ["nonsense", "get_nonsense_model", "Manager"])
@each_module
def test_an_unknown_attribute_is_an_attribute_error(module: ModuleType, name: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute '{name}'"):
        getattr(module, name)


@each_module
def test_an_unknown_name_cannot_be_imported(module: ModuleType) -> None:
    with pytest.raises(ImportError, match="nonsense"):
        exec(f"from {module.__name__} import nonsense")


def test_its_modules_can_still_be_imported() -> None:
    assert importlib.import_module("hfs_providers.keys.pool").KeyPool is keys.KeyPool


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_the_version_is_that_of_the_distribution() -> None:
    assert hfs_providers.__version__ == importlib.metadata.version("hfs-providers")


def test_the_public_surface_is_what_it_was() -> None:
    """Where a change is meant: `python -m tests.public_surface` writes the file anew."""
    assert public_surface.text() == public_surface.FILE.read_text(encoding="utf-8")
