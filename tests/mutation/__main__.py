"""How many planted faults the tests find: `python -m tests.mutation --sample 400`.

The tests run once, with coverage, to learn which of them run which line. Then each mutant of a seeded sample is tried
by the tests that run its line, those of its own package and the fast ones first. Survivors are printed.
Nothing is changed in place: each worker has a copy of the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import coverage

from tests.mutation.mutants import Mutant, sample

ROOT = Path(__file__).parents[2]
PACKAGES = ("keys", "calls", "fallback", "usage")
FOLDERS = ("keys", "calls", "fallback", "usage", "wrapper", "sharing", "core", "plugins", "clients", "contract")
BUDGET = 60.0
"""Seconds of tests that a mutant is tried by, as they took without it; more are left out, the slowest first."""

Result = tuple[Mutant, str]


def copy_of_the_repository(target: Path) -> Path:
    """What the tests need."""
    hidden = shutil.ignore_patterns(".*", "__pycache__", "dist", "build", "venv")
    return shutil.copytree(ROOT, target, ignore=hidden)


def pytest(place: Path, *arguments: str, timeout: float | None = None) -> int | None:
    """Run tests in a copy; their exit code, None if they took too long."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    env = {**os.environ, "PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command, cwd=place, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
        return None


def learn(place: Path, folder: Path, jobs: int) -> None:
    """Run the tests once; leaves their coverage and the seconds of each that passed in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "coveragerc").write_text(
        f"[run]\nsource = hfs_providers\nrelative_files = true\ndata_file = {folder / 'coverage'}\n"
    )
    os.environ["HFS_TEST_TIMES"] = str(folder / "times.json")
    folders = [f"tests/{name}" for name in FOLDERS]
    options = ["-p", "tests.mutation.times", "--cov", "--cov-context=test", "--cov-report="]
    pytest(place, *folders, "-n", str(jobs), *options, f"--cov-config={folder / 'coveragerc'}")


def tests_of(mutant: Mutant, data: coverage.CoverageData, times: Mapping[str, float]) -> list[str]:
    """The tests that try a mutant, best first: those that run it; if it runs on import, those that run its module."""
    contexts = {
        line: {name.removesuffix("|run") for name in names} & times.keys()
        for line, names in data.contexts_by_lineno(mutant.path).items()
    }
    line = next((line for line in range(mutant.lines[0], 0, -1) if line in contexts), 0)
    found = set[str]().union(*(contexts.get(each, ()) for each in (line, *mutant.lines)))
    found = found or set().union(*contexts.values())
    own = f"tests/{mutant.package}/"
    ordered, seconds = [], 0.0
    for name in sorted(found, key=lambda name: (not name.startswith(own) or times[name] > 1, times[name], name)):
        seconds += times[name]
        if ordered and seconds > BUDGET:
            break
        ordered.append(name)
    return ordered


def attempt(mutant: Mutant, place: Path, tests: Sequence[str], times: Mapping[str, float]) -> str:
    """How a mutant ends: killed, too slow, survived or not covered."""
    if not tests:
        return "not covered"
    module, listing = place / mutant.path, place / "tests.txt"
    source = module.read_bytes()
    module.write_bytes(mutant.planted(source))
    listing.write_text("\n".join(tests))
    try:
        timeout = 30 + 3 * sum(times[name] for name in tests)
        # Without xdist: one process per mutant.
        code = pytest(
            place, "-x", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib", "@tests.txt", timeout=timeout
        )
    finally:
        module.write_bytes(source)
    return "too slow" if code is None else "survived" if code == 0 else "killed"


def report(results: Sequence[Result]) -> float:
    """Print what came of it; the share that was found, 0 to 1."""
    lived = [result for result in results if result[1] in ("survived", "not covered")]
    for mutant, ending in lived:
        print(f"{ending:<12}{mutant}")
    every, left = (Counter(mutant.package for mutant, _ in part) for part in (results, lived))
    for package in [*every, "all"]:
        total, missed = (len(results), len(lived)) if package == "all" else (every[package], left[package])
        print(f"{package:<12}{total - missed:>4} of {total:>4} killed  {(total - missed) / total:>4.0%}")
    return 1 - len(lived) / len(results)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--sample", type=int, default=400, help="number of mutants")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--packages", nargs="+", default=PACKAGES)
    parser.add_argument("--coverage", type=Path, help="a folder that keeps the coverage for the next run")
    parser.add_argument("--least", type=float, default=0.9, help="share that has to be killed, 0 to 1")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        places: SimpleQueue[Path] = SimpleQueue()
        for number in range(given.jobs):
            places.put(copy_of_the_repository(Path(temporary, str(number))))
        folder = (given.coverage or Path(temporary, "coverage")).resolve()
        if not (folder / "times.json").exists():
            learn(Path(temporary, "0"), folder, given.jobs)
        times = json.loads((folder / "times.json").read_text())
        data = coverage.CoverageData(str(folder / "coverage"))
        data.read()

        def judge(mutant: Mutant) -> Result:
            tests = tests_of(mutant, data, times)
            place = places.get()
            try:
                return mutant, attempt(mutant, place, tests, times)
            finally:
                places.put(place)

        began = time.monotonic()
        mutants = sample(ROOT, given.packages, given.sample, given.seed)
        with ThreadPoolExecutor(given.jobs) as pool:
            results = list(pool.map(judge, mutants))
    share = report(results)
    print(f"{len(results)} mutants, seed {given.seed}, {time.monotonic() - began:.0f} s")
    return 0 if share >= given.least else 1


sys.exit(main())
