"""Finds the model classes of Agno for which `new-plugin` writes a plugin that passes its suite.

    python -m benchmarks.families                      every class of the installed Agno
    python -m benchmarks.families cohere groq:Groq     the classes of these packages, or these classes
    python -m benchmarks.families --write              every class, and write the tables in docs/plugins.md

Each class takes half a minute. The SDK of a class has to be installed; a class whose SDK is missing is listed as such.
It exits with 1 if a class fails whose SDK is known to `hfs_providers.families.model_classes`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from rich.console import Console

DOCUMENT = Path(__file__).parents[1] / "docs" / "plugins.md"
BEGIN, END = "<!-- python -m benchmarks.families --write -->\n", "<!-- end -->\n"
TIMEOUT = 900
"""Seconds for the suite of one class."""


class Result(NamedTuple):
    """The result for one class.

    Args:
        name: `package:Class`.
        client: the family that the plugin names, or `none`.
        sdk: the distribution, or empty.
        why: why it does not pass, in one line; empty if it does.
    """

    name: str
    client: str
    sdk: str
    why: str


def classes() -> Iterator[str]:
    """The model classes of the installed Agno, as `package:Class`, whether or not their SDKs are installed."""
    import agno.models

    for package in pkgutil.iter_modules(agno.models.__path__):
        if not package.ispkg:
            continue
        spec = importlib.util.find_spec(f"agno.models.{package.name}")
        inside = pkgutil.iter_modules(spec.submodule_search_locations if spec is not None else ())
        # One package exports nothing.
        homes = [package.name] if any(_classes_in(package.name)) else [f"{package.name}.{m.name}" for m in inside]
        yield from (f"{home}:{name}" for home in homes for name in _classes_in(home))


def _classes_in(package: str) -> Iterable[str]:
    from agno.models.base import Model

    spec = importlib.util.find_spec(f"agno.models.{package}")
    assert spec is not None
    assert spec.origin is not None
    named = _exported(Path(spec.origin))
    try:
        module = importlib.import_module(f"agno.models.{package}")
    except Exception:  # whatever an SDK raises when it is missing
        return named
    # A package may leave one of its own out of `__all__`.
    own = [name for name, item in vars(module).items() if str(getattr(item, "__module__", "")).startswith(spec.name)]
    found = {name: getattr(module, name, None) for name in (*named, *own)}
    return [name for name, item in found.items() if isinstance(item, type) and issubclass(item, Model)]


def _exported(source: Path) -> list[str]:
    """The names in `__all__`, without importing anything."""
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def tried(name: str) -> Result:
    """Generate a plugin for a class and run its suite."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        command = ["new-plugin", "newly-made", "--model-class", f"agno.models.{name}", "--into", folder]
        made = _run(work, "-m", "hfs_providers", *command)
        if made.returncode != 0:
            return Result(name, "none", "", _first_line(made.stderr))
        package = work / "hfs-providers-newly-made"
        client, sdk = _said(package)
        if client == "own":
            return Result(name, client, sdk, _why(name) or "no family for its SDK")
        _install(package, work / "site")
        suite = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--tb=no"]
        try:
            ran = _run(package, *suite, site=work / "site")
        except subprocess.TimeoutExpired:
            return Result(name, client, sdk, f"its suite did not end within {TIMEOUT} s")
        failed = [line.partition("::")[2].partition("::")[2] for line in ran.stdout.splitlines() if "FAILED" in line]
        why = "" if ran.returncode == 0 else f"{len(failed)} checks, as {failed[0]}" if failed else "no check could run"
        return Result(name, client, sdk, why.partition(" - ")[0])


def _why(name: str) -> str:
    """Why there is no family for a class, if that is known."""
    from hfs_providers.families.model_classes import sdk_of

    package, _, own = name.partition(":")
    known = sdk_of(getattr(importlib.import_module(f"agno.models.{package}"), own))
    return known.why if known is not None else ""


