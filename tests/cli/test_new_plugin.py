"""`new-plugin`: what it writes passes its own tests as written, and what it cannot write it says in words."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests import warm
from tests.cli.conftest import Cli
from tests.long import LONGEST, takes_long, takes_longest

SAMBANOVA = ("sambanova", "--model-class", "agno.models.sambanova:Sambanova")


def install(package: Path, site: Path) -> None:
    """Make the package found as if it were installed."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    extras = "".join(f"Provides-Extra: {extra}\n" for extra in project["optional-dependencies"])
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n{extras}"
    )
    [(name, target)] = project["entry-points"]["hfs_providers"].items()
    (info / "entry_points.txt").write_text(f"[hfs_providers]\n{name} = {target}\n")


def run(package: Path, *command: str) -> subprocess.CompletedProcess[str]:
    site = package.parent / "site"
    path = os.pathsep.join([str(site), str(package)])
    return subprocess.run(
        command, cwd=package, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300
    )


@takes_long  # the guide's tests do it too, and .ci/run in a fresh environment
@pytest.mark.parametrize(
    ("arguments", "lacks"),
    [
        pytest.param(SAMBANOVA, ["successors"], id="keyed", marks=takes_longest),
        pytest.param(("local-vllm", "--keyless"), ["successors", "endpoints instead of keys"], id="keyless"),
    ],
)
def test_what_it_writes_passes_its_tests_and_its_linters(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...], lacks: list[str]
) -> None:
    done = cli("new-plugin", *arguments)
    assert done.returncode == 0, done.stderr
    package = tmp_path / f"hfs-providers-{arguments[0]}"
    install(package, tmp_path / "site")
    tests = run(package, warm.python(), "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider")
    assert tests.returncode == 0, tests.stdout
    assert all(lack in tests.stdout for lack in lacks)
    for tool in (["ruff", "check", "."], ["ruff", "format", "--check", "."], *([["mypy"]] if LONGEST else [])):
        linted = run(package, warm.python(), "-m", *tool)
        assert linted.returncode == 0, linted.stdout + linted.stderr


def test_it_takes_over_what_the_class_says_of_itself(cli: Cli, tmp_path: Path) -> None:
    cli("new-plugin", *SAMBANOVA)
    written = (tmp_path / "hfs-providers-sambanova/hfs_providers_sambanova/__init__.py").read_text()
    assert 'base_url="https://api.sambanova.ai/v1"' in written
    assert 'ModelDefault("Meta-Llama-3.1-8B-Instruct")' in written
    assert 'sdk="openai"' in written


def test_an_option_goes_before_what_the_class_says(cli: Cli, tmp_path: Path) -> None:
    cli("new-plugin", *SAMBANOVA, "--base-url", "https://in.house/v1", "--model", "m/1:free")
    written = (tmp_path / "hfs-providers-sambanova/hfs_providers_sambanova/__init__.py").read_text()
    assert 'base_url="https://in.house/v1"' in written
    assert 'ModelDefault("m/1:free")' in written


CLASS = """
from agno.models.openai.like import OpenAILike
class Lumen(OpenAILike): ...
"""


