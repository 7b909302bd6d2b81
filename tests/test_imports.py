"""What importing costs and leaves behind, and who in the package may know whom."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hfs_providers
from hfs_providers.contract import environment

PACKAGE = Path(hfs_providers.__file__).parent
HEAVY = ["agno", "keycycle", "pydantic", "openai", "groq", "google", "cerebras", "sqlalchemy", "httpx", "typer", "rich"]


def run(program: str, cwd: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, "-c", program], cwd=cwd, capture_output=True, text=True)


class TestImportingThePackage:
    @pytest.mark.parametrize("name", HEAVY)
    def test_imports_nothing_heavy(self, name: str, tmp_path: Path) -> None:
        done = run(f"import sys, hfs_providers; print({name!r} in sys.modules)", tmp_path)
        assert (done.stdout.strip(), done.stderr) == ("False", "")

    def test_shows_nothing_heavy_among_the_import_times(self, tmp_path: Path) -> None:
        done = run("import hfs_providers", tmp_path, "-X", "importtime")
        imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
        assert "hfs_providers" in imported
        assert not imported & set(HEAVY)

    def test_neither_prints_nor_writes(self, tmp_path: Path) -> None:
        done = run("import hfs_providers", tmp_path)
        assert (done.returncode, done.stdout, done.stderr, list(tmp_path.iterdir())) == (0, "", "", [])

    @pytest.mark.parametrize(
        ("module", "names"),
        [
            ("keys", "KeyPool, Lease, fingerprint"),
            ("authoring", "Secret, KeyedProvider, hookimpl"),
            ("errors", "HfsProvidersError"),
            ("usage", "UsageRow, Store"),
            ("", "ProviderManager"),
        ],
    )
    def test_nor_do_the_names_that_need_no_model(self, module: str, names: str, tmp_path: Path) -> None:
        origin = f"hfs_providers.{module}".rstrip(".")
        program = f"import sys\nfrom {origin} import {names}\nprint(sorted({set(HEAVY)!r} & set(sys.modules)))"
        assert run(program, tmp_path).stdout.strip() == "[]"


LOGGING_STATE = """
import logging, os, sys
{host}
root = logging.getLogger()
before = (root.level, list(root.handlers), list(root.filters), logging.root.manager.disable, logging.lastResort)
own = [(handler.level, handler.formatter, list(handler.filters)) for handler in root.handlers]
files, here = os.listdir(), os.getcwd()
{importing}
after = (root.level, list(root.handlers), list(root.filters), logging.root.manager.disable, logging.lastResort)
changed = []
if before != after:
    changed.append("root logger")
if own != [(handler.level, handler.formatter, list(handler.filters)) for handler in before[1]]:
    changed.append("handlers of the host")
if files != os.listdir() or here != os.getcwd():
    changed.append("directory")
print(changed)
"""
HOSTS = {
    "no logging": "",
    "a root handler": (
        "logging.basicConfig(level=logging.ERROR, stream=sys.stdout, format='mine %(message)s')\n"
        "logging.getLogger().addFilter(lambda record: True)"
    ),
    "a level only": "logging.getLogger().setLevel(37)",
}
OURS = "from hfs_providers.calls._keycycle import MultiProviderWrapper, NoAvailableKeyError"
NAIVE = "import keycycle"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory in which no file can be created, not even by root."""
    directory = tmp_path / "read-only"
    directory.mkdir()
    directory.chmod(0o555)
    if os.access(directory, os.W_OK):
        if not Path("/proc/self").exists():
            pytest.skip("this user can write everywhere, and there is no /proc")
        yield Path("/proc/self")
    else:
        yield directory
    directory.chmod(0o755)


