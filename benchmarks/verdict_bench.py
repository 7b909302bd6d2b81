"""Measures what libraries do if a provider answers with an error:

    python -m benchmarks.verdict_bench [--install DIR] [--write]

A simulated provider answers each library with each of 60 error bodies. The library has two keys and a second model.
What it does with the key, the call and the model is compared with the right behaviour.
"""

# ruff: noqa: S603  the processes started here are interpreters with modules of this package

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console

from benchmarks.verdicts.bodies import Body, FaultyServer, bodies
from benchmarks.verdicts.judged import Judged, judged
from benchmarks.verdicts.table import Results, read_results, write_document, write_results
from benchmarks.verdicts.talk import Outcome, Setup

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "verdicts.json"
DOCUMENT = ROOT / "docs" / "comparison.md"
_WITHIN = 90.0
_MODELS = {"gemini": ["gemini-2.5-flash", "gemini-2.5-pro"]}
_OTHER_MODELS = ["first-model", "second-model"]


@dataclass(frozen=True)
class Library:
    """A library that is measured.

    Args:
        name: its name in the table.
        module: the program that runs it.
        package: the distribution whose version is shown.
        needs: the requirements for its own environment; none if it runs in this one.
        falls_back: whether it can fall back to another model.
    """

    name: str
    module: str
    package: str
    needs: Sequence[str] = field(default=())
    falls_back: bool = True


LIBRARIES = (
    Library("hfs-providers", "with_ours", "hfs-providers"),
    Library("LiteLLM Router", "with_litellm", "litellm", ("litellm>=1.80,<2",)),
    Library("Agno", "with_agno", "agno"),
    Library(
        "pydantic-ai",
        "with_pydantic_ai",
        "pydantic-ai-slim",
        ("pydantic-ai-slim[openai,groq,google]>=2,<3",),
    ),
    Library("keycycle", "with_keycycle", "keycycle", falls_back=False),
)


class Played:
    """A library in its own process, in an empty directory."""

    def __init__(self, library: Library, python: str, directory: Path) -> None:
        self.library = library
        self._command = [python, "-m", f"benchmarks.verdicts.{library.module}"]
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None

    def trial(self, setup: Setup) -> Outcome | None:
        """The outcome, or None if there was none in time."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=_environment(self._directory),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(asdict(setup)), file=process.stdin, flush=True)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(_WITHIN) else ""
        if not line:
            ended = process.poll() is not None
            self.close()
            if ended:
                raise RuntimeError(f"{self.library.name} ended without an answer: run {' '.join(self._command)}")
            return None
        return Outcome(**json.loads(line))

    def close(self) -> None:
        """End the process. The next trial starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def main() -> int:
    """Print the misses, and write them into the document if requested."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdict_bench", description=__doc__)
    parser.add_argument(
        "--install",
        type=Path,
        metavar="DIR",
        help="the directory of the environments for libraries that need one; missing environments are created",
    )
    parser.add_argument("--only", nargs="+", choices=[each.name for each in LIBRARIES], help="only these libraries")
    parser.add_argument("--bodies", metavar="TEXT", help="only errors whose provider and name contain this")
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"write {RESULTS.relative_to(ROOT)} and the tables of {DOCUMENT.relative_to(ROOT)}",
    )
    parser.add_argument("--render", action="store_true", help="write the tables again from the last results")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    if arguments.render:
        write_document(DOCUMENT, bodies(), read_results(RESULTS))
        return 0
    chosen = [body for body in bodies() if (arguments.bodies or "") in body.id]
    libraries = [each for each in LIBRARIES if not arguments.only or each.name in arguments.only]
    pythons = {each.name: _python(each, arguments.install, console) for each in libraries}
    played = [each for each in libraries if pythons[each.name]]
    begin = time.perf_counter()
    with ThreadPoolExecutor(max_workers=len(played) or 1) as pool:
        results = dict(
            zip(
                [each.name for each in played],
                pool.map(lambda each: _play(each, pythons[each.name], chosen), played),
                strict=True,
            )
        )
    for body in chosen:
        for name, rows in results.items():
            for miss in rows[body.id].misses:
                console.print(f"{body.id}  [bold]{name}[/]  {miss}", highlight=False)
    for name, rows in results.items():
        offered = [row for row in rows.values() if row.offered]
        wrong = sum(bool(row.misses) for row in offered)
        console.print(f"{name}: {len(offered) - wrong} of {len(offered)} right")
    console.print(f"[dim]{time.perf_counter() - begin:.0f} s[/]")
    if arguments.write:
        if arguments.only or arguments.bodies or len(played) < len(libraries):
            parser.error("--write needs every library and every error: leave out --only and --bodies, give --install")
        versions = {each.name: _version(pythons[each.name], each.package) for each in played}
        found = Results(time.strftime("%Y-%m-%d", time.gmtime()), versions, results)
        write_results(RESULTS, found)
        write_document(DOCUMENT, chosen, found)
    return 0


def _play(library: Library, python: str, chosen: Sequence[Body]) -> dict[str, Judged]:
    found = {}
    with tempfile.TemporaryDirectory() as directory, FaultyServer() as server:
        player = Played(library, python, Path(directory))
        try:
            for body in chosen:
                models = _MODELS.get(body.provider, _OTHER_MODELS)
                server.play(body, models[0])
                keys = [server.new_key(body.provider) for _ in range(2)]
                outcome = player.trial(Setup(body.provider, server.base_url(body.provider), keys, models))
                found[body.id] = (
                    Judged(call=f"no answer in {_WITHIN:.0f} s")
                    if outcome is None
                    else judged(body, outcome, list(server.asked), models, falls_back=library.falls_back)
                )
        finally:
            player.close()
    return found


def _python(library: Library, install: Path | None, console: Console) -> str:
    """The interpreter for a library; empty if it needs an environment and `--install` is missing."""
    if not library.needs:
        return sys.executable
    if install is None:
        console.print(f"[yellow]{library.name} is left out: it needs --install[/]")
        return ""
    place = install.resolve() / library.package
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not python.exists():
        console.print(f"[dim]installing {library.name} ...[/]")
        venv.create(place, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *library.needs], check=True)
    return str(python)


def _version(python: str, package: str) -> str:
    program = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def _environment(directory: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in os.environ}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "HOME": str(directory),
        "XDG_CONFIG_HOME": str(directory),
        "XDG_STATE_HOME": str(directory),
        # Without it, LiteLLM downloads prices when it is imported.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "AGNO_TELEMETRY": "false",
    }


if __name__ == "__main__":
    sys.exit(main())
