"""`new-plugin`: writes a provider package that installs and passes its tests unchanged."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Annotated, Any

import typer

from hfs_providers.cli import output
from hfs_providers.contract.environment import env_name
from hfs_providers.families.model_classes import SDKS, Sdk, lacks_of, needed_of, sdk_of

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_RESERVED = {
    "all": "it is an extra of hfs-providers",
    "test": "the package's own extra for tests has that name",
    "hfs": "variables that begin with HFS_ are the library's",
    "num": "variables that begin with NUM_ count keys",
    "expected": "variables that begin with EXPECTED_ count keys",
}
_OPENAI_LIKE = "agno.models.openai.like:OpenAILike"


def new_plugin(
    name: Annotated[str, typer.Argument(help="The provider's name, as in `hfs-providers ask --provider NAME`.")],
    sdk: Annotated[
        str | None, typer.Option(help="The distribution that the model class needs.", show_default=False)
    ] = None,
    model_class: Annotated[
        str,
        typer.Option(help=f"The Agno model class, as agno.models.x:X. By default {_OPENAI_LIKE}.", show_default=False),
    ] = _OPENAI_LIKE,
    keyless: Annotated[bool, typer.Option("--keyless", help="The provider takes endpoints rather than keys.")] = False,
    base_url: Annotated[str | None, typer.Option(help="The provider's address.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="The default model.", show_default=False)] = None,
    into: Annotated[Path, typer.Option(help="The directory to write the package's directory into.")] = Path("."),
) -> None:
    """Write a package for a provider of your own, with tests that pass."""
    check_name(name)
    # Agno takes a second to import, and the default class says nothing about a provider.
    found = None if model_class == _OPENAI_LIKE else _model_class(model_class, sdk is None)
    known = sdk_of(found or object) if model_class != _OPENAI_LIKE else SDKS["openai:OpenAIChat"]._replace(address=None)
    if sdk is None and known is None:
        output.fail(
            f"{model_class} uses an SDK that hfs-providers does not know",
            "Say which distribution it needs: --sdk DISTRIBUTION",
            code=2,
        )
    _check_options(sdk, base_url, model)
    used = known or Sdk(sdk or "", "own")
    own = _own(found)
    base_url = base_url or own.get("base_url") or used.address
    values = _values(name, used._replace(distribution=sdk or used.distribution), model_class, keyless, base_url)
    values["model"] = model or own.get("id") or f"{name}-large"
    values |= _lines(used, found, keyless)
    target = into / values["distribution"]
    if target.exists() or target.is_symlink():
        output.fail(f"{target} exists already", "Remove it, or give another directory: --into DIRECTORY")
    try:
        _write(target, values)
    except OSError as error:
        output.fail(f"{target} cannot be written: {error.strerror}", "Give another directory: --into DIRECTORY")
    print(f"Wrote {target}\n")
    print(f"  cd {target} && pip install -e '.[test]' && pytest\n")
    if base_url is None:
        print(f"Then set base_url in {values['module']}/__init__.py: it is a placeholder.")
    if used.client == "own":
        output.note(
            f"the protocol of {model_class} is not known{f' ({used.why})' if used.why else ''}: its tests need a "
            "`dialect`, and the plugin may need a `client`. See docs/plugins.md, A protocol of its own"
        )


def _check_options(sdk: str | None, base_url: str | None, model: str | None) -> None:
    """End the command if one of the options is invalid."""
    if sdk is not None and not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", sdk):
        output.fail(f"--sdk: {sdk!r} is not the name of a distribution", "Give its name on the package index", code=2)
    if base_url is not None and not re.fullmatch(r"https?://[^\s\"\\]+", base_url):
        output.fail(
            f"--base-url: {base_url!r} is not an http(s) address", "Give one like https://api.example.com/v1", code=2
        )
    if model is not None and not re.fullmatch(r"[^\s\"\\]+", model):
        output.fail(f"--model: {model!r} is not a model id", "Give the provider's own id of a model", code=2)


def check_name(name: str) -> None:
    """End the command if `name` cannot be a new provider's name."""
    if not _NAME.fullmatch(name) or len(name) > 40:
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:40].strip("-")
        hint = f"Try {near}" if _NAME.fullmatch(near) else "Use one like acme"
        output.fail(f"{name!r} cannot be a provider's name: lowercase letters, digits and single dashes", hint, code=2)
    if name in _RESERVED:
        output.fail(f"{name!r} cannot be a provider's name: {_RESERVED[name]}", "Try another", code=2)
    for point in metadata.entry_points(group="hfs_providers", name=name):
        where = f" by {point.dist.name}" if point.dist is not None else ""
        output.fail(f"a provider {name!r} is installed already{where}", "Try another name, or uninstall that", code=2)