class TestImportingKeycycle:
    """Through our one guarded import; the naive way is shown to fail in the same set-up."""

    @pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
    def test_leaves_logging_and_the_directory_as_they_were(self, host: str, tmp_path: Path) -> None:
        done = run(LOGGING_STATE.format(host=host, importing=OURS), tmp_path)
        assert (done.stdout.strip(), done.stderr) == ("[]", "")

    @pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
    def test_the_naive_way_changes_both(self, host: str, tmp_path: Path) -> None:
        done = run(LOGGING_STATE.format(host=host, importing=NAIVE), tmp_path)
        assert "'root logger'" in done.stdout
        assert "'directory'" in done.stdout

    @pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
    def test_works_in_a_read_only_directory(self, host: str, read_only: Path) -> None:
        # What /proc/self lists changes by itself, so there only logging is compared.
        program = LOGGING_STATE.replace("files != os.listdir() or ", "").format(host=host, importing=OURS)
        done = run(program, read_only)
        assert (done.stdout.strip(), done.stderr) == ("[]", "")

    def test_the_naive_way_does_not(self, read_only: Path) -> None:
        assert run(NAIVE, read_only).returncode != 0

    def test_a_whole_model_leaves_them_too(self, tmp_path: Path) -> None:
        building = (
            "import hfs_providers\n"
            "env = {'GROQ_API_KEY': 'gsk_0123456789abcdef', 'HFS_USAGE_DB': 'off'}\n"
            "manager = hfs_providers.ProviderManager(env)\n"
            "manager.get_model('groq')\n"
            "manager.shutdown()"
        )
        done = run(LOGGING_STATE.format(host=HOSTS["a root handler"], importing=building), tmp_path)
        assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr

    def test_the_host_s_own_import_afterwards_is_harmless_too(self, tmp_path: Path) -> None:
        done = run(LOGGING_STATE.format(host="", importing=f"{OURS}\n{NAIVE}"), tmp_path)
        assert done.stdout.strip() == "[]"

    def test_a_host_that_imported_it_first_keeps_what_it_got(self, tmp_path: Path) -> None:
        done = run(LOGGING_STATE.format(host=NAIVE, importing=OURS), tmp_path)
        assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr

    def test_imports_what_takes_long_when_it_is_used(self, tmp_path: Path) -> None:
        program = (
            f"{OURS}\nimport sys\nimport keycycle.usage\n"
            "print({'openai', 'sqlalchemy', 'yaml'} & set(sys.modules))\n"
            "database = keycycle.usage.UsageDatabase('sqlite://')\n"
            "limits = MultiProviderWrapper.MODEL_LIMITS['groq']\n"
            "from keycycle.config import models\n"
            "from keycycle.usage import db_logic\n"
            "print(type(database) is db_logic.UsageDatabase, limits is models.MODEL_LIMITS['groq'])"
        )
        assert run(program, tmp_path).stdout.splitlines() == ["set()", "True True"]

    def test_gives_keycycle_s_own_classes(self) -> None:
        from hfs_providers.calls import _keycycle

        assert _keycycle.MultiProviderWrapper.__module__.startswith("keycycle.")
        assert issubclass(_keycycle.NoAvailableKeyError, Exception)


