"""`new-plugin`: writes a provider package that installs and passes its tests as it is."""

from __future__ import annotations

import re
import shutil
import tempfile
from importlib import metadata, resources
from pathlib import Path
from typing import Annotated

import typer

from hfs_providers.cli import output
from hfs_providers.cli.model_class import ModelClass, UnknownModelClassError, look_at
from hfs_providers.contract.environment import env_name

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_RESERVED = {
    "all": "it is an extra of hfs-providers",
    "test": "the package's own extra for tests has that name",
    "hfs": "variables that begin with HFS_ are the library's",
    "num": "variables that begin with NUM_ count keys",
    "expected": "variables that begin with EXPECTED_ count keys",
}
_CLIENTS = {
    "openai": "stainless",
    "groq": "stainless",
    "cerebras-cloud-sdk": "stainless",
    "google-genai": "google_genai",
}
_OPENAI_LIKE = "agno.models.openai.like:OpenAILike"


def new_plugin(
    name: Annotated[str, typer.Argument(help="The provider's name, as in `hfs-providers ask --provider NAME`.")],
    sdk: Annotated[
        str | None, typer.Option(help="The distribution that the model class needs.", show_default=False)
    ] = None,
    model_class: Annotated[str, typer.Option(help="The Agno model class, as agno.models.x:X.")] = _OPENAI_LIKE,
    keyless: Annotated[bool, typer.Option("--keyless", help="The provider takes endpoints rather than keys.")] = False,
    base_url: Annotated[str | None, typer.Option(help="The provider's address.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="The default model.", show_default=False)] = None,
    into: Annotated[Path, typer.Option(help="The directory to write the package's directory into.")] = Path("."),
) -> None:
    """Write a package for a provider of your own, with tests that pass."""
    check_name(name)
    try:
        found = look_at(model_class)
    except UnknownModelClassError as error:
        output.fail(
            f"--model-class: {error}", "pip show agno lists what is installed; agno.models.* has the classes", code=2
        )
    if sdk is None and not found.speaks_openai:
        output.fail(
            f"{model_class} is not built on the openai SDK",
            "Say which distribution it needs: --sdk DISTRIBUTION",
            code=2,
        )
    if sdk is not None and not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", sdk):
        output.fail(f"--sdk: {sdk!r} is not the name of a distribution", "Give its name on the package index", code=2)
    if base_url is not None and not re.fullmatch(r"https?://[^\s\"\\]+", base_url):
        output.fail(
            f"--base-url: {base_url!r} is not an http(s) address", "Give one like https://api.example.com/v1", code=2
        )
    if model is not None and not re.fullmatch(r"[^\s\"\\]+", model):
        output.fail(f"--model: {model!r} is not a model id", "Give the provider's own id of a model", code=2)
    values = _values(name, sdk or "openai", model_class, keyless, base_url, model, found)
    target = into / values["distribution"]
    if target.exists() or target.is_symlink():
        output.fail(f"{target} exists already", "Remove it, or give another directory: --into DIRECTORY")
    try:
        _write(target, values)
    except OSError as error:
        output.fail(f"{target} cannot be written: {error.strerror}", "Give another directory: --into DIRECTORY")
    print(f"Wrote {target}\n")
    print(f"  cd {target} && pip install -e '.[test]' && pytest\n")
    if base_url is None and "base_url" not in found.defaults:
        print(f"Then set base_url in {values['module']}/__init__.py: it is made up.")
    if not found.speaks_openai:
        output.note(
            f"{model_class} is not known to speak like OpenAI: its tests need a `dialect`, and maybe `client`. "
            "See docs/plugins.md, A protocol of its own"
        )


def check_name(name: str) -> None:
    """End the program where `name` cannot be a new provider's."""
    if not _NAME.fullmatch(name) or len(name) > 40:
        near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-0123456789")[:40].strip("-")
        hint = f"Try {near}" if _NAME.fullmatch(near) else "Use one like acme"
        output.fail(f"{name!r} cannot be a provider's name: small letters, digits and single dashes", hint, code=2)
    if name in _RESERVED:
        output.fail(f"{name!r} cannot be a provider's name: {_RESERVED[name]}", "Try another", code=2)
    for point in metadata.entry_points(group="hfs_providers", name=name):
        where = f" by {point.dist.name}" if point.dist is not None else ""
        output.fail(f"a provider {name!r} is installed already{where}", "Try another name, or uninstall that", code=2)


def _values(
    name: str, sdk: str, model_class: str, keyless: bool, base_url: str | None, model: str | None, found: ModelClass
) -> dict[str, str]:
    from hfs_providers import __version__

    upper = env_name(name)
    given = found.defaults.get("id", "not-provided")
    client = "stainless" if found.speaks_openai else _CLIENTS.get(sdk, "own")
    more = [f'client="{client}"'] if client != "stainless" else []
    more += ["keyless=True"] if keyless else []
    try:
        requirement = f"{sdk}>={metadata.version(sdk)}"
    except metadata.PackageNotFoundError:
        requirement = sdk
    endpoint = "ENDPOINT_1=http://gpu-1:8000/v1" if keyless else "API_KEY_1=..."
    return {
        "name": name,
        "title": name.replace("-", " ").title(),
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        "module": f"hfs_providers_{name.replace('-', '_')}",
        "distribution": f"hfs-providers-{name}",
        "version": __version__,
        "sdk": sdk,
        "requirement": requirement,
        "model_class": model_class,
        "base_url": base_url or found.defaults.get("base_url") or f"https://api.{name}.example/v1",
        "model": model or (f"{name}-large" if given == "not-provided" else given),
        "variables": f"NUM_{upper}=1 {upper}_{endpoint}",
        "more": "".join(f"\n    {line}," for line in more),
    }


def _write(target: Path, values: dict[str, str]) -> None:
    """Write the package beside its place first, so that nothing is left half-written."""
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