def _said(package: Path) -> tuple[str, str]:
    """The family and the distribution that a generated plugin names."""
    tree = ast.parse((package / "hfs_providers_newly_made" / "__init__.py").read_text(encoding="utf-8"))
    [call] = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and "KeyedProvider" in ast.dump(node.func)]
    given = {k.arg: k.value.value for k in call.keywords if k.arg and isinstance(k.value, ast.Constant)}
    return str(given.get("client", "stainless")), str(given.get("sdk", ""))


def _install(package: Path, site: Path) -> None:
    """Write the metadata by which the package is found as if it were installed."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / "hfs_providers_newly_made-0.1.0.dist-info"
    info.mkdir(parents=True)
    extras = "".join(f"Provides-Extra: {extra}\n" for extra in project["optional-dependencies"])
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n{extras}")
    [(name, target)] = project["entry-points"]["hfs_providers"].items()
    (info / "entry_points.txt").write_text(f"[hfs_providers]\n{name} = {target}\n")


def _run(folder: Path, *arguments: str, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    paths = [str(DOCUMENT.parents[1]), str(folder), *([str(site)] if site else [])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(  # noqa: S603  this program's own commands
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT
    )


def _first_line(words: str) -> str:
    said = " ".join(words.split()).removeprefix("Error: ").partition(" Remedy:")[0]
    return said[:160] or "no reason"


def unmet(names: Iterable[str]) -> Iterator[str]:
    """What installed distributions require and do not have: SDKs can exclude each other, and are tried all the same."""
    for name in sorted(set(names)):
        own = _version(name)
        for needed in map(Requirement, requires(name) or () if own else ()):
            if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
                continue
            found = _version(needed.name)
            if found is None or not needed.specifier.contains(found, prereleases=True):
                yield f"{name} {own} requires `{needed.name}{needed.specifier}` and was tried with {found or 'none'}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def table(results: Iterable[Result]) -> str:
    """The results in Markdown: the classes that pass, by family and SDK, then each that does not."""
    from hfs_providers.families.model_classes import SDKS

    passed: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    failed = []
    for result in results:
        if result.why:
            failed.append(f"| `{result.name}` | {result.why.replace('|', '/')} |")
        else:
            passed[result.client, result.sdk].append(f"`{result.name}`")
    total = sum(map(len, passed.values()))
    rows = [f"| `{client}` | {sdk} | {len(names)} | {', '.join(names)} |" for (client, sdk), names in passed.items()]
    whole = [
        f"{total} of {total + len(failed)} classes of Agno {version('agno')} pass:\n",
        "| `client` | SDK | classes | in `agno.models` |",
        "|---|---|---|---|",
        *sorted(rows),
    ]
    if failed:
        whole += ["\nThe others do not pass:\n", "| in `agno.models` | why |", "|---|---|", *sorted(failed)]
    tried_sdks = [name for sdk in SDKS.values() for name in (sdk.distribution, *sdk.besides)]
    whole += [f"\n{line}." for line in unmet(tried_sdks)]
    return "\n".join(whole) + "\n"


def keep(text: str, document: Path = DOCUMENT) -> None:
    """Put the table between its marks in the document. Raises ValueError if these are not there once each, in order."""
    before, begin, rest = (whole := document.read_text(encoding="utf-8")).partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or (whole.count(BEGIN), whole.count(END)) != (1, 1):
        raise ValueError(f"{document} must have {BEGIN.strip()!r} once and {END.strip()!r} once after it")
    document.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Try the classes that are named, or all."""
    from hfs_providers.families.model_classes import SDKS

    write = "--write" in arguments
    wanted = [argument for argument in arguments if argument != "--write"]
    chosen = [name for name in classes() if not wanted or name in wanted or re.split("[:.]", name)[0] in wanted]
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    results = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for result in pool.map(tried, chosen):
            results.append(result)
            console.print(f"{result.name}: {result.why or 'passes'}")
    console.print(f"\n{table(results)}")
    if write and not wanted:
        keep(table(results))
    known = {sdk.client for sdk in SDKS.values()} - {"own"}
    return int(any(result.why and result.client in known for result in results))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
