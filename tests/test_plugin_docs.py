"""docs/plugins.md: every block of it is run, in its order, and what it says of the hooks and fields is compared."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from benchmarks import families
from benchmarks.families import BEGIN, END, keep
from hfs_providers import KeyedProvider
from hfs_providers.core import hookspecs
from hfs_providers.families import FAMILIES
from hfs_providers.testing.conformance import CAPABILITIES
from tests import warm
from tests.long import LONGEST

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    line: int
    language: str
    body: str

    @property
    def file(self) -> str | None:
        """The file that its first line names."""
        found = re.match(r"# (\S+\.\w+)\n", self.body)
        return found[1] if found else None

    @property
    def stub(self) -> bool:
        """Whether it is the signature of a hook."""
        return self.body.startswith("def ") and self.body.rstrip().endswith("...")


BLOCKS = [
    Block(TEXT[: found.start()].count("\n") + 1, found[1], found[2])
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
]

# Makes the package in the working directory found as if it were installed; the index is asked for nothing.
PIP = """
import os, pathlib, sys, tomllib
assert sys.argv[1:] == ["install", "-e", ".[test]"], sys.argv
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
info = pathlib.Path(os.environ["SITE"]) / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
info.mkdir(parents=True)
extras = "".join(f"Provides-Extra: {extra}\\n" for extra in project["optional-dependencies"])
head = f"Metadata-Version: 2.1\\nName: {project['name']}\\nVersion: {project['version']}\\n"
(info / "METADATA").write_text(head + extras)
points = "".join(f"{name} = {target}\\n" for name, target in project["entry-points"]["hfs_providers"].items())
(info / "entry_points.txt").write_text("[hfs_providers]\\n" + points)
(info.parent / "where.pth").write_text(os.getcwd())
"""


class Reader:
    """Somebody who does what the guide says: a directory, and commands of this environment."""

    def __init__(self, home: Path) -> None:
        self.home = self.cwd = home
        site, commands = home / "site", home / "bin"
        for folder in (site, commands):
            folder.mkdir()
        (home / "pip.py").write_text(PIP)
        python = warm.python()
        for name, command in {
            # Asked what is imported.
            "python": sys.executable,
            "pip": f"{python} {home / 'pip.py'}",
            "hfs-providers": f"{python} -m hfs_providers",
            **{tool: f"{python} -m {tool}" for tool in ("pytest", "ruff")},
            # Half a minute of work, which .ci/run does with a package that is made in the same way.
            "mypy": f"{python} -m mypy" if LONGEST else "true",
        }.items():
            (commands / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (commands / name).chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "HFS_"))}
        path = os.pathsep.join([str(site), str(home / "hfs-providers-sambanova"), str(ROOT)])
        self.env = {
            **kept,
            "XDG_STATE_HOME": str(site),
            "SITE": str(site),
            "PYTHONPATH": path,
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "140",
        }

    def follow(self, block: Block) -> None:
        if block.language == "console":
            self._type(block.body)
        elif block.file is not None:
            file = self.cwd / block.file
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.body)
            compile(block.body, block.file, "exec")
        else:
            lazily = "from __future__ import annotations\n" if block.stub else ""
            self._run([warm.python(), "-c", lazily + block.body])

    def _type(self, session: str) -> None:
        """Run each `$ ` line; the lines below it are in its output, in their order; `...` is any."""
        for typed in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
            command, *expected = typed.splitlines()
            said = self._run(
                ["bash", "-c", f"{command}\npwd > {self.home}/cwd"] if command[:3] == "cd " else ["bash", "-c", command]
            )
            if command.startswith("cd "):
                self.cwd = Path((self.home / "cwd").read_text().strip())
            place = 0
            for line in (each for each in expected if each != "..."):
                place = said.find(line, place)
                assert place >= 0, f"{command} did not print {line!r}, but:\n{said}"

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, cwd=self.cwd, env=self.env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader(tmp_path_factory.mktemp("reader"))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"line {block.line}")
def test_a_block_does_what_the_guide_says(reader: Reader, block: Block) -> None:
    assert block.language in ("python", "console")
    reader.follow(block)


def specified() -> dict[str, str]:
    """The signature of each hook, as its spec is written."""
    tree = ast.parse(Path(hookspecs.__file__).read_text(encoding="utf-8"))
    return {
        node.name: f"def {node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}: ..."
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and node.returns is not None
        and "hookspec" in ast.dump(node.decorator_list[0])
    }


def test_every_hook_is_described_with_its_exact_signature() -> None:
    described = [block.body.strip() for block in BLOCKS if block.stub]
    assert described == list(specified().values())


def test_every_field_of_the_base_is_in_the_table() -> None:
    table = TEXT[TEXT.index("| field |") : TEXT.index("## Without the SDK")]
    described = {
        name
        for row in table.splitlines()[2:]
        for name in re.findall(r"`(\w+)`", row.split("|")[1:2][0] if "|" in row else "")
    }
    assert described == {field.name for field in fields(KeyedProvider)}


def test_every_family_is_in_the_table_once() -> None:
    table = TEXT[TEXT.index("| `client` | SDKs |") : TEXT.index("A family also has")].strip().splitlines()[2:]
    assert all(row.count("|") == 3 for row in table)
    assert sorted(row.split("`")[1] for row in table) == sorted([*FAMILIES, "own"])


def test_the_matrix_is_written_between_its_marks_or_not_at_all(tmp_path: Path) -> None:
    document = tmp_path / "plugins.md"
    document.write_text(f"before\n{BEGIN}old\n{END}after\n")
    for _ in range(2):
        keep("new\n", document)
        assert document.read_text() == f"before\n{BEGIN}\nnew\n\n{END}after\n"
    for broken in (f"before\n{BEGIN}old\n", f"{END}before\n{BEGIN}old\n", f"{BEGIN}{END}{BEGIN}{END}", "none"):
        document.write_text(broken)
        with pytest.raises(ValueError, match="once after it"):
            keep("new\n", document)
        assert document.read_text() == broken


def test_the_matrix_names_what_was_tried_against_a_requirement(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"one": "2.0", "two": "1.5", "three": "3.0"}
    needs = {"one": ["two>=2", "two>=3 ; extra == 'more'", "gone", "three<4"], "two": None}
    monkeypatch.setattr(families, "_version", installed.get)
    monkeypatch.setattr(families, "requires", needs.get)
    assert list(families.unmet(["two", "one", "not-there", "one"])) == [
        "one 2.0 requires `two>=2` and was tried with 1.5",
        "one 2.0 requires `gone` and was tried with none",
    ]


def test_a_suite_that_does_not_end_is_one_line_of_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "_said", lambda package: ("stainless", "openai"))
    monkeypatch.setattr(families, "_install", lambda package, site: None)

    def run(folder: Path, *arguments: str, site: Path | None = None) -> subprocess.CompletedProcess[str]:
        if site is not None:
            raise subprocess.TimeoutExpired("pytest", families.TIMEOUT)
        return subprocess.CompletedProcess(arguments, 0, "", "")

    monkeypatch.setattr(families, "_run", run)
    assert families.tried("acme:Acme").why == "its suite did not end within 900 s"


def test_every_capability_can_be_read_there(reader: Reader) -> None:
    printed = subprocess.run(
        [warm.python(), "-c", next(b.body for b in BLOCKS if "CAPABILITIES" in b.body)],
        env=reader.env,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert [line.partition(":")[0] for line in printed.splitlines()] == list(CAPABILITIES)