def _model_class(path: str, needed: bool) -> type[Any] | None:
    """The class at `module:name`; None if its SDK is not installed, unless it is `needed`."""
    found: object = None
    module, _, name = path.partition(":")
    if re.fullmatch(r"\w+(\.\w+)*:\w+", path):
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError as error:
            if not isinstance(error, ModuleNotFoundError) or not f"{module}.".startswith(f"{error.name}."):
                if needed:
                    said = " ".join(str(error).split())
                    output.fail(f"{path} cannot be imported: {said}", "Install its SDK, or name it: --sdk NAME", code=2)
                return None
    if not isinstance(found, type):
        output.fail(f"--model-class: there is no class {path!r}", "Name one as agno.models.x:X", code=2)
    return found


def _own(found: type[Any] | None) -> dict[str, str]:
    """The address and the model that a model class has by default."""
    given = {name: getattr(found, name, None) for name in ("base_url", "id")}
    return {name: text for name, text in given.items() if isinstance(text, str) and text != "not-provided"}


def _values(name: str, used: Sdk, model_class: str, keyless: bool, base_url: str | None) -> dict[str, str]:
    from hfs_providers import __version__

    upper, sdk = env_name(name), used.distribution
    endpoint = "ENDPOINT_1=http://gpu-1:8000/v1" if keyless else "API_KEY_1=..."
    return {
        "name": name,
        "title": name.replace("-", " ").title(),
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        "module": f"hfs_providers_{name.replace('-', '_')}",
        "distribution": f"hfs-providers-{name}",
        "version": __version__,
        "sdk": sdk,
        "class_home": "".join(f", {_quoted(_requirement(each))}" for each in _homes(model_class)),
        "requirements": ", ".join(_quoted(_requirement(each)) for each in (*used.besides, sdk)),
        "model_class": model_class,
        "base_url": base_url or f"https://api.{name}.example/v1",
        "variables": f"NUM_{upper}=1 {upper}_{endpoint}",
    }


def _homes(model_class: str) -> list[str]:
    """The distribution that has a model class which is not Agno's own, if there is only one."""
    top = model_class.partition(":")[0].partition(".")[0]
    # Agno comes with this library. Asking for all modules takes a while.
    found = sorted(set(metadata.packages_distributions().get(top, ()))) if top != "agno" else []
    if top != "agno" and len(found) != 1:
        output.note(f"add the package that has {model_class} to `dependencies` in pyproject.toml")
    return found if len(found) == 1 else []


def _requirement(distribution: str) -> str:
    try:
        return f"{distribution}>={metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        return distribution


def _lines(used: Sdk, found: type[Any] | None, keyless: bool) -> dict[str, str]:
    """The optional lines of the module and of its test."""
    params = {**used.params, **needed_of(found)}
    more = [f"sdk_module={_quoted(used.module)}"] if used.module else []
    more += [f"client={_quoted(used.client)}"] if used.client != "stainless" else []
    more += ['openai_path=""'] if used.chat else []
    more += [f"model_params={_written(params)}"] if params else []
    more += [f"stream_params={_written(used.streams)}"] if used.streams else []
    more += ["keyless=True"] if keyless else []
    lacks = {"successors": "one model is named so far", **lacks_of(used, found)}
    entries = "".join(f"        {_quoted(name)}: {_quoted(why)},\n" for name, why in lacks.items())
    one = "{" + ", ".join(f"{_quoted(name)}: {_quoted(why)}" for name, why in lacks.items()) + "}"
    return {
        "more": "".join(f"\n    {line}," for line in more),
        "lacks": one if len(lacks) == 1 else "{\n" + entries + "    }",
    }


def _quoted(text: str) -> str:
    return json.dumps(text)


def _written(params: Mapping[str, object]) -> str:
    return "{" + ", ".join(f"{_quoted(name)}: {_literal(value)}" for name, value in params.items()) + "}"


def _literal(value: object) -> str:
    if isinstance(value, Mapping):
        return _written(value)
    return _quoted(value) if isinstance(value, str) else repr(value)


def _write(target: Path, values: dict[str, str]) -> None:
    """Write the package to a temporary place first, so that nothing is left half-written."""
    module = values["module"]
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{module}/__init__.py": "module.py",
        f"tests/test_{module}.py": "test_plugin.py",
        ".ci/run": "ci_run",
    }
    draft = Path(tempfile.mkdtemp(prefix=".new-plugin-", dir=target.parent))
    try:
        for path, template in files.items():
            file = draft / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_filled(template, values), encoding="utf-8")
        (draft / module / "py.typed").touch()
        (draft / ".ci" / "run").chmod(0o755)
        draft.chmod(0o755)
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _filled(template: str, values: dict[str, str]) -> str:
    text = resources.files("hfs_providers.cli").joinpath("templates", f"{template}.tmpl").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], text)