# Who may know whom, where the contracts of import-linter do not say it.

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(("hfs_providers", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in FILES
}


class _Imports(ast.NodeVisitor):
    """The modules that a module imports: `eager` when it is itself imported, `late` inside functions."""

    def __init__(self, module: str, path: Path) -> None:
        self.package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        self.eager: set[str] = set()
        self.late: set[str] = set()
        self._found = self.eager
        self.visit(ast.parse(path.read_text(encoding="utf-8")))

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                self.visit(child)
        else:
            self.generic_visit(node)

    def _in_function(self, node: ast.AST) -> None:
        found, self._found = self._found, self.late
        self.generic_visit(node)
        self._found = found

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _in_function

    def visit_Import(self, node: ast.Import) -> None:
        self._found.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parent = self.package.rsplit(".", node.level - 1)[0] if node.level > 1 else self.package
            base = f"{parent}.{base}".rstrip(".")
        # `from package import module` imports that module; `from module import name` the module alone.
        self._found.update(
            f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names
        )

    @property
    def all(self) -> set[str]:
        return self.eager | self.late


@cache
def imports_of_all() -> Mapping[str, _Imports]:
    return {module: _Imports(module, path) for module, path in MODULES.items()}


def inside(package: str) -> list[str]:
    return [module for module in MODULES if f"{module}.".startswith(f"hfs_providers.{package}.")]


def own(modules: set[str]) -> set[str]:
    return {module for module in modules if f"{module}.".startswith("hfs_providers.")}


def below(modules: set[str], *packages: str) -> set[str]:
    return {module for module in modules if f"{module}.".startswith(tuple(f"{package}." for package in packages))}


PUBLIC = {"hfs_providers", *(f"hfs_providers.{name}" for name in ("authoring", "errors", "keys", "usage"))}
# What makes modules of public names, and the names of variables.
PUBLIC |= {"hfs_providers.contract.environment", "hfs_providers.contract.lazy"}


class TestWhoKnowsWhom:
    def test_the_package_was_found(self) -> None:
        assert {"hfs_providers", "hfs_providers.core.manager", "hfs_providers.plugins.groq"} <= set(MODULES)

    @pytest.mark.parametrize("module", inside("plugins"))
    def test_a_plugin_sees_the_public_names(self, module: str) -> None:
        assert own(imports_of_all()[module].all) <= PUBLIC

    @pytest.mark.parametrize("module", inside("testing"))
    def test_the_kit_for_authors_sees_no_more_than_they_do(self, module: str) -> None:
        seen = own(imports_of_all()[module].all) - below(imports_of_all()[module].all, "hfs_providers.testing")
        asked = {"contract.http_api", "contract.protocols", "core.inventory", "calls.verdicts", "clients.families"}
        assert seen <= PUBLIC | {f"hfs_providers.{name}" for name in asked}

    @pytest.mark.parametrize("module", inside("agents"))
    def test_agents_use_the_public_names(self, module: str) -> None:
        seen = own(imports_of_all()[module].all) - below(imports_of_all()[module].all, "hfs_providers.agents")
        assert seen <= PUBLIC | {"hfs_providers.core.inventory"}

    def test_no_modules_import_one_another(self) -> None:
        graph = {module: own(imports_of_all()[module].eager) - {module} for module in MODULES}
        assert set(TopologicalSorter(graph).static_order()) == set(graph)

    def test_only_the_registry_uses_pluggy_s_manager(self) -> None:
        users = {
            module
            for module, path in MODULES.items()
            if any(
                "PluginManager" in (getattr(node, "attr", None), getattr(node, "id", None), getattr(node, "name", None))
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            )
        }
        assert users == {"hfs_providers.core.registry"}

    def test_keycycle_is_imported_in_one_place(self) -> None:
        users = {module for module, imports in imports_of_all().items() if below(imports.all, "keycycle")}
        assert users == {"hfs_providers.calls._keycycle"}

    def test_agno_s_model_classes_are_bound_in_one_place(self) -> None:
        users = {module for module, imports in imports_of_all().items() if "agno.models.base" in imports.all}
        # The chain is an Agno model itself, and what makes it asks whether an entry is one. None of these binds any.
        others = {f"hfs_providers.{name}" for name in ("calls.agno_retries", "fallback.chain", "fallback.builder")}
        assert {module for module in users if not module.startswith("hfs_providers.agents.")} == {
            "hfs_providers.calls.model",
            *others,
        }

    def test_no_module_imports_a_provider_s_model_class_or_sdk(self) -> None:
        neutral = {"agno.models.base", "agno.models.message", "agno.models.response", "agno.models.metrics"}
        sdks = ("groq", "openai", "cerebras", "google")
        for module, imports in imports_of_all().items():
            assert below(imports.eager, "agno.models") <= neutral, module
            assert below(imports.eager, *sdks) == set(), module

    def test_the_pool_needs_no_third_party(self) -> None:
        third = {
            name.partition(".")[0] for name in imports_of_all()["hfs_providers.keys.pool"].all
        } - sys.stdlib_module_names
        assert third <= {"hfs_providers"}

    def test_the_name_of_a_variable_is_written_in_one_place(self) -> None:
        names = {value for name, value in vars(environment).items() if name.isupper()}
        for module, path in MODULES.items():
            texts = {
                node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)
            }
            assert module == environment.__name__ or not texts & names, module

    def test_the_errors_need_nothing_else(self) -> None:
        third = {
            name.partition(".")[0] for name in imports_of_all()["hfs_providers.contract.errors"].all
        } - sys.stdlib_module_names
        assert third <= {"hfs_providers"}