def test_a_class_that_is_not_agno_s_is_among_the_requirements(cli: Cli, tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "lumen_agno-1.2.dist-info"
    site.mkdir()
    (site / "lumen_agno.py").write_text(CLASS)
    wanted = ("new-plugin", "lumen", "--model-class", "lumen_agno:Lumen")
    assert "add the package that has lumen_agno:Lumen" in cli(*wanted, "--into", "site", path=[site]).stderr
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lumen-agno\nVersion: 1.2\n")
    (info / "top_level.txt").write_text("lumen_agno\n")
    done = cli(*wanted, path=[site])
    assert "add the package" not in done.stderr
    project = tomllib.loads((tmp_path / "hfs-providers-lumen" / "pyproject.toml").read_text())["project"]
    assert project["dependencies"][1:] == ["lumen-agno>=1.2"]


def test_it_says_what_to_do_next(cli: Cli) -> None:
    done = cli("new-plugin", "acme")
    assert "cd hfs-providers-acme && pip install -e '.[test]' && pytest" in done.stdout
    assert "set base_url" in done.stdout


def test_its_readme_needs_no_index_that_has_the_library(cli: Cli, tmp_path: Path) -> None:
    cli("new-plugin", "acme")
    assert "pip install -e '.[acme]'" in (tmp_path / "hfs-providers-acme" / "README.md").read_text()


# Stands for `python3 -m venv DIRECTORY`: its tools print how they are called.
VENV = """#!/bin/sh
mkdir -p "$3/bin"
for tool in pip ruff mypy python; do
    printf '#!/bin/sh\\necho %s "$@"\\n' "$tool" > "$3/bin/$tool"
    chmod +x "$3/bin/$tool"
done
"""


@pytest.mark.parametrize(("env", "library"), [({}, "hfs-providers"), ({"HFS_PROVIDERS": "/a clone"}, "/a clone")])
def test_its_run_takes_the_library_from_where_it_is_told(
    cli: Cli, tmp_path: Path, env: dict[str, str], library: str
) -> None:
    cli("new-plugin", "acme")
    (tmp_path / "python").write_text(VENV)
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(
        [tmp_path / "hfs-providers-acme" / ".ci" / "run"],
        env={"PATH": os.environ["PATH"], "PYTHON": str(tmp_path / "python"), **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[0] == f"pip install --quiet {library} -e .[test]", done.stderr
    assert done.stdout.splitlines()[-1] == "python -m pytest -q -rs"


def test_a_wire_that_is_not_known_is_said_so(cli: Cli) -> None:
    named = ("--model-class", "agno.models.ibm:WatsonX", "--sdk", "ibm-watsonx-ai")
    done = cli("new-plugin", "watson", *named)
    assert done.returncode == 0
    assert "the protocol of agno.models.ibm:WatsonX is not known" in done.stderr


@pytest.mark.parametrize(
    ("model_class", "words"),
    [
        (
            "agno.models.groq:Groq",
            ['sdk="groq"', 'base_url="https://api.groq.com"'],
        ),
        (
            "agno.models.openai:OpenAIResponses",
            ['sdk="openai"', 'base_url="https://api.openai.com/v1"', '"use_previous_response_id": False'],
        ),
        ("agno.models.xai:xAIResponses", ['base_url="https://api.x.ai/v1"', '"use_previous_response_id": False']),
        ("agno.models.google:Gemini", ['client="google_genai"', 'sdk_module="google.genai"']),
        ("agno.models.google:GeminiInteractions", ['client="google_interactions"', 'model_params={"store": False}']),
        ("agno.models.langdb:LangDB", ['model_params={"project_id": "my-project_id"}']),
    ],
)
def test_it_knows_the_sdk_of_a_class(cli: Cli, tmp_path: Path, model_class: str, words: list[str]) -> None:
    done = cli("new-plugin", "acme", "--model-class", model_class)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "hfs-providers-acme/hfs_providers_acme/__init__.py").read_text()
    assert [word for word in words if word not in written] == []


def test_its_test_says_what_the_class_lacks(cli: Cli, tmp_path: Path) -> None:
    done = cli("new-plugin", "acme", "--model-class", "agno.models.perplexity:Perplexity")
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "hfs-providers-acme/tests/test_hfs_providers_acme.py").read_text()
    assert '"tools": "the model class sends no tools"' in written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["Groq X"], "Try groq-x"),
        (["../../etc/passwd"], "Try etc-passwd"),
        (["9lives"], "Try lives"),
        (["a--b"], "Try a-b"),
        (["ünï"], "cannot be a provider's name"),
        (["x" * 41], "cannot be a provider's name"),
        ([""], "cannot be a provider's name"),
        (["all"], "it is an extra of hfs-providers"),
        (["hfs"], "variables that begin with HFS_"),
        (["groq"], "a provider 'groq' is installed already by hfs-providers"),
        (["acme", "--model-class", "agno.models.groq:Grok"], "there is no class 'agno.models.groq:Grok'"),
        (["acme", "--model-class", "agno.models.nowhere:X"], "there is no class"),
        (["acme", "--model-class", "agno.models.groq"], "as agno.models.x:X"),
        (["acme", "--model-class", "sys:exit"], "there is no class 'sys:exit'"),
        (["acme", "--model-class", "agno.models.base:Model"], "--sdk DISTRIBUTION"),
        (["acme", "--sdk", "a b; rm"], "is not the name of a distribution"),
        (["acme", "--base-url", 'x"'], "is not an http(s) address"),
        (["acme", "--model", 'a"b'], "is not a model id"),
    ],
)
def test_what_cannot_be_is_refused_in_words_and_nothing_is_written(
    cli: Cli, tmp_path: Path, arguments: list[str], words: str
) -> None:
    before = sorted(tmp_path.iterdir())
    done = cli("new-plugin", "--", *arguments) if arguments[0].startswith("-") else cli("new-plugin", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_directory_that_is_there_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    mine = tmp_path / "hfs-providers-acme"
    mine.mkdir()
    (mine / "mine").write_text("mine")
    done = cli("new-plugin", "acme")
    assert (done.returncode, [path.name for path in mine.iterdir()]) == (1, ["mine"])
    assert "exists already" in done.stderr


def test_a_place_that_cannot_be_written_is_said(cli: Cli, tmp_path: Path) -> None:
    done = cli("new-plugin", "acme", "--into", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "cannot be written: No such file or directory" in done.stderr
