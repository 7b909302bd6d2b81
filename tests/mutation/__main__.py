"""How many planted faults the tests find: `python -m tests.mutation --sample 400`.

The tests run once, with coverage, to learn which of them run which line. Then each mutant of a seeded sample is tried
by the tests that run its line, those of its own package and the fast ones first. Survivors are printed as they are
found, except those of `equal.toml`. With `--coverage`, a run that was interrupted goes on where it ended, as long as no
source has changed. Nothing is changed in place: each worker has a copy of the repository.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

import coverage
import pytest

from tests.mutation.equal import LIST, equal_mutants
from tests.mutation.mutants import Mutant, sample

ROOT = Path(__file__).parents[2]
PACKAGES = ("keys", "calls", "fallback", "usage")
FOLDERS = (*PACKAGES, "money", "wrapper", "sharing", "core", "plugins", "clients", "contract")
BUDGET = 60.0
"""Seconds of tests that a mutant is tried by, as they took without it; more are left out, the slowest first."""

Result = tuple[Mutant, str]


def copy_of_the_repository(target: Path) -> Path:
    """What the tests need."""
    hidden = shutil.ignore_patterns(".*", "__pycache__", "dist", "build", "venv")
    return shutil.copytree(ROOT, target, ignore=hidden)


def run_tests(place: Path, *arguments: str, timeout: float | None = None) -> int | None:
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
    run_tests(place, *folders, "-n", str(jobs), *options, f"--cov-config={folder / 'coveragerc'}")


def trials_of(mutant: Mutant, data: coverage.CoverageData, times: Mapping[str, float]) -> list[str]:
    """The tests that try a mutant, best first: those that run it; if it runs on import, those that run its module.

    No test runs a module that holds only data: there it is the tests of its package.
    """
    contexts = {
        line: {name.rpartition("|")[0] for name in names} & times.keys()
        for line, names in data.contexts_by_lineno(mutant.path).items()
    }
    line = next((line for line in range(mutant.lines[0], 0, -1) if line in contexts), 0)
    found = set[str]().union(*(contexts.get(each, ()) for each in (line, *mutant.lines)))
    own = f"tests/{mutant.package}/"
    found = found or set().union(*contexts.values()) or {name for name in times if name.startswith(own)}
    ordered, seconds = [], 0.0
    for name in sorted(found, key=lambda name: (not name.startswith(own) or times[name] > 1, times[name], name)):
        seconds += times[name]
        if ordered and seconds > BUDGET:
            break
        ordered.append(name)
    return ordered


def attempt(mutant: Mutant, place: Path, tests: Sequence[str], times: Mapping[str, float]) -> str:
    """How a mutant ends: killed, survived or not covered."""
    if not tests:
        return "not covered"
    module = place / mutant.path
    source = module.read_bytes()
    module.write_bytes(mutant.planted(source))
    try:
        return "survived" if passes(place, tests, times) else "killed"
    finally:
        module.write_bytes(source)


def passes(place: Path, tests: Sequence[str], times: Mapping[str, float]) -> bool:
    """Whether no test fails or takes too long."""
    # One test that hangs is enough.
    longest = 30 + 3 * max(times[name] for name in tests)
    hangs = ["-o", f"faulthandler_timeout={longest}", "-o", "faulthandler_exit_on_timeout=true"]
    (place / "tests.txt").write_text("\n".join(tests))
    # Without xdist: one process per mutant.
    options = ["-x", "-p", "no:xdist", "-o", "addopts=--import-mode=importlib", *hangs, "@tests.txt"]
    # On a busy machine the imports alone take a while.
    ended = run_tests(place, *options, timeout=60 + 3 * sum(times[name] for name in tests))
    functions = list(dict.fromkeys(name.partition("[")[0] for name in tests))
    if ended == pytest.ExitCode.USAGE_ERROR and functions != list(tests):
        # A fault in a constant renames the tests that have it as a parameter: so all cases of their functions run.
        seconds: defaultdict[str, float] = defaultdict(float)
        for name, each in times.items():
            seconds[name.partition("[")[0]] += each
        return passes(place, functions, seconds)
    return ended == 0


def show(mutant: Mutant, ending: str) -> None:
    if ending != "killed":
        print(f"{ending:<12}{mutant}", flush=True)


def source_hash() -> str:
    """Of the package and its tests."""
    files = [file for name in ("hfs_providers", "tests") for file in sorted((ROOT / name).rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def report(results: Sequence[Result]) -> float:
    """Print what came of it; the share that was found, 0 to 1."""
    lived = [result for result in results if result[1] != "killed"]
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
    parser.add_argument("--packages", nargs="+", default=PACKAGES, help="packages that the sample is drawn from")
    parser.add_argument("--only", nargs="+", help="packages of the sample to try: all of them without it")
    parser.add_argument("--coverage", type=Path, help="a folder that keeps coverage and results for the next run")
    parser.add_argument("--least", type=float, default=0.9, help="share that has to be killed, 0 to 1")
    given = parser.parse_args()
    equal = {str(mutant) for mutant in equal_mutants(ROOT, LIST.read_text())}
    chosen = sample(ROOT, given.packages, given.sample, given.seed)
    if given.only:
        chosen = [mutant for mutant in chosen if mutant.package in given.only]
    mutants = [mutant for mutant in chosen if str(mutant) not in equal]
    with tempfile.TemporaryDirectory() as temporary:
        places: SimpleQueue[Path] = SimpleQueue()
        for number in range(given.jobs):
            places.put(copy_of_the_repository(Path(temporary, str(number))))
        folder = (given.coverage or Path(temporary, "coverage")).resolve() / source_hash()
        if not (folder / "times.json").exists():
            learn(Path(temporary, "0"), folder, given.jobs)
        times = json.loads((folder / "times.json").read_text())
        data = coverage.CoverageData(str(folder / "coverage"))
        data.read()

        if not passes(Path(temporary, "0"), sorted(times, key=lambda name: times[name])[:20], times):
            raise SystemExit("tests fail without a fault: then each mutant would seem to be killed")

        def judge(mutant: Mutant) -> Result:
            tests = trials_of(mutant, data, times)
            place = places.get()
            try:
                return mutant, attempt(mutant, place, tests, times)
            finally:
                places.put(place)

        began = time.monotonic()
        known = folder / "results.txt"
        known.touch()
        # The last line may be torn: it is no mutant, which is then tried again.
        endings = dict(line.split("\t", 1)[::-1] for line in known.read_text().splitlines() if "\t" in line)
        results = [(mutant, endings[str(mutant)]) for mutant in mutants if str(mutant) in endings]
        for result in results:
            show(*result)
        with ThreadPoolExecutor(given.jobs) as pool, known.open("a") as kept:
            todo = [pool.submit(judge, mutant) for mutant in mutants if str(mutant) not in endings]
            try:
                for done in as_completed(todo):
                    mutant, ending = done.result()
                    results.append((mutant, ending))
                    print(ending, mutant, sep="\t", file=kept, flush=True)
                    show(mutant, ending)
            finally:
                pool.shutdown(cancel_futures=True)
    share = report(results)
    left_out = f"{len(chosen) - len(mutants)} equal ones left out"
    print(f"{len(results)} mutants, {left_out}, seed {given.seed}, {time.monotonic() - began:.0f} s")
    return 0 if share >= given.least else 1


sys.exit(main())
